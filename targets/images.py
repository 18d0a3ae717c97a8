"""Strict checks of disk images, which are hostile input.

The header is read here, by hand, before any tool opens the file: `qemu-img info` itself opened the external data file
that a qcow2 header named (CVE-2024-4467), so it is no way to find out whether an image is safe to open.
"""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

SECTOR_BYTES = 512
MOST_DISKS = 64  # of one VM
MAX_VIRTUAL_SIZE_BYTES = 64 * 2**40  # the largest disk that Compute Engine and EBS offer
FORMATS = ("qcow2", "raw")

_QCOW2_MAGIC = b"QFI\xfb"
_QCOW2_V2_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")  # up to and including snapshots_offset: 72 bytes
_QCOW2_V3_HEADER = struct.Struct(">QQQII")  # incompatible, compatible, autoclear, refcount_order, header_length
_VERSIONS = (2, 3)
_CLUSTER_BITS = range(9, 22)  # 512 bytes to 2 MiB
_MAX_REFCOUNT_ORDER = 6  # 64 bits
_INCOMPATIBLE_CORRUPT = 1 << 1
_INCOMPATIBLE_DATA_FILE = 1 << 2
_INCOMPATIBLE_KNOWN = 0b11111  # dirty, corrupt, external data file, compression type, extended L2 entries
_EXTENSION_END = 0
_EXTENSION_DATA_FILE = 0x44415441
_MAX_L1_BYTES = 32 * 2**20  # QEMU's own bound
_MAX_REFCOUNT_TABLE_BYTES = 8 * 2**20  # QEMU's own bound
# Clusters that one entry of the level 1 table stands for: a level 2 table is one cluster of entries of 8 bytes. Extended
# entries have 16, so that half as many fit; that much slack is left to QEMU's own check.
_L1_ENTRY_CLUSTERS = {bits: 1 << (bits - 3) for bits in _CLUSTER_BITS}
_COMPRESSION_TYPE_AT = 104
_COMPRESSIONS = (0, 1)  # zlib, zstd
_INCOMPATIBLE_COMPRESSION = 1 << 3
_HEAD_BYTES = 64 * 1024  # what is read of a file; headers and their extensions stay far below
_OTHER_FORMATS = {b"KDMV": "VMDK", b"vhdxfile": "VHDX", b"conectix": "VHD", b"<<< ": "VDI", b"QED\0": "QED"}


class ImageError(Exception):
    """The file is not an image that may be used; the message says why and what to do, and names no folder."""


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What the header says. ``virtual_size_bytes`` is what the guest sees, ``file_size_bytes`` the file's length."""

    format: str
    virtual_size_bytes: int
    file_size_bytes: int


def inspect_image(
    path: str | os.PathLike[str],
    format: str,  # noqa: A002 - the word that qemu-img and the command line use
    *,
    max_virtual_size_bytes: int = MAX_VIRTUAL_SIZE_BYTES,
) -> ImageInfo:
    """Check that ``path`` is an image of exactly that ``format`` that refers to nothing outside itself.

    No tool is run, no link is followed and at most 64 KiB are read. Raises: ImageError.
    """
    name = Path(path).name
    if format not in FORMATS:
        raise ImageError(f"{name}: format {format!r} is not supported; use one of {', '.join(FORMATS)}.")
    head, file_size = _read_head(path)
    check = _check_raw if format == "raw" else _check_qcow2
    virtual_size = check(name, head, file_size)
    if virtual_size == 0:
        raise ImageError(f"{name}: the disk in it has size 0; export it again.")
    if virtual_size > max_virtual_size_bytes:
        raise ImageError(
            f"{name}: the disk in it is {virtual_size} bytes, more than the {max_virtual_size_bytes} that are accepted."
        )
    return ImageInfo(format, virtual_size, file_size)


def detect_format(path: str | os.PathLike[str]) -> str:
    """Guess the format of a user's own file, for the command line only: "qcow2" or "raw".

    Never for uploaded data: a guest can write a qcow2 header into its own raw disk. Raises: ImageError.
    """
    name = Path(path).name
    head, _ = _read_head(path)
    if head.startswith(_QCOW2_MAGIC):
        return "qcow2"
    if head[510:512] == b"\x55\xaa":
        return "raw"
    if found := _other_format(head):
        raise ImageError(f"{name}: a {found} image is not accepted; convert it with qemu-img convert -O qcow2.")
    raise ImageError(
        f"{name}: not a disk image: no qcow2 header and no boot signature; "
        "name it with --format raw if it is a raw data disk."
    )


def _other_format(head: bytes) -> str | None:
    """What the head is that is no format of ours."""
    return next((other for magic, other in _OTHER_FORMATS.items() if head.startswith(magic)), None)


def _read_head(path: str | os.PathLike[str]) -> tuple[bytes, int]:
    """The first bytes and the length of a regular file that is not a link."""
    name = Path(path).name
    try:
        # O_NONBLOCK: opening a named pipe must not wait for a writer.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ImageError(f"{name}: there is no such file; check the path.") from None
    except OSError as error:
        if Path(path).is_symlink():
            raise ImageError(f"{name}: is a symbolic link; name the file it points to.") from None
        raise ImageError(f"{name}: cannot be read ({error.strerror}); check its permissions.") from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"{name}: is not a regular file; name a disk image file.")
        if status.st_size == 0:
            raise ImageError(f"{name}: is empty; export the disk again.")
        return os.pread(fd, _HEAD_BYTES, 0), status.st_size
    except OSError as error:
        raise ImageError(f"{name}: cannot be read ({error.strerror}).") from None
    finally:
        os.close(fd)


