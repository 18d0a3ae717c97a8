"""A full copy of a snapshot, run as a process of its own by ``targets.qemu_copies``; needs the standard library only.

A raw disk is copied here, because what is read has to be compared with the upload: chunk by chunk where the chunks' checksums
are on record (``chunk_copy``), else by the checksum of the whole, which is taken in order, holes included. Either way it is one
pass, holes kept, past the page cache, within a fixed number of buffers, and can be taken up again. Any other format is compared
so, then converted by qemu-img from its start.
"""

from __future__ import annotations

import collections
import ctypes
import errno
import hashlib
import json
import mmap
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any, Self

if __name__ == "__main__":  # an isolated interpreter looks nowhere but in its own library
    sys.path.append(str(Path(__file__).parents[1]))

from targets.chunk_copy import copy_chunks, verify_chunks
from targets.chunk_sums import ChunkSums, ManifestError
from targets.copy_parts import ALIGNMENT, CHECKPOINT_BYTES, STATE_FILE, CopyError, State, data_ranges, open_direct

__all__ = ["STATE_FILE", "run"]
_BLOCK_BYTES = 2 * 2**20
_BLOCKS = 14
_ZEROS = bytes(2**20)
_PERCENT = re.compile(rb"\((\d+\.\d+)/100%\)")
_HASH_SHARE = 0.25  # of the shown progress, where a file is compared before it is converted
_PR_SET_PDEATHSIG = 1


def copy_raw(source: Path, target: Path, expected_sha256: str, state: State, durable_bytes: int) -> None:
    """Copy and compare. Raises: CopyError when what was read has another checksum; OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
    buffered = os.open(target, flags, 0o600)
    direct = open_direct(target, flags)
    os.ftruncate(buffered, state.values["total_bytes"])
    state.values["durable_bytes"] = durable_bytes

    def write(view: memoryview, offset: int) -> None:
        fd = buffered if direct is None or len(view) % ALIGNMENT else direct
        while view:
            written = os.pwrite(fd, view, offset)
            view, offset = view[written:], offset + written

    def checkpoint(offset: int) -> None:
        os.fdatasync(buffered)
        state.values["durable_bytes"] = max(offset, durable_bytes)
        state.advanced(offset, at_once=True)

    try:
        digest = _read_through(source, state, write=write, write_from=durable_bytes, checkpoint=checkpoint)
        os.fsync(buffered)
    finally:
        os.close(buffered)
        if direct is not None:
            os.close(direct)
    _compare(digest, expected_sha256)


def verify(source: Path, expected_sha256: str, sums: ChunkSums | None, state: State, share: float) -> None:
    """Compare a whole file with its upload. Raises: CopyError, OSError."""
    total, state.values["phase"] = state.values["total_bytes"], "verifying"
    state.values["total_bytes"] = int(total / share)
    if sums is None:
        _compare(_read_through(source, state), expected_sha256)
    else:
        verify_chunks(source, sums, state)
    state.values["total_bytes"] = total


def convert(source: Path, target: Path, qemu_img: str, options: list[str], state: State, lock_fd: int) -> None:
    """qemu-img's copy of an image of ours. Raises: CopyError with its own words, OSError."""
    target.unlink(missing_ok=True)
    command = [qemu_img, "convert", "-p", "-W", "-f", "qcow2", "-O", "qcow2", *options, str(source), str(target)]
    state.values["phase"] = "copying"
    total = state.values["total_bytes"]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=(lock_fd,),
        preexec_fn=_die_with_parent,  # noqa: PLW1509 - no other thread runs any more
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        while said := process.stdout.read1(4096):  # type: ignore[attr-defined]
            if found := _PERCENT.findall(said):
                state.advanced(int(total * (_HASH_SHARE + (1 - _HASH_SHARE) * float(found[-1]) / 100)))
        reason = process.stderr.read().decode(errors="replace").strip()
    if process.returncode:
        if "No space left" in reason:
            raise OSError(errno.ENOSPC, "No space left on device")
        raise CopyError(f"qemu-img failed: {reason.splitlines()[-1] if reason else process.returncode}")
    fd = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
    os.fsync(fd)
    os.close(fd)


def _read_through(
    source: Path,
    state: State,
    *,
    write: Callable[[memoryview, int], None] | None = None,
    write_from: int = 0,
    checkpoint: Callable[[int], None] | None = None,
) -> str:
    """SHA-256 of the file, holes included, while ``write`` is given what is not a hole from ``write_from`` on."""
    fd = open_direct(source, os.O_RDONLY | os.O_CLOEXEC)
    if fd is None:
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    synced = 0
    try:
        with _Pipeline(fd, state, write, write_from) as pipeline:
            for offset, length, is_data in _pieces(fd, os.fstat(fd).st_size):
                if not is_data:
                    pipeline.skip(offset, length)
                    continue
                pipeline.read(offset, length)
                if checkpoint is not None and offset - synced >= CHECKPOINT_BYTES:
                    pipeline.drain()
                    checkpoint(offset + length)
                    synced = offset
            pipeline.drain()
            return pipeline.hasher.hexdigest()
    finally:
        os.close(fd)


