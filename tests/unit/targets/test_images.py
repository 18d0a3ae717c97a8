from __future__ import annotations

import os
import shutil
import subprocess
import time
import tracemalloc

import pytest
from hostile_images import HOSTILE_QCOW2, HOSTILE_RAW, MIB, qcow2

from targets.images import ImageError, detect_format, inspect_image


@pytest.mark.parametrize(
    ("image_format", "case"), [("qcow2", case) for case in HOSTILE_QCOW2] + [("raw", case) for case in HOSTILE_RAW]
)
def test_hostile_images_are_refused_at_once_and_in_little_memory(tmp_path, image_format, case):
    content, message = (HOSTILE_QCOW2 if image_format == "qcow2" else HOSTILE_RAW)[case]
    path = tmp_path / f"disk.{image_format}"
    path.write_bytes(content)
    tracemalloc.start()
    began = time.process_time()
    with pytest.raises(ImageError, match=message) as caught:
        inspect_image(path, image_format)
    assert time.process_time() - began < 1
    assert tracemalloc.get_traced_memory()[1] < MIB
    tracemalloc.stop()
    assert str(caught.value).startswith(f"disk.{image_format}: ")
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"version": 2},
        {"incompatible": 0b10001},
        {"incompatible": 0b1000, "header_length": 112, "compression": b"\x01" + bytes(7)},
        {"size": 64 * 2**40, "l1_size": 2**17, "length": 3 * 65536 + MIB},
    ],
)
def test_good_qcow2(tmp_path, options):
    path = tmp_path / "disk.qcow2"
    path.write_bytes(qcow2(**options))
    info = inspect_image(path, "qcow2")
    assert (info.format, info.virtual_size_bytes) == ("qcow2", options.get("size", 64 * MIB))
    assert info.file_size_bytes == options.get("length", 4 * 65536)
    assert detect_format(path) == "qcow2"


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")
@pytest.mark.parametrize("options", ["", "compat=0.10", "cluster_size=512", "cluster_size=2M", "extended_l2=on,cluster_size=16k",
                                     "compression_type=zstd", "refcount_bits=1", "preallocation=metadata"])  # fmt: skip
def test_what_qemu_img_makes_is_accepted(tmp_path, options):
    path = tmp_path / "disk.qcow2"
    command = ["qemu-img", "create", "-q", "-f", "qcow2", *(["-o", options] if options else []), str(path), "100M"]
    subprocess.run(command, check=True)
    assert inspect_image(path, "qcow2").virtual_size_bytes == 100 * MIB


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
