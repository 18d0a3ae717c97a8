"""Checksums of a snapshot's chunks, taken while it arrives and kept beside it, so that a copy can compare what it reads chunk
by chunk: in any order, on any number of processors, and again from where it broke off.

The manifest of ``disk0.raw`` is ``.disk0.raw.chunks``: one line of JSON, one digest per chunk, and the SHA-256 of all that. It
names the SHA-256 of the whole file, so it can vouch for no other. A snapshot without one (of one chunk, or from before there
were any) is compared by its whole checksum, which is always on record. Needs the standard library only.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

CHUNK_BYTES = 4 * 2**20
DIGEST_BYTES = 32
_VERSION = 1
_READ_BYTES = 2**20
_HEADER_BYTES = 4096  # at most
_TRIAL = bytes(2**20)
_ALGORITHMS: dict[str, Callable[..., Any]] = {
    "sha256": hashlib.sha256, "blake2b-256": functools.partial(hashlib.blake2b, digest_size=DIGEST_BYTES),
}  # fmt: skip


class ManifestError(Exception):
    """There is a manifest, and it cannot be used; the message says why."""


def digest_of(algorithm: str, data: bytes | memoryview) -> bytes:
    """The digest of one chunk."""
    digest: bytes = _ALGORITHMS[algorithm](data).digest()
    return digest


@functools.cache
def fastest() -> str:
    """The algorithm that is quickest here: SHA-256 is, by far, where the processor knows it, and BLAKE2 where it does not."""
    took = {}
    for name in _ALGORITHMS:
        runs = []
        for _ in range(3):
            began = time.perf_counter()
            digest_of(name, _TRIAL)
            runs.append(time.perf_counter() - began)
        took[name] = min(runs)
    return min(took, key=lambda name: took[name])


class ChunkHasher:
    """SHA-256 of a file as it arrives, like ``hashlib.sha256()``, and the digests of its chunks beside it."""

    def __init__(self, *, algorithm: str | None = None) -> None:
        self.algorithm = algorithm or fastest()
        self.size_bytes = 0
        self._whole = hashlib.sha256()
        self._chunk = _ALGORITHMS[self.algorithm]()
        self._digests = bytearray()

    def update(self, data: bytes | memoryview) -> None:
        """Take the next bytes."""
        self._whole.update(data)
        view = memoryview(data)
        while view:
            piece = view[: CHUNK_BYTES - self.size_bytes % CHUNK_BYTES]
            self._chunk.update(piece)
            self.size_bytes += len(piece)
            view = view[len(piece) :]
            if self.size_bytes % CHUNK_BYTES == 0:
                self._digests += self._chunk.digest()
                self._chunk = _ALGORITHMS[self.algorithm]()

    def hexdigest(self) -> str:
        """SHA-256 of all so far."""
        return self._whole.hexdigest()

    def manifest(self) -> bytes:
        """What a manifest of all so far holds."""
        header = {
            "clonejob_chunks": _VERSION, "algorithm": self.algorithm, "chunk_bytes": CHUNK_BYTES,
            "size_bytes": self.size_bytes, "sha256": self.hexdigest(),
        }  # fmt: skip
        last = self._chunk.digest() if self.size_bytes % CHUNK_BYTES else b""
        content = json.dumps(header).encode() + b"\n" + bytes(self._digests) + last
        return content + hashlib.sha256(content).digest()


def manifest_path(snapshot: Path) -> Path:
    """Where the manifest of a snapshot lies; no key of the store is legal there."""
    return snapshot.with_name(f".{snapshot.name}.chunks")


def write_manifest(snapshot: Path, hasher: ChunkHasher) -> None:
    """Put the manifest beside the snapshot, whole or not at all; none for a single chunk. Again is fine. Raises: OSError."""
    if hasher.size_bytes <= CHUNK_BYTES:
        return
    final = manifest_path(snapshot)
    temporary = _temporary(snapshot)
    temporary.unlink(missing_ok=True)
    try:
        with temporary.open("xb") as file:
            file.write(hasher.manifest())
            file.flush()
            os.fchmod(file.fileno(), 0o444)
            os.fsync(file.fileno())
        temporary.replace(final)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_manifest(snapshot: Path) -> None:
    """Remove it, and what a killed process left of one; no error if there is none."""
    manifest_path(snapshot).unlink(missing_ok=True)
    _temporary(snapshot).unlink(missing_ok=True)


def _temporary(snapshot: Path) -> Path:
    return snapshot.with_name(f".{snapshot.name}.chunks.tmp")


class ChunkSums:
    """A manifest that was found whole: the digests of a snapshot's chunks, read as they are needed."""

    def __init__(self, fd: int, header: dict[str, Any], start: int) -> None:
        self.algorithm: str = header["algorithm"]
        self.chunk_bytes: int = header["chunk_bytes"]
        self.size_bytes: int = header["size_bytes"]
        self._fd = fd
        self._start = start

    @classmethod
    def open(cls, snapshot: Path, *, sha256: str) -> Self | None:
        """Of the snapshot with this whole checksum; None if it has no manifest. Raises: ManifestError, OSError."""
        try:
            fd = os.open(manifest_path(snapshot), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        try:
            return cls(fd, *_checked(fd, sha256, snapshot.stat().st_size))
        except BaseException:
            os.close(fd)
            raise

    def close(self) -> None:
        """No more digests are needed."""
        os.close(self._fd)

    @property
    def count(self) -> int:
        """How many chunks there are; the last may be shorter."""
        return -(-self.size_bytes // self.chunk_bytes)

    def length(self, number: int) -> int:
        """Bytes of that chunk."""
        return min(self.chunk_bytes, self.size_bytes - number * self.chunk_bytes)

    def digest(self, number: int) -> bytes:
        """Of that chunk. Any thread may ask."""
        return os.pread(self._fd, DIGEST_BYTES, self._start + number * DIGEST_BYTES)

    @functools.cached_property
    def zeros_digest(self) -> bytes:
        """Of a whole chunk of zeros."""
        return digest_of(self.algorithm, bytes(self.chunk_bytes))


def _checked(fd: int, sha256: str, size_bytes: int) -> tuple[dict[str, Any], int]:
    """The header and where the digests begin. Raises: ManifestError."""
    size = os.fstat(fd).st_size
    head = os.pread(fd, _HEADER_BYTES, 0)
    whole, at, end = hashlib.sha256(), 0, size - DIGEST_BYTES
    while at < end:
        block = os.pread(fd, min(_READ_BYTES, end - at), at)
        if not block:
            break
        whole.update(block)
        at += len(block)
    if at != end or whole.digest() != os.pread(fd, DIGEST_BYTES, end):
        raise ManifestError("it is damaged: its own checksum is another one")
    line, newline, _ = head.partition(b"\n")
    header = json.loads(line) if newline else {}
    if header.get("clonejob_chunks") != _VERSION or header["algorithm"] not in _ALGORITHMS:
        raise ManifestError("it was written by a newer version")
    if (header["sha256"], header["size_bytes"]) != (sha256, size_bytes):
        raise ManifestError("it is of another snapshot")
    start = len(line) + 1
    if end - start != -(-size_bytes // header["chunk_bytes"]) * DIGEST_BYTES:
        raise ManifestError("it has not one digest for each chunk")
    return header, start
