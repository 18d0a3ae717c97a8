"""Which accelerator to use: KVM only where a machine has been seen to boot under it.

A device that opens proves nothing: one was met that answered every question and made QEMU hang or abort.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from targets.guest import build_disk
from targets.local_files import read_json, write_json
from targets.qemu_tools import CLEAN_ENVIRONMENT, find_tool

_DEVICE = Path("/dev/kvm")
_CPUINFO = Path("/proc/cpuinfo")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_FLAGS = re.compile(r"^flags\s*:.*\b(vmx|svm)\b", re.MULTILINE)
_PROBE_TIMEOUT_S = 5.0
_BANNER = b"clonejob guest"
_FILE = "accel.json"


@dataclass(frozen=True, slots=True)
class Found:
    """``accel`` is "kvm" or "tcg"; ``why`` says what was seen."""

    accel: str
    why: str


def accelerator(root: Path, qemu_binary: str) -> Found:
    """What was found since the host started, found now if nothing was; takes at most 5 s. Raises: UnsupportedError."""
    boot_id = _BOOT_ID.read_text().strip()
    known = found_before(root)
    if known is not None:
        return known
    found = probe(qemu_binary, root)
    value = {"boot_id": boot_id, "accel": found.accel, "why": found.why}
    write_json(root / _FILE, value, durable=False)
    return found


def found_before(root: Path) -> Found | None:
    """What was found since the host started; None if nothing was."""
    try:
        known = read_json(root / _FILE) or {}
    except ValueError:
        return None
    if known.get("boot_id") != _BOOT_ID.read_text().strip():
        return None
    return Found(known["accel"], known["why"])


def probe(qemu_binary: str, folder: Path) -> Found:
    """Look at the processor, at the device, and boot our own guest. Raises: UnsupportedError if QEMU is missing."""
    if not _FLAGS.search(_CPUINFO.read_text()):
        return Found("tcg", "the processor has neither vmx nor svm")
    if not os.access(_DEVICE, os.R_OK | os.W_OK):
        return Found("tcg", f"{_DEVICE} cannot be opened; join group kvm")
    with tempfile.TemporaryDirectory(prefix="probe-", dir=folder) as place:
        disk = build_disk(Path(place) / "guest.raw")
        command = [
            find_tool(qemu_binary), "-no-user-config", "-nodefaults", "-accel", "kvm", "-cpu", "host", "-m", "64M",
            "-display", "none", "-nic", "none", "-serial", "file:serial.log",
            "-drive", f"file={disk.name},format=raw,if=virtio",
        ]  # fmt: skip
        process = subprocess.Popen(
            command, cwd=place, env=CLEAN_ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            for _ in range(int(_PROBE_TIMEOUT_S / 0.05)):
                try:
                    process.wait(0.05)
                except subprocess.TimeoutExpired:
                    pass
                else:
                    return Found("tcg", "QEMU ended when it was started with KVM")
                log = Path(place) / "serial.log"
                if log.exists() and _BANNER in log.read_bytes():
                    return Found("kvm", "a machine booted under it")
            return Found("tcg", f"a machine did not boot under KVM within {_PROBE_TIMEOUT_S:g} s")
        finally:
            process.kill()
            process.wait()