def _check_raw(name: str, head: bytes, file_size: int) -> int:
    if head.startswith(_QCOW2_MAGIC):
        raise ImageError(f"{name}: was named raw but has a qcow2 header; name it with --format qcow2.")
    if other := _other_format(head):
        raise ImageError(f"{name}: was named raw but is a {other} image; convert it with qemu-img convert -O qcow2.")
    if file_size % SECTOR_BYTES:
        raise ImageError(
            f"{name}: its {file_size} bytes are not a multiple of {SECTOR_BYTES}, so it is cut off or not a raw disk; "
            "export it again."
        )
    return file_size


def _check_qcow2(name: str, head: bytes, file_size: int) -> int:
    """Refuse whatever would make QEMU open a second file, ask for a secret, or reserve memory beyond its own bounds."""
    if not head.startswith(_QCOW2_MAGIC):
        raise ImageError(f"{name}: has no qcow2 header; name it with --format raw if it is a raw disk.")
    if len(head) < _QCOW2_V2_HEADER.size:
        raise _truncated(name)
    fields = _QCOW2_V2_HEADER.unpack_from(head)
    _, version, backing_offset, backing_size, cluster_bits, size, crypt_method = fields[:7]
    snapshots = fields[11]
    if version not in _VERSIONS:
        raise ImageError(f"{name}: qcow2 version {version} is not supported; convert it with qemu-img convert.")
    if backing_offset or backing_size:
        raise ImageError(f"{name}: has a backing file; flatten it with qemu-img convert -O qcow2 and use the result.")
    if crypt_method:
        raise ImageError(f"{name}: is encrypted; decrypt it with qemu-img convert and use the result.")
    header_bytes = _check_v3(name, head) if version == _VERSIONS[-1] else _QCOW2_V2_HEADER.size
    if cluster_bits not in _CLUSTER_BITS:
        raise _damaged(name, f"cluster size 2^{cluster_bits}")
    _check_extensions(name, head, header_bytes, 1 << cluster_bits)
    _check_tables(name, fields, file_size)
    if snapshots:
        raise ImageError(f"{name}: has {snapshots} snapshots inside it; convert it with qemu-img convert -O qcow2.")
    return int(size)


def _check_tables(name: str, fields: tuple[int, ...], file_size: int) -> None:
    """The tables lie in the file, are not larger than QEMU's own bounds, and fit the disk."""
    cluster_bits, size, _, l1_size, l1_offset, refcount_offset, refcount_clusters = fields[4:11]
    if l1_size * 8 > _MAX_L1_BYTES or l1_offset % 512 or l1_offset + l1_size * 8 > file_size:
        raise _truncated(name) if l1_offset + l1_size * 8 > file_size else _damaged(name, "level 1 table")
    if size <= MAX_VIRTUAL_SIZE_BYTES and l1_size * _L1_ENTRY_CLUSTERS[cluster_bits] < -(-size >> cluster_bits):
        raise _damaged(name, "level 1 table is too small for the disk")
    refcount_bytes = refcount_clusters << cluster_bits
    if refcount_bytes > _MAX_REFCOUNT_TABLE_BYTES or refcount_offset % (1 << cluster_bits):
        raise _damaged(name, "reference count table")
    if refcount_offset + refcount_bytes > file_size:
        raise _truncated(name)


def _check_v3(name: str, head: bytes) -> int:
    """Check the version 3 fields; returns the header's length in bytes."""
    v3_bytes = _QCOW2_V2_HEADER.size + _QCOW2_V3_HEADER.size
    if len(head) < v3_bytes:
        raise _truncated(name)
    incompatible, _, _, refcount_order, header_length = _QCOW2_V3_HEADER.unpack_from(head, _QCOW2_V2_HEADER.size)
    if incompatible & _INCOMPATIBLE_DATA_FILE:
        raise _data_file(name)
    if incompatible & ~_INCOMPATIBLE_KNOWN:
        raise ImageError(
            f"{name}: needs qcow2 features that are not known here (bits {incompatible:#x}); "
            "convert it with qemu-img convert -O qcow2."
        )
    if incompatible & _INCOMPATIBLE_CORRUPT:
        raise ImageError(f"{name}: is marked corrupt; repair it with qemu-img check -r all.")
    if (
        refcount_order > _MAX_REFCOUNT_ORDER
        or header_length < v3_bytes
        or header_length % 8
        or header_length > _HEAD_BYTES
    ):
        raise _damaged(name, "header length or reference counts")
    if incompatible & _INCOMPATIBLE_COMPRESSION and (
        header_length <= _COMPRESSION_TYPE_AT or head[_COMPRESSION_TYPE_AT] not in _COMPRESSIONS
    ):
        raise ImageError(f"{name}: is compressed in a way that is not known here; convert it with qemu-img convert.")
    return int(header_length)


def _check_extensions(name: str, head: bytes, offset: int, cluster_bytes: int) -> None:
    """Walk the header extensions: an external data file named here is refused even without its feature bit."""
    end = min(cluster_bytes, len(head))
    while offset + 8 <= end:
        kind, length = struct.unpack_from(">II", head, offset)
        if kind == _EXTENSION_END:
            return
        if kind == _EXTENSION_DATA_FILE:
            raise _data_file(name)
        offset += 8 + (length + 7) // 8 * 8
        if offset > end:
            raise _damaged(name, "header extensions")


def _data_file(name: str) -> ImageError:
    return ImageError(f"{name}: has an external data file; convert it with qemu-img convert -O qcow2, use the result.")


def _truncated(name: str) -> ImageError:
    return ImageError(f"{name}: is cut off: the file ends inside its own tables; export or copy it again.")


def _damaged(name: str, what: str) -> ImageError:
    return ImageError(f"{name}: has a damaged qcow2 header ({what}); export or copy it again.")