class _Pipeline:
    """Reads ahead, hashes in order and writes at once, in a fixed number of buffers."""

    def __init__(self, fd: int, state: State, write: Callable[[memoryview, int], None] | None, write_from: int) -> None:
        self.hasher = hashlib.sha256()
        self._fd, self._state, self._write, self._write_from = fd, state, write, write_from
        self._free = [memoryview(mmap.mmap(-1, _BLOCK_BYTES)) for _ in range(_BLOCKS)]
        self._reading: collections.deque[tuple[int, memoryview, int, Future[int]]] = collections.deque()
        self._using: collections.deque[tuple[memoryview, list[Future[None]]]] = collections.deque()
        self._readers, self._hashing, self._writing = (ThreadPoolExecutor(count) for count in (4, 1, 4))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pool in (self._readers, self._hashing, self._writing):
            pool.shutdown(cancel_futures=True)

    def read(self, offset: int, length: int) -> None:
        """Take the block of data there, when a buffer is free."""
        while not self._free:
            if self._reading:
                self._hand_on()
            self._give_back()
        buffer = self._free.pop()
        self._reading.append((offset, buffer, length, self._readers.submit(_read_into, self._fd, buffer, offset)))

    def skip(self, offset: int, length: int) -> None:
        """A hole: hashed, never written."""
        while self._reading:
            self._hand_on()
        self._hashing.submit(_update_zeros, self.hasher, length)
        self._state.advanced(offset + length)

    def drain(self) -> None:
        """Wait until all that was taken is hashed and written. Raises: what a write raised."""
        while self._reading:
            self._hand_on()
        while self._using:
            self._give_back()
        self._hashing.submit(int).result()  # also the holes

    def _hand_on(self) -> None:
        offset, buffer, length, read = self._reading.popleft()
        if read.result() < length:
            raise OSError(errno.EIO, "the snapshot became shorter while it was read")
        futures = [self._hashing.submit(self.hasher.update, buffer[:length])]
        if self._write is not None and offset + length > self._write_from:
            futures.append(self._writing.submit(self._write, buffer[:length], offset))
        self._using.append((buffer, futures))
        self._state.advanced(offset + length)

    def _give_back(self) -> None:
        buffer, futures = self._using.popleft()
        for future in futures:
            future.result()
        self._free.append(buffer)


def _read_into(fd: int, buffer: memoryview, offset: int) -> int:
    return os.preadv(fd, [buffer], offset)


def _update_zeros(hasher: Any, length: int) -> None:
    for _ in range(length // len(_ZEROS)):
        hasher.update(_ZEROS)
    hasher.update(_ZEROS[: length % len(_ZEROS)])


def _pieces(fd: int, size: int) -> Iterator[tuple[int, int, bool]]:
    """Offset and length of every hole and of every block of data, in order; blocks begin at multiples of a page."""
    at = 0
    for first, end in data_ranges(fd, 0, size):
        if first > at:
            yield at, first - at, False
        for offset in range(first, end, _BLOCK_BYTES):
            yield offset, min(_BLOCK_BYTES, end - offset), True
        at = end
    if at < size:
        yield at, size - at, False


def _compare(digest: str, expected: str) -> None:
    if digest != expected:
        raise CopyError(f"the snapshot is not what was uploaded: its SHA-256 is {digest} instead of {expected}")


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def chunk_sums(source: Path, sha256: str) -> ChunkSums | None:
    """What is known of the snapshot's chunks. A manifest that cannot be used is no harm: the whole checksum is there."""
    try:
        return ChunkSums.open(source, sha256=sha256)
    except (ManifestError, OSError) as error:
        sys.stderr.write(f"the manifest of {source.name} is not used, its whole checksum is: {error}\n")
        return None


def run(order: dict[str, Any]) -> None:
    """Carry out the order in the working directory: {"label", "verify", "sha256", "convert", "target", "durable_bytes",
    "verified_bytes", "total_bytes", "qemu_img", "options", "lock_fd"}; ``convert`` is empty for a raw disk."""
    source, target = Path(order["verify"]), Path(order["target"])
    temporary = target.with_name(f"{target.name}.tmp")
    state = State(Path(), order["total_bytes"])
    try:
        sums = chunk_sums(source, order["sha256"])
        with closing(sums) if sums is not None else nullcontext():
            if order["convert"]:
                verify(source, order["sha256"], sums, state, _HASH_SHARE)
                image = Path(order["convert"])
                convert(image, temporary, order["qemu_img"], order["options"], state, order["lock_fd"])
            elif sums is not None:
                copy_chunks(source, temporary, sums, state, order["verified_bytes"])
            else:
                copy_raw(source, temporary, order["sha256"], state, order["durable_bytes"])
        temporary.rename(target)
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(fd)
        os.close(fd)
        state.advanced(state.values["total_bytes"], at_once=True)
    except (CopyError, OSError) as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        state.values["error"] = "the disk that holds the clones is full; free some space" if full else str(error)
        state.values["permanent"] = full or isinstance(error, CopyError)
        if full:
            temporary.unlink(missing_ok=True)  # room for the state file
        state.write()
        sys.exit(1)


if __name__ == "__main__":
    run(json.loads(sys.argv[1]))
