"""What a QEMU machine's guest has shown: its serial console, and what the firmware says about it."""

from __future__ import annotations

import re
from pathlib import Path

from targets.base import BootReport, BootVerdict
from targets.qemu_machine import FIRMWARE_LOG, SERIAL_LOG

BOOTED_PATTERN = r"BOOTED hostname=[^\n]*\n|\blogin: "
CONSOLE_BYTES = 64 * 1024  # a Linux guest's boot fits in it
_NO_BOOT = b"No bootable device."  # SeaBIOS
# OVMF says it on the serial console: it has no shell where it is built for secure boot, elsewhere it ends in its shell,
# which may still start a system by a startup.nsh; at its prompt it waits for a person.
_UEFI_NO_BOOT, _UEFI_SHELL = b"BdsDxe: No bootable option or device was found", b"UEFI Interactive Shell"
_UEFI_PROMPT = re.compile(rb"Shell> (?:\x1b\[[0-9;]*m)*\Z")
_PROMPT_BYTES = 256
# What a guest says on its serial console that was begun to be loaded and gave up.
_GAVE_UP = (b"Kernel panic - not syncing", b"grub rescue>")


def report(folder: Path, started_at: float | None, booted: re.Pattern[bytes]) -> BootReport:
    """What the machine in ``folder``, started at ``started_at`` (Unix time), shows by now."""
    serial, written_at = _tail(folder / SERIAL_LOG)
    console = serial.decode(errors="replace")
    # The file's time is that of its last output: a bound for whatever came before.
    age_s = None if not serial or started_at is None else max(0.0, written_at - started_at)
    if match := booted.search(serial):
        # Only if the match was the last output does that time tell the boot's end.
        exact_s = age_s if match.end() == len(serial) else None
        return BootReport(BootVerdict.BOOTED, console, exact_s, "", age_s, age_s)
    if _NO_BOOT in _tail(folder / FIRMWARE_LOG)[0]:
        why = "The firmware found no bootable device."
        return BootReport(BootVerdict.NO_BOOT, console, None, why, age_s, age_s)
    if why := _uefi_gave_up(serial):
        return BootReport(BootVerdict.NO_BOOT, console, None, why, age_s, age_s)
    if said := next((each for each in _GAVE_UP if each in serial), None):
        why = f"The guest gave up: {said.decode()}"
        return BootReport(BootVerdict.NO_BOOT, console, None, why, age_s, age_s)
    return BootReport(BootVerdict.WAITING, console, None, "", age_s, age_s)


def _uefi_gave_up(serial: bytes) -> str:
    if _UEFI_NO_BOOT in serial:
        return "The UEFI firmware found nothing that it can boot."
    if _UEFI_SHELL in serial and _UEFI_PROMPT.search(serial[-_PROMPT_BYTES:]):
        return "The UEFI firmware found nothing that it can boot, and waits in its shell."
    return ""


def _tail(path: Path) -> tuple[bytes, float]:
    """The last KiB of a log and when it was written; nothing if there is none yet."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - CONSOLE_BYTES))
            return file.read(CONSOLE_BYTES), path.stat().st_mtime
    except FileNotFoundError:
        return b"", 0.0
