"""A small reader of partition tables, which are hostile input: bounded, and every range is inside the disk.

MBR with logical partitions, GPT with its checksums, or a file system right on the disk. A table that contradicts
itself is refused as a whole: nothing is guessed.
"""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

SECTOR_BYTES = 512
_SIGNATURE = b"\x55\xaa"
_ENTRY = struct.Struct("<B3xB3xII")
_ENTRIES_AT, _ENTRY_BYTES = 446, 16
_GPT_TYPE = 0xEE
_EXTENDED = (0x05, 0x0F, 0x85)
_MOST_LOGICAL = 64
_GPT_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_GPT_MAGIC = b"EFI PART"
_MOST_GPT_ENTRIES = 256

Read = Callable[[int, int], bytes]  # (offset, length) -> exactly so many bytes


class PartitionTableError(Exception):
    """The table cannot be believed; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Partition:
    """``number`` as the guest counts: /dev/sda1 is 1; 0 is a disk without a table. ``type``: as in the table, in hex."""

    number: int
    start_bytes: int
    size_bytes: int
    type: str


@dataclass(frozen=True, slots=True)
class PartitionTable:
    """``scheme``: "mbr", "gpt" or "none"."""

    scheme: str
    partitions: tuple[Partition, ...]


def read_partitions(read: Read, disk_bytes: int) -> PartitionTable:
    """The partitions in the order of the table. Raises: PartitionTableError; whatever ``read`` raises."""
    if disk_bytes < 2 * SECTOR_BYTES:
        raise PartitionTableError("the disk is too small for a partition table")
    first = read(0, SECTOR_BYTES)
    entries = list(_entries(first)) if first[510:] == _SIGNATURE else []
    if any(entry[0] == _GPT_TYPE for entry in entries):
        scheme, found = "gpt", _gpt(read, disk_bytes)
    elif not any(kind for kind, _, _ in entries) or not _is_table(first):
        return PartitionTable("none", (Partition(0, 0, disk_bytes, ""),))
    else:
        scheme, found = "mbr", _mbr(read, entries, disk_bytes)
    _check(found, disk_bytes)
    return PartitionTable(scheme, tuple(found))


def _is_table(sector: bytes) -> bool:
    """A FAT boot sector ends in the same signature, but has code where the entries' flags stand."""
    return all(sector[_ENTRIES_AT + n * _ENTRY_BYTES] in (0x00, 0x80) for n in range(4))


def _entries(sector: bytes) -> Iterator[tuple[int, int, int]]:
    """(type, first sector, sectors) of the four entries of an MBR or of a link of the extended partition's chain."""
    for number in range(4):
        _, kind, start, count = _ENTRY.unpack_from(sector, _ENTRIES_AT + number * _ENTRY_BYTES)
        yield kind, start, count


def _mbr(read: Read, entries: list[tuple[int, int, int]], disk_bytes: int) -> list[Partition]:
    found, extended = [], []
    for number, (kind, start, count) in enumerate(entries, 1):
        if kind in _EXTENDED:
            extended.append(_partition(number, start, count, kind))
        elif kind:
            found.append(_partition(number, start, count, kind))
    _check([*found, *extended], disk_bytes)
    if len(extended) > 1:
        raise PartitionTableError("there are two extended partitions")
    return [*found, *(_logical(read, extended[0]) if extended else ())]


def _logical(read: Read, extended: Partition) -> Iterator[Partition]:
    """Follow the chain of boot records; each must lie further on in the extended partition, so that it ends."""
    base = extended.start_bytes // SECTOR_BYTES
    last = base + extended.size_bytes // SECTOR_BYTES
    here = base
    for number in range(5, 5 + _MOST_LOGICAL):
        sector = read(here * SECTOR_BYTES, SECTOR_BYTES)
        if sector[510:] != _SIGNATURE:
            raise PartitionTableError("the chain of logical partitions is broken")
        (kind, start, count), (link, offset, _) = list(_entries(sector))[:2]
        if kind and here + start + count > last:
            raise PartitionTableError(f"partition {number} reaches out of the extended partition")
        if kind:
            yield _partition(number, here + start, count, kind)
        if link not in _EXTENDED:
            return
        following = base + offset
        if not here < following < last:
            raise PartitionTableError("the chain of logical partitions loops or leaves the extended partition")
        here = following
    raise PartitionTableError(f"there are more than {_MOST_LOGICAL} logical partitions")


def _partition(number: int, start: int, count: int, kind: int) -> Partition:
    return Partition(number, start * SECTOR_BYTES, count * SECTOR_BYTES, f"0x{kind:02x}")


def _gpt(read: Read, disk_bytes: int) -> list[Partition]:
    """The table after the first sector, or the copy at the disk's end if that one is damaged."""
    last = disk_bytes // SECTOR_BYTES - 1
    try:
        return _gpt_at(read, 1, last)
    except PartitionTableError as error:
        try:
            return _gpt_at(read, last, last)
        except PartitionTableError:
            raise error from None


def _gpt_at(read: Read, lba: int, last: int) -> list[Partition]:
    sector = read(lba * SECTOR_BYTES, SECTOR_BYTES)
    magic, _, size, crc, _, own, _, _, _, _, entries_lba, count, entry_bytes, entries_crc = _GPT_HEADER.unpack_from(
        sector
    )
    if magic != _GPT_MAGIC or not _GPT_HEADER.size <= size <= SECTOR_BYTES or own != lba:
        raise PartitionTableError("the GPT header is missing or damaged")
    if zlib.crc32(sector[:16] + bytes(4) + sector[20:size]) != crc:
        raise PartitionTableError("the GPT header's checksum is wrong")
    if not 0 < count <= _MOST_GPT_ENTRIES or entry_bytes not in (128, 256, 512):
        raise PartitionTableError(f"the GPT has {count} entries of {entry_bytes} bytes")
    length = count * entry_bytes
    if not 0 < entries_lba <= last or entries_lba * SECTOR_BYTES + length > (last + 1) * SECTOR_BYTES:
        raise PartitionTableError("the GPT's entries lie outside of the disk")
    table = read(entries_lba * SECTOR_BYTES, length)
    if zlib.crc32(table) != entries_crc:
        raise PartitionTableError("the GPT entries' checksum is wrong")
    found = []
    for number in range(count):
        kind, _, first, final = struct.unpack_from("<16s16sQQ", table, number * entry_bytes)
        if any(kind):
            if final < first:
                raise PartitionTableError(f"partition {number + 1} ends before it begins")
            start, size_bytes = first * SECTOR_BYTES, (final - first + 1) * SECTOR_BYTES
            found.append(Partition(number + 1, start, size_bytes, str(uuid.UUID(bytes_le=kind))))
    return found


def _check(partitions: list[Partition], disk_bytes: int) -> None:
    """Every partition has a length, lies inside the disk, behind the table, and shares nothing with another."""
    for each in partitions:
        if each.size_bytes == 0 or each.start_bytes < SECTOR_BYTES:
            raise PartitionTableError(f"partition {each.number} has no size or covers the table")
        if each.start_bytes + each.size_bytes > disk_bytes:
            raise PartitionTableError(f"partition {each.number} reaches beyond the end of the disk")
    for one, other in pairwise(sorted(partitions, key=lambda each: each.start_bytes)):
        if one.start_bytes + one.size_bytes > other.start_bytes:
            raise PartitionTableError(f"partitions {one.number} and {other.number} overlap")
