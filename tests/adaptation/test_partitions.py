"""Partition tables as guests may write them: nothing outside of the disk is believed, and every walk ends."""

from __future__ import annotations

import struct
import uuid
import zlib

import pytest

from targets.adaptation.filesystems import detect
from targets.adaptation.partitions import Partition, PartitionTableError, read_partitions

SECTOR = 512
SECTORS = 4096


def entry(kind: int, start: int, count: int) -> bytes:
    return struct.pack("<B3xB3xII", 0, kind, start, count)


def boot_record(*entries: bytes) -> bytes:
    return bytes(446) + b"".join(entries).ljust(64, b"\0") + b"\x55\xaa"


def disk(**sectors: bytes) -> bytearray:
    """``s12=…`` is sector 12."""
    data = bytearray(SECTORS * SECTOR)
    for name, content in sectors.items():
        at = int(name[1:]) * SECTOR
        data[at : at + len(content)] = content
    return data


def read(data: bytearray):
    reads = []

    def at(offset: int, length: int) -> bytes:
        reads.append(offset)
        assert 0 <= offset and offset + length <= len(data), "outside of the disk"
        assert len(reads) < 200, "too many reads"
        return bytes(data[offset : offset + length])

    return read_partitions(at, len(data))


def gpt(lba: int, entries: list[tuple[int, int]], *, entries_lba: int = 2, count: int = 128, size: int = 128) -> bytes:
    table = b"".join(uuid.uuid4().bytes_le + bytes(16) + struct.pack("<QQ", *each) + bytes(80) for each in entries)
    table = table.ljust(count * size, b"\0")
    head = struct.pack("<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, 0, 0, lba, 1, 34, SECTORS - 34, bytes(16),
                       entries_lba, count, size, zlib.crc32(table))  # fmt: skip
    head = head[:16] + struct.pack("<I", zlib.crc32(head)) + head[20:]
    return head.ljust(SECTOR, b"\0"), table


PROTECTIVE = boot_record(entry(0xEE, 1, SECTORS - 1))


def test_primary_and_logical_partitions():
    found = read(disk(
        s0=boot_record(entry(0x83, 64, 100), entry(0x05, 1000, 1000)),
        s1000=boot_record(entry(0x82, 1, 50), entry(0x05, 100, 200)),
        s1100=boot_record(entry(0x83, 2, 60)),
    ))  # fmt: skip
    assert found.scheme == "mbr"
    assert [(p.number, p.start_bytes // SECTOR, p.size_bytes // SECTOR, p.type) for p in found.partitions] == [
        (1, 64, 100, "0x83"), (5, 1001, 50, "0x82"), (6, 1102, 60, "0x83"),
    ]  # fmt: skip


def test_gpt_and_its_copy_at_the_end():
    head, table = gpt(1, [(64, 163), (200, 299)])
    found = read(disk(s0=PROTECTIVE, s1=head, s2=table))
    assert found.scheme == "gpt"
    assert [(p.number, p.start_bytes // SECTOR, p.size_bytes // SECTOR) for p in found.partitions] == [
        (1, 64, 100),
        (2, 200, 100),
    ]
    last = SECTORS - 1
    copy, table = gpt(last, [(64, 163)], entries_lba=last - 32)
    found = read(disk(**{"s0": PROTECTIVE, "s1": b"garbage", f"s{last}": copy, f"s{last - 32}": table}))
    assert len(found.partitions) == 1


@pytest.mark.parametrize(
    ("sectors", "says"),
    [
        ({"s0": boot_record(entry(0x83, 64, 100), entry(0x83, 163, 10))}, "overlap"),
        ({"s0": boot_record(entry(0x83, 64, SECTORS))}, "beyond the end"),
        ({"s0": boot_record(entry(0x83, 2**32 - 1, 2**32 - 1))}, "beyond the end"),
        ({"s0": boot_record(entry(0x83, 64, 0))}, "no size"),
        ({"s0": boot_record(entry(0x83, 0, 10))}, "covers the table"),
        ({"s0": boot_record(entry(0x05, 64, 100), entry(0x0F, 500, 100))}, "two extended"),
        ({"s0": boot_record(entry(0x05, 64, 1000))}, "chain of logical partitions is broken"),
        ({"s0": boot_record(entry(0x05, 64, 1000)), "s64": boot_record(entry(0x83, 1, 9), entry(0x05, 0, 9))}, "loops"),
        ({"s0": boot_record(entry(0x05, 64, 1000)), "s64": boot_record(entry(0x83, 1, 9), entry(0x05, 2000, 9))}, "loops or leaves"),
        ({"s0": boot_record(entry(0x05, 64, 1000)), "s64": boot_record(entry(0x83, 1, 5000))}, "reaches out"),
        ({"s0": boot_record(entry(0x05, 64, 3000)), **{f"s{64 + n}": boot_record(bytes(16), entry(0x05, n + 1, 1)) for n in range(99)}}, "more than 64"),
        ({"s0": PROTECTIVE}, "missing or damaged"),
        ({"s0": PROTECTIVE, "s1": gpt(1, [(64, 99)])[0]}, "entries' checksum"),
        ({"s0": PROTECTIVE, "s1": gpt(1, [(64, 99)])[0][:50] + b"\1"}, "header's checksum"),
        ({"s0": PROTECTIVE, "s1": gpt(1, [], entries_lba=2**63)[0]}, "outside of the disk"),
        ({"s0": PROTECTIVE, "s1": gpt(1, [], count=100_000)[0]}, "100000 entries"),
        ({"s0": PROTECTIVE, "s1": gpt(1, [], count=1, size=4096)[0]}, "of 4096 bytes"),
        ({"s0": PROTECTIVE, "s1": gpt(1, [(99, 64)])[0], "s2": gpt(1, [(99, 64)])[1]}, "checksum|ends before"),
        ({"s0": PROTECTIVE, **dict(zip(("s1", "s2"), gpt(1, [(64, 2**60)]), strict=True))}, "beyond the end"),
        ({"s0": PROTECTIVE, **dict(zip(("s1", "s2"), gpt(1, [(64, 99), (80, 120)]), strict=True))}, "overlap"),
    ],
)  # fmt: skip
def test_a_table_that_contradicts_itself_is_refused(sectors, says):
    with pytest.raises(PartitionTableError, match=says):
        read(disk(**sectors))


def test_a_disk_without_a_table_is_one_partition():
    found = read(disk())
    assert found.scheme == "none"
    assert found.partitions == (Partition(0, 0, SECTORS * SECTOR, ""),)


@pytest.mark.parametrize(
    ("at", "magic", "kind"),
    [(1080, b"\x53\xef", "ext"), (0, b"XFSB", "xfs"), (65600, b"_BHRfS_M", "btrfs"), (4086, b"SWAPSPACE2", "swap"),
     (0, b"LUKS\xba\xbe", "LUKS encryption"), (512, b"LABELONE", "LVM"), (3, b"NTFS    ", "NTFS (Windows)"),
     (0, b"whatever", "unknown")],
)  # fmt: skip
def test_file_systems_by_their_magic(at, magic, kind):
    data = bytearray(80 * 1024)
    data[at : at + len(magic)] = magic
    found = detect(lambda offset, length: bytes(data[offset : offset + length]), Partition(1, 0, len(data), ""))
    assert found.kind == kind
