"""Disk images that must be refused, made by code, each with the words that tell its user why."""

from __future__ import annotations

import struct

MIB = 2**20


def qcow2(
    *,
    magic=b"QFI\xfb",
    version=3,
    backing_offset=0,
    backing_size=0,
    cluster_bits=16,
    size=64 * MIB,
    crypt=0,
    l1_size=1,
    l1_offset=0x30000,
    refcount_offset=0x10000,
    refcount_clusters=1,
    snapshots=0,
    incompatible=0,
    refcount_order=4,
    header_length=104,
    compression=b"",
    extensions=b"",
    length=4 * 65536,
) -> bytes:
    """A qcow2 file with this header, sound if nothing is named."""
    head = struct.pack(
        ">4sIQIIQIIQQIIQ",
        *(magic, version, backing_offset, backing_size, cluster_bits, size, crypt),
        *(l1_size, l1_offset, refcount_offset, refcount_clusters, snapshots, 0),
    )
    if version != 2:
        head += struct.pack(">QQQII", incompatible, 0, 0, refcount_order, header_length)
    return (head + compression + extensions).ljust(length, b"\0")[:length]


DATA_FILE = struct.pack(">II", 0x44415441, 11) + b"/etc/shadow".ljust(16, b"\0")

HOSTILE_QCOW2 = {
    "backing file": (qcow2(backing_offset=600, backing_size=11), "backing file.*qemu-img convert"),
    "backing size only": (qcow2(backing_size=11), "backing file"),
    "data file bit": (qcow2(incompatible=4), "external data file"),
    "data file extension": (qcow2(extensions=DATA_FILE), "external data file"),
    "data file behind another": (
        qcow2(extensions=struct.pack(">II", 0x6803F857, 48) + bytes(48) + DATA_FILE),
        "external data file",
    ),
    "version 2 data file": (qcow2(version=2, extensions=DATA_FILE), "external data file"),
    "unknown feature": (qcow2(incompatible=1 << 40), "not known here"),
    "unknown compression": (
        qcow2(incompatible=8, header_length=112, compression=b"\x07" + bytes(7)),
        "compressed in a way",
    ),
    "compression without its type": (qcow2(incompatible=8), "compressed in a way"),
    "corrupt": (qcow2(incompatible=2), "marked corrupt"),
    "aes": (qcow2(crypt=1), "encrypted"),
    "luks": (qcow2(crypt=2), "encrypted"),
    "no magic": (qcow2(magic=b"QFI\0"), "no qcow2 header"),
    "version 1": (qcow2(version=1), "version 1"),
    "version 4": (qcow2(version=4), "version 4"),
    "size 0": (qcow2(size=0), "size 0"),
    "giant": (qcow2(size=2**63), "more than"),
    "one sector too large": (qcow2(size=64 * 2**40 + 512), "more than"),
    "a giant in a table of one entry": (qcow2(size=64 * 2**40), "level 1 table is too small"),
    "cluster size": (qcow2(cluster_bits=63), "damaged"),
    "clusters of a byte": (qcow2(cluster_bits=0), "damaged"),
    "huge tables": (qcow2(l1_size=2**32 - 1), "cut off|damaged"),
    "tables beyond the end": (qcow2(l1_offset=2**40), "cut off"),
    "tables not aligned": (qcow2(l1_offset=0x30001), "damaged"),
    "huge reference counts": (qcow2(refcount_clusters=2**32 - 1), "damaged.*reference count table"),
    "reference counts beyond the end": (qcow2(refcount_offset=2**40), "cut off"),
    "reference counts not aligned": (qcow2(refcount_offset=0x10001), "damaged.*reference count table"),
    "snapshots inside": (qcow2(snapshots=3), "3 snapshots inside"),
    "header length": (qcow2(header_length=8), "damaged"),
    "extension beyond the end": (qcow2(extensions=struct.pack(">II", 1, 2**31)), "damaged"),
    "cut in the header": (qcow2()[:71], "cut off"),
    "cut in version 3": (qcow2()[:100], "cut off"),
    "cut in its tables": (qcow2()[:65536], "cut off"),
    "only the magic": (b"QFI\xfb", "cut off"),
    "empty": (b"", "is empty"),
}

HOSTILE_RAW = {
    "a qcow2 header, to be found by probing": (qcow2(backing_offset=600, backing_size=11), "was named raw.*qcow2"),
    "VMDK": (b"KDMV".ljust(512, b"\0"), "VMDK"),
    "VHDX": (b"vhdxfile".ljust(512, b"\0"), "VHDX"),
    "VHD": (b"conectix".ljust(512, b"\0"), "VHD"),
    "VDI": (b"<<< Oracle VM VirtualBox Disk Image >>>".ljust(512, b"\0"), "VDI"),
    "QED": (b"QED\0".ljust(512, b"\0"), "QED"),
    "half a sector": (bytes(700), "multiple of 512"),
    "empty": (b"", "is empty"),
}
