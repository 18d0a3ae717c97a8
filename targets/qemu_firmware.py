"""The machine's firmware: a PC BIOS, or UEFI with or without secure boot, as the target details ask."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from targets.errors import UnsupportedError

VARS_FILE = "efi-vars.fd"
_EFI = "COMPUTE_ENGINE_BOOT_OPTION_EFI"
_FOLDER = Path("/usr/share/OVMF")
_INSTALL = "apt-get install -y --no-install-recommends ovmf"


@dataclass(frozen=True, slots=True)
class Firmware:
    """``code`` and ``variables`` are None for the BIOS."""

    code: Path | None = None
    variables: Path | None = None
    secure: bool = False


def firmware_of(details: Mapping[str, Any], folder: Path = _FOLDER) -> Firmware:
    """What ``bootOption`` and ``secureBoot`` ask for; BIOS if they say nothing. Raises: UnsupportedError."""
    secure = bool(details.get("secureBoot", False))
    if details.get("bootOption") != _EFI:
        if secure:
            raise UnsupportedError("Secure boot needs the boot option EFI; set bootOption, or leave secureBoot out.")
        return Firmware()
    code = folder / ("OVMF_CODE_4M.secboot.fd" if secure else "OVMF_CODE_4M.fd")
    variables = folder / ("OVMF_VARS_4M.ms.fd" if secure else "OVMF_VARS_4M.fd")
    for file in (code, variables):
        if not file.exists():
            raise UnsupportedError(
                f"The UEFI firmware {file} is not installed on this machine; as root, run: {_INSTALL}"
            )
    return Firmware(code, variables, secure)


def machine_arguments(firmware: Firmware) -> list[str]:
    """QEMU's arguments, the machine's type among them; the variables are the instance's own copy."""
    if firmware.code is None:
        return ["-machine", "pc"]
    arguments = ["-machine", "q35,smm=on" if firmware.secure else "q35"]
    if firmware.secure:  # only the firmware, in system management mode, may write the variables
        arguments += ["-global", "driver=cfi.pflash01,property=secure,value=on"]
    arguments += ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={firmware.code}"]
    return [*arguments, "-drive", f"if=pflash,unit=1,format=raw,file={VARS_FILE}"]


def keep_variables(firmware: Firmware, folder: Path) -> None:
    """Give the instance its variables, once: what it writes there stays over its restarts."""
    if firmware.variables is None or (folder / VARS_FILE).exists():
        return
    temporary = folder / f"{VARS_FILE}.tmp"
    shutil.copyfile(firmware.variables, temporary)
    temporary.rename(folder / VARS_FILE)
