"""What the guest of a simulated instance shows: a scripted console, and a small screen."""

from __future__ import annotations

import struct
import zlib

from targets.base import BootReport, BootVerdict, Status
from targets.simulated_faults import Fault
from targets.simulated_store import Entry

_POWER_ON = "clonejob guest: power on\r\n"
_NO_BOOT = "No bootable device."
_WIDTH, _HEIGHT = 64, 40


def report(entry: Entry | None, status: Status | None, fault: Fault | None, now: float) -> BootReport:
    """BOOTED as soon as the instance is READY, unless a fault has it not boot at all, or ``delay_s`` later."""
    if entry is None or status is not Status.READY:
        return BootReport(BootVerdict.WAITING)
    if fault is not None and fault.fault == "no_boot":
        return BootReport(BootVerdict.NO_BOOT, _NO_BOOT, None, "scripted fault", 0.0, 0.0)
    late_s = fault.delay_s if fault is not None and fault.fault == "slow" else 0.0
    if late_s and now < entry.ready_at + late_s:
        return BootReport(BootVerdict.WAITING, _POWER_ON, None, "", 0.0, 0.0)
    console = f"{_POWER_ON}clonejob guest: BOOTED hostname={entry.hostname} data=simulated\r\n"
    return BootReport(BootVerdict.BOOTED, console, late_s, "", 0.0, late_s)


def screen(entry: Entry) -> bytes:
    """A PNG of 64 by 40 pixels in shades that follow from the instance's uid: the same instance, the same screen."""
    shade = int(entry.uid[:2], 16)
    rows = b"".join(b"\0" + bytes((shade + row + column) % 256 for column in range(_WIDTH)) for row in range(_HEIGHT))
    header = struct.pack(">IIBBBBB", _WIDTH, _HEIGHT, 8, 0, 0, 0, 0)  # 8 bits of grey
    parts = (_chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(rows)), _chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
