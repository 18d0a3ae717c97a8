from __future__ import annotations

import os
import struct

import pytest

from targets.images import ImageError, detect_format, inspect_image

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
    incompatible=0,
    refcount_order=4,
    header_length=104,
    extensions=b"",
    length=4 * 65536,
) -> bytes:
    head = struct.pack(
        ">4sIQIIQIIQQIIQ",
        *(magic, version, backing_offset, backing_size, cluster_bits, size, crypt),
        *(l1_size, l1_offset, 0x10000, 1, 0, 0),
    )
    if version != 2:
        head += struct.pack(">QQQII", incompatible, 0, 0, refcount_order, header_length)
    return (head + extensions).ljust(length, b"\0")[:length]


DATA_FILE = struct.pack(">II", 0x44415441, 11) + b"/etc/shadow".ljust(16, b"\0")

HOSTILE = {
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
    "corrupt": (qcow2(incompatible=2), "marked corrupt"),
    "aes": (qcow2(crypt=1), "encrypted"),
    "luks": (qcow2(crypt=2), "encrypted"),
    "no magic": (qcow2(magic=b"QFI\0"), "no qcow2 header"),
    "version 1": (qcow2(version=1), "version 1"),
    "version 4": (qcow2(version=4), "version 4"),
    "size 0": (qcow2(size=0), "size 0"),
    "giant": (qcow2(size=2**63), "more than"),
    "one sector too large": (qcow2(size=64 * 2**40 + 512), "more than"),
    "cluster size": (qcow2(cluster_bits=63), "damaged"),
    "huge tables": (qcow2(l1_size=2**32 - 1), "cut off|damaged"),
    "tables beyond the end": (qcow2(l1_offset=2**40), "cut off"),
    "tables not aligned": (qcow2(l1_offset=0x30001), "damaged"),
    "header length": (qcow2(header_length=8), "damaged"),
    "extension beyond the end": (qcow2(extensions=struct.pack(">II", 1, 2**31)), "damaged"),
    "cut in the header": (qcow2()[:71], "cut off"),
    "cut in version 3": (qcow2()[:100], "cut off"),
    "only the magic": (b"QFI\xfb", "cut off"),
    "empty": (b"", "is empty"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_qcow2_is_refused(tmp_path, case):
    content, message = HOSTILE[case]
    path = tmp_path / "disk.qcow2"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=message) as caught:
        inspect_image(path, "qcow2")
    assert str(caught.value).startswith("disk.qcow2: ")
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("options", [{}, {"version": 2}, {"incompatible": 0b11001}, {"size": 64 * 2**40}])
def test_good_qcow2(tmp_path, options):
    path = tmp_path / "disk.qcow2"
    path.write_bytes(qcow2(**options))
    info = inspect_image(path, "qcow2")
    assert (info.format, info.virtual_size_bytes) == ("qcow2", options.get("size", 64 * MIB))
    assert info.file_size_bytes == 4 * 65536
    assert detect_format(path) == "qcow2"


def test_raw(tmp_path):
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(1024))
    assert inspect_image(path, "raw").virtual_size_bytes == 1024
    for content, message in ((bytes(1025), "not a multiple of 512"), (b"", "empty"), (qcow2(), "was named raw")):
        path.write_bytes(content)
        with pytest.raises(ImageError, match=message):
            inspect_image(path, "raw")
    with path.open("wb") as file:
        file.truncate(2 * MIB)
    with pytest.raises(ImageError, match="more than"):
        inspect_image(path, "raw", max_virtual_size_bytes=MIB)


def test_what_is_not_a_regular_file(tmp_path):
    real = tmp_path / "real.raw"
    real.write_bytes(bytes(512))
    (tmp_path / "link").symlink_to(real)
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    cases = {
        "missing": "no such file",
        "link": "symbolic link",
        "dangling": "symbolic link",
        "folder": "regular file",
        "pipe": "regular file",
    }
    for name, message in cases.items():
        for read in (lambda path: inspect_image(path, "raw"), detect_format):
            with pytest.raises(ImageError, match=f"{name}: .*{message}"):
                read(tmp_path / name)
    with pytest.raises(ImageError, match="regular file"):
        inspect_image("/dev/zero", "raw")


def test_an_unknown_format_is_refused(tmp_path):
    with pytest.raises(ImageError, match="'vmdk' is not supported"):
        inspect_image(tmp_path / "x", "vmdk")


def test_detect_format(tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(bytes(510) + b"\x55\xaa")
    assert detect_format(path) == "raw"
    for content, message in (
        (b"hello", "not a disk image: .*--format raw"),
        (bytes(4096), "not a disk image"),
        (b"KDMV" + bytes(508), "VMDK"),
    ):
        path.write_bytes(content)
        with pytest.raises(ImageError, match=message):
            detect_format(path)
