"""A guest of our own: 512 bytes of boot code and one config sector, so that a real disk boots without any download.

It prints on the serial console and the screen (``guest.asm`` has the source):

    CLONEJOB GUEST
    clonejob guest: power on
    clonejob guest: BOOTED hostname=<host name or NOT-ADAPTED> data=<text>

The last line comes after the boot delay of the config sector. Adapting this guest to its clone means to write the
host name into that sector.
"""

from __future__ import annotations

import base64
import os
import re
import struct
import subprocess
from pathlib import Path

SECTOR_BYTES = 512
CONFIG_LBA = 1
CONFIG_MAGIC = b"VMCF1\0"
BIOS_TICKS_PER_SECOND = 18.2065
MAX_DATA_CHARACTERS = 127
MAX_BOOT_DELAY_S = 3000.0  # the guest compares 16-bit tick counts

_CONFIG = struct.Struct("<6sH64s128s")
_HOSTNAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?")
_PARTITION_TABLE = 446
_GPT_TYPE = 0xEE

# guest.asm assembled, without the zeros at its end and the boot signature.
_BOOT_CODE = base64.b64decode(
    "+jHAjtiOwI7QvAB8+/zqE3wAAFK44wAx0s0UvsB86HcAWrgBArkCALYAuwB+zRNyTL4Afr+6fLkGAPOmdT+LHgZ+ixZsBPShbAQp"
    "0DnYcvbGBv9/AL7rfOg9AL4IfoA8AHUDvgx96C8Avhh96CkAvkh+6CMAviN96B0A6xi+63zoFQC+DH3oDwC+GH3oCQC+H33oAwD0"
    "6/2shMB0HFZQtA67BwDNELr9A7n//+yoIOH7uvgDWO5e69/DVk1DRjEAQ0xPTkVKT0IgR1VFU1QNCmNsb25lam9iIGd1ZXN0OiBw"
    "b3dlciBvbg0KAGNsb25lam9iIGd1ZXN0OiBCT09URUQgaG9zdG5hbWU9AE5PVC1BREFQVEVEACBkYXRhPQBub25lDQo="
)


def boot_sector() -> bytes:
    """Sector 0: the boot code, an empty partition table, the boot signature."""
    return _BOOT_CODE.ljust(SECTOR_BYTES - 2, b"\0") + b"\x55\xaa"


def config_sector(*, hostname: str | None = None, data: str = "cycle 1", boot_delay_s: float = 0.0) -> bytes:
    """Sector 1. ``data`` is one line of printable ASCII, 127 at most. Raises: ValueError."""
    if not 0 <= boot_delay_s <= MAX_BOOT_DELAY_S:
        raise ValueError(f"boot_delay_s must be from 0 to {MAX_BOOT_DELAY_S:g}")
    if len(data) > MAX_DATA_CHARACTERS or not data.isascii() or (data and not data.isprintable()):
        raise ValueError(f"data must be at most {MAX_DATA_CHARACTERS} printable ASCII characters")
    ticks = round(boot_delay_s * BIOS_TICKS_PER_SECOND)
    sector = _CONFIG.pack(CONFIG_MAGIC, ticks, b"", data.encode()).ljust(SECTOR_BYTES, b"\0")
    return sector if hostname is None else with_hostname(sector, hostname)


def is_config_sector(sector: bytes) -> bool:
    """Whether these 512 bytes are the config sector of our guest."""
    return len(sector) == SECTOR_BYTES and sector.startswith(CONFIG_MAGIC)


def hostname_of(sector: bytes) -> str:
    """The host name in a config sector, empty if it was never adapted."""
    name: bytes = _CONFIG.unpack_from(sector)[2]
    return name.split(b"\0", 1)[0].decode("ascii", "replace")


def with_hostname(sector: bytes, hostname: str) -> bytes:
    """The config sector with another host name. Raises: ValueError if either is not legal."""
    if not is_config_sector(sector):
        raise ValueError("not a config sector of the clonejob guest")
    if not _HOSTNAME.fullmatch(hostname):
        raise ValueError(f"host name {hostname!r} is not legal: use up to 63 letters, digits, '-' and '.'")
    magic, ticks, _, data = _CONFIG.unpack_from(sector)
    return bytes(_CONFIG.pack(magic, ticks, hostname.encode(), data)) + sector[_CONFIG.size :]


def describe_boot_sector(sector: bytes) -> str:
    """What sector 0 shows of an unknown system, in words for an error message."""
    if sector[510:512] != b"\x55\xaa":
        return "no boot sector"
    types = [sector[_PARTITION_TABLE + 16 * number + 4] for number in range(4)]
    used = [f"0x{kind:02x}" for kind in types if kind]
    if not used:
        return "a boot sector without partitions"
    if types[0] == _GPT_TYPE:
        return "a GPT partition table"
    return f"an MBR with {len(used)} partition(s) of type {', '.join(used)}"


def build_disk(
    path: str | os.PathLike[str],
    *,
    hostname: str | None = None,
    data: str = "cycle 1",
    boot_delay_s: float = 0.0,
    size_bytes: int = 8 * 2**20,
    format: str = "raw",  # noqa: A002 - the word that qemu-img and the command line use
    qemu_img: str = "qemu-img",
) -> Path:
    """Write a bootable disk of ``size_bytes`` to ``path``, sparse, replacing what is there; returns the path.

    Raises: ValueError; OSError; subprocess.CalledProcessError if qemu-img, needed for "qcow2" only, fails.
    """
    if size_bytes % SECTOR_BYTES or size_bytes < 2 * SECTOR_BYTES:
        raise ValueError(f"size_bytes must be a multiple of {SECTOR_BYTES}, at least {2 * SECTOR_BYTES}")
    if format not in ("raw", "qcow2"):
        raise ValueError(f"format {format!r} is not supported; use raw or qcow2")
    target = Path(path)
    content = boot_sector() + config_sector(hostname=hostname, data=data, boot_delay_s=boot_delay_s)
    raw = target if format == "raw" else target.with_name(f".{target.name}.raw")
    try:
        with raw.open("wb") as file:
            file.write(content)
            file.truncate(size_bytes)
        if format == "qcow2":
            command = [qemu_img, "convert", "-f", "raw", "-O", "qcow2", str(raw.absolute()), str(target.absolute())]
            # No shell, every word is ours.
            subprocess.run(command, check=True, capture_output=True, timeout=60)
    finally:
        if raw != target:
            raw.unlink(missing_ok=True)
    return target
