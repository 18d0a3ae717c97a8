"""Which files an initramfs holds: a few cpio archives one after the other, the last ones packed. Bounded in size."""

from __future__ import annotations

import bz2
import contextlib
import io
import lzma
import subprocess
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO, Protocol

from targets.adaptation import programs

_MAGIC = b"0707"
_HEADER_BYTES = 110
_MOST_BYTES = 768 * 2**20  # of unpacked content; Ubuntu's largest have 300 MiB
_BLOCK_BYTES = 256 * 1024
_MOST_CPU_S = 10.0
_MOST_MEMORY_BYTES = 256 * 2**20  # that its packing may ask for
_ZSTD_WAIT_S = 10.0


class CannotUnpack(Exception):
    """It is packed in a way that cannot be undone here, or is damaged; the message says so."""


class _Unpacker(Protocol):
    def decompress(self, data: bytes, /) -> bytes: ...


def names_in(file: BinaryIO, wanted: Sequence[str]) -> set[str]:
    """Those of the names that occur in it; kernel modules also count when packed one by one. Raises: CannotUnpack."""
    _skip_plain(file)
    found: set[str] = set()
    left, total, began_s = b"", 0, time.thread_time()
    for block in _unpacked(file):
        total += len(block)
        if total > _MOST_BYTES:
            raise CannotUnpack(f"it has more than {_MOST_BYTES // 2**20} MiB unpacked")
        if time.thread_time() - began_s > _MOST_CPU_S:
            raise CannotUnpack(f"unpacking it takes more than {_MOST_CPU_S:g} s")
        text = left + block
        found |= {name for name in wanted if _file_name(name) in text}
        if len(found) == len(set(wanted)):
            break
        left = text[-256:]
    return found


def _file_name(name: str) -> bytes:
    """The end of a path in the archive. Modules may be called with a dash."""
    return f"/{name}".encode()


def _skip_plain(file: BinaryIO) -> None:
    """Go behind the microcode that is put in front, if something packed follows; else back to the start."""
    while file.read(4) == _MAGIC:
        file.seek(-4, io.SEEK_CUR)
        if not _skip_archive(file):
            file.seek(0)
            return
    file.seek(-min(4, file.tell()), io.SEEK_CUR)


def _skip_archive(file: BinaryIO) -> bool:
    """Go to what follows an archive; False if nothing does."""
    for _ in range(100_000):
        header = file.read(_HEADER_BYTES)
        if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
            raise CannotUnpack("its first archive is damaged")
        try:
            size, name_size = int(header[54:62], 16), int(header[94:102], 16)
        except ValueError:
            raise CannotUnpack("its first archive is damaged") from None
        name = file.read(min(name_size, 4096))
        file.seek(-file.tell() % 4, io.SEEK_CUR)
        file.seek(size, io.SEEK_CUR)
        file.seek(-file.tell() % 4, io.SEEK_CUR)
        if name.startswith(b"TRAILER!!!"):
            while (byte := file.read(1)) == b"\0":
                pass
            file.seek(-len(byte), io.SEEK_CUR)
            return bool(byte)
    raise CannotUnpack("its first archive has too many files")


def _unpacked(file: BinaryIO) -> Iterator[bytes]:
    magic = file.read(6)
    file.seek(-len(magic), io.SEEK_CUR)
    blocks = iter(lambda: file.read(_BLOCK_BYTES), b"")
    if magic.startswith(_MAGIC):
        yield from blocks
    elif magic.startswith(b"\x1f\x8b"):
        yield from _stream(zlib.decompressobj(wbits=31), blocks)
    elif magic.startswith((b"\xfd7zXZ", b"\x5d\0\0")):
        yield from _stream(lzma.LZMADecompressor(memlimit=_MOST_MEMORY_BYTES), blocks)
    elif magic.startswith(b"BZh"):
        yield from _stream(bz2.BZ2Decompressor(), blocks)
    elif magic.startswith(b"\x28\xb5\x2f\xfd"):
        yield from _zstd(file)
    else:
        kind = "lz4" if magic.startswith(b"\x02\x21\x4c\x18") else f"an unknown way ({magic[:4].hex()})"
        raise CannotUnpack(f"it is packed with {kind}")


def _stream(unpacker: _Unpacker, blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Small steps: a block of zeros unpacks to a thousand times its size."""
    try:
        for block in blocks:
            for at in range(0, len(block), 4096):
                yield unpacker.decompress(block[at : at + 4096])
                if getattr(unpacker, "eof", False):
                    return
    except (zlib.error, lzma.LZMAError, OSError, EOFError) as error:
        raise CannotUnpack(f"it is damaged: {error}") from None


def _zstd(file: BinaryIO) -> Iterator[bytes]:
    if programs.find("zstd") is None:
        raise CannotUnpack("it is packed with zstd, which is not installed on this machine")
    unpacker = subprocess.Popen(
        programs.confined(["zstd", "-dc"]), stdin=file, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert unpacker.stdout is not None
    try:
        with unpacker.stdout as output:
            yield from iter(lambda: output.read(_BLOCK_BYTES), b"")
        if unpacker.wait(_ZSTD_WAIT_S):
            raise CannotUnpack("it is damaged: zstd refuses it")
    finally:
        with contextlib.suppress(ProcessLookupError):
            unpacker.kill()
        unpacker.wait()
