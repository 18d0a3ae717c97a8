"""Copying and comparing a snapshot whose chunks' checksums are known.

A few threads take one chunk each: read it past the page cache, compare it, and only then write what is no hole. A chunk that
lies in a hole costs one comparison with the digest of zeros. So nothing waits for another's turn, as it must where one
checksum runs over the whole file.
"""

from __future__ import annotations

import collections
import errno
import mmap
import os
import queue
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from targets.chunk_sums import ChunkSums, digest_of
from targets.copy_parts import ALIGNMENT, CHECKPOINT_BYTES, CopyError, State, data_ranges, open_direct

_THREADS = 8  # and as many buffers
_AHEAD = 4 * _THREADS
Write = Callable[[memoryview, int], None]


def copy_chunks(source: Path, target: Path, sums: ChunkSums, state: State, verified_bytes: int) -> None:
    """Copy; of ``target``, the first ``verified_bytes`` are right already. Raises: CopyError, OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
    buffered = os.open(target, flags, 0o600)
    direct = open_direct(target, flags)
    try:
        os.ftruncate(buffered, sums.size_bytes)

        def write(view: memoryview, offset: int) -> None:
            fd = buffered if direct is None or len(view) % ALIGNMENT else direct
            while view:
                written = os.pwrite(fd, view, offset)
                view, offset = view[written:], offset + written

        first = verified_bytes // sums.chunk_bytes
        state.values["verified_bytes"] = state.began_at = first * sums.chunk_bytes
        with _Checkpoints(buffered, state) as checkpoints:
            _each(source, sums, state, first=first, write=write, reached=checkpoints.reached)
        os.fsync(buffered)
    finally:
        os.close(buffered)
        if direct is not None:
            os.close(direct)


def verify_chunks(source: Path, sums: ChunkSums, state: State) -> None:
    """Compare every chunk. Raises: CopyError, OSError."""
    _each(source, sums, state)


def _each(
    source: Path, sums: ChunkSums, state: State, *, first: int = 0, write: Write | None = None,
    reached: Callable[[int], None] | None = None,
) -> None:  # fmt: skip
    fd = open_direct(source, os.O_RDONLY | os.O_CLOEXEC)
    if fd is None:
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    pending: collections.deque[tuple[int, Future[None]]] = collections.deque()

    def settle() -> None:
        """Of the oldest; all before it are done."""
        end, future = pending.popleft()
        future.result()
        state.advanced(end)
        if reached is not None:
            reached(end)

    chunks = _Chunks(fd, sums, write)
    pool = ThreadPoolExecutor(_THREADS)
    try:
        for number in range(first, sums.count):
            while len(pending) >= _AHEAD:
                settle()
            end = number * sums.chunk_bytes + sums.length(number)
            pending.append((end, pool.submit(chunks.take, number)))
        while pending:
            settle()
    finally:
        pool.shutdown(cancel_futures=True)
        os.close(fd)


class _Chunks:
    """Takes one chunk after the other, on as many threads as there are buffers."""

    def __init__(self, fd: int, sums: ChunkSums, write: Write | None) -> None:
        self._fd, self._sums, self._write = fd, sums, write
        self._buffers: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        for _ in range(_THREADS):
            self._buffers.put(memoryview(mmap.mmap(-1, sums.chunk_bytes)))

    def take(self, number: int) -> None:
        """Read, compare, write."""
        start, length = number * self._sums.chunk_bytes, self._sums.length(number)
        ranges = list(data_ranges(self._fd, start, start + length))
        if not ranges and length == self._sums.chunk_bytes:
            self._compare(number, self._sums.zeros_digest)
            return
        buffer = self._buffers.get()
        try:
            self._read(buffer, start, length)
            digest = digest_of(self._sums.algorithm, buffer[:length])
            self._compare(number, digest)
            if self._write is not None and digest != self._sums.zeros_digest:
                for first, end in ranges:
                    self._write(buffer[first - start : end - start], first)
        finally:
            self._buffers.put(buffer)

    def _read(self, buffer: memoryview, start: int, length: int) -> None:
        done = 0
        while done < length:
            count = os.preadv(self._fd, [buffer[done:]], start + done)
            if not count:
                raise OSError(errno.EIO, "the snapshot became shorter while it was read")
            done += count

    def _compare(self, number: int, digest: bytes) -> None:
        if digest != self._sums.digest(number):
            start = number * self._sums.chunk_bytes
            raise CopyError(
                f"the snapshot is not what was uploaded: its bytes {start} to {start + self._sums.length(number) - 1} have "
                "another checksum"
            )


class _Checkpoints:
    """Makes durable what was written, now and then and beside the copying, and says so in the state."""

    def __init__(self, fd: int, state: State) -> None:
        self._fd, self._state = fd, state
        self._pool = ThreadPoolExecutor(1)
        self._syncing: tuple[int, Future[None]] | None = None

    def __enter__(self) -> _Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def reached(self, offset: int) -> None:
        """Everything before ``offset`` was written."""
        if self._syncing is not None and self._syncing[1].done():
            synced, future = self._syncing
            future.result()
            self._syncing = None
            self._state.values["verified_bytes"] = synced
            self._state.advanced(offset, at_once=True)
        if self._syncing is None and offset - self._state.values["verified_bytes"] >= CHECKPOINT_BYTES:
            self._syncing = (offset, self._pool.submit(os.fdatasync, self._fd))
