"""What a partition holds, by its own magic; nothing is mounted and at most 70 KiB are read."""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass

from targets.adaptation.partitions import Partition, Read

_HEAD_BYTES = 70 * 1024
_EXT = 1024
_EXT_VALID, _EXT_ERRORS = 1, 2
_EXT_RECOVER = 0x4
_EXT_JOURNAL_DEVICE = 0x8
_EXT_64BIT = 0x80
_EXT_LARGEST_SHIFT = 6  # blocks of 64 KiB
_SWAP_AT = 4086
_BTRFS = 64 * 1024


@dataclass(frozen=True, slots=True)
class FileSystem:
    """``kind``: "ext" (2, 3 or 4), "xfs", "swap", …, or "unknown". ``uuid``: as fstab names it, empty if not known.

    ``needs_recovery``: its journal holds what is not yet in its place. ``is_clean``: it was unmounted in order and
    knows of no errors.
    """

    kind: str
    uuid: str = ""
    needs_recovery: bool = False
    is_clean: bool = True


def detect(read: Read, partition: Partition) -> FileSystem:
    """Look at the partition's head. Raises: whatever ``read`` raises."""
    head = read(partition.start_bytes, min(_HEAD_BYTES, partition.size_bytes)).ljust(_HEAD_BYTES, b"\0")
    if head[_EXT + 56 : _EXT + 58] == b"\x53\xef":
        return _ext(head, partition.size_bytes)
    if head.startswith(b"XFSB"):
        return FileSystem("xfs", _uuid(head[32:48]))
    if head[_BTRFS + 64 : _BTRFS + 72] == b"_BHRfS_M":
        return FileSystem("btrfs", _uuid(head[_BTRFS + 32 : _BTRFS + 48]))
    if head[_SWAP_AT : _SWAP_AT + 10] == b"SWAPSPACE2":
        return FileSystem("swap", _uuid(head[_EXT + 12 : _EXT + 28]))
    if head.startswith(b"LUKS\xba\xbe"):
        return FileSystem("LUKS encryption")
    if any(head[at : at + 8] == b"LABELONE" for at in range(0, 2048, 512)):
        return FileSystem("LVM")
    if head[3:11] == b"NTFS    ":
        return FileSystem("NTFS (Windows)")
    return FileSystem("fat", _fat_id(head)) if head[510:512] == b"\x55\xaa" and _fat_id(head) else FileSystem("unknown")


def _ext(head: bytes, size_bytes: int) -> FileSystem:
    (blocks,), (shift,) = struct.unpack_from("<I", head, _EXT + 4), struct.unpack_from("<I", head, _EXT + 24)
    (state,) = struct.unpack_from("<H", head, _EXT + 58)
    (incompatible,) = struct.unpack_from("<I", head, _EXT + 96)
    if incompatible & _EXT_JOURNAL_DEVICE:
        return FileSystem("ext journal")
    if incompatible & _EXT_64BIT:
        blocks |= struct.unpack_from("<I", head, _EXT + 336)[0] << 32
    if shift > _EXT_LARGEST_SHIFT or blocks << 10 + shift > size_bytes:
        return FileSystem("ext larger than its partition")
    recover = bool(incompatible & _EXT_RECOVER)
    clean = bool(state & _EXT_VALID) and not state & _EXT_ERRORS
    return FileSystem("ext", _uuid(head[_EXT + 104 : _EXT + 120]), recover, clean)


def _uuid(data: bytes) -> str:
    return str(uuid.UUID(bytes=data)) if any(data) else ""


def _fat_id(head: bytes) -> str:
    for magic_at, id_at in ((82, 67), (54, 39)):
        if head[magic_at : magic_at + 3] == b"FAT":
            number = int.from_bytes(head[id_at : id_at + 4], "little")
            return f"{number >> 16:04X}-{number & 0xFFFF:04X}"
    return ""
