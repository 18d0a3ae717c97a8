"""Where uploaded snapshots live: plain files, written once, never changed afterwards."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path

from targets.chunk_sums import ChunkHasher, remove_manifest, write_manifest
from targets.local_files import fsync_folder

_BLOCK_BYTES = 64 * 1024
_ZERO_BLOCK = bytes(_BLOCK_BYTES)
_KEY_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")
_PART_SUFFIX = ".part"
_MAX_KEY_PARTS = 8
_FULL = {errno.ENOSPC: "is full", errno.EDQUOT: "has no quota left", errno.EFBIG: "takes no file of this size"}


class SnapshotStoreError(Exception):
    """The store could not do what it was asked; the message says why, in words fit for a user."""


class SnapshotWriter:
    """Takes the bytes of one snapshot in order. ``sha256`` and ``size_bytes`` cover all that was written so far.

    One that continues a file starts at its ``size_bytes``, with the digest of what it holds, or None if that is not known.
    """

    def __init__(self, fd: int, key: str, *, hasher: ChunkHasher | None, size_bytes: int = 0) -> None:
        self._fd = fd
        self._key = key
        self._pending = bytearray()
        self.hasher = hasher
        self.size_bytes = size_bytes
        os.lseek(fd, size_bytes, os.SEEK_SET)

    @property
    def sha256(self) -> str:
        """Hexadecimal digest of all bytes so far, holes included; the digest must be known."""
        assert self.hasher is not None
        return self.hasher.hexdigest()

    def write(self, data: bytes) -> None:
        """Append ``data``; all-zero blocks of 64 KiB become holes. Raises: SnapshotStoreError when the disk is full."""
        with translated(self._key):
            self._append(data)

    def _append(self, data: bytes) -> None:
        if self.hasher is not None:
            self.hasher.update(data)
        self.size_bytes += len(data)
        self._pending += data
        whole = len(self._pending) // _BLOCK_BYTES * _BLOCK_BYTES
        if whole:
            view = bytes(self._pending[:whole])
            del self._pending[:whole]
            for start in range(0, whole, _BLOCK_BYTES):
                self._put(view[start : start + _BLOCK_BYTES])

    def checkpoint(self) -> None:
        """Write what is pending, set the length (the file may end in a hole) and make it durable. Raises: OSError."""
        self._put(bytes(self._pending))
        self._pending.clear()
        os.ftruncate(self._fd, self.size_bytes)
        os.fsync(self._fd)

    def _put(self, block: bytes) -> None:
        if block == _ZERO_BLOCK:
            os.lseek(self._fd, len(block), os.SEEK_CUR)
            return
        rest = memoryview(block)
        while rest:
            rest = rest[os.write(self._fd, rest) :]


class FileSnapshotStore:
    """Snapshots as files under ``root``, by keys such as ``<cycle_id>/disk0.qcow2``."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root).absolute()

    def path(self, key: str) -> Path:
        """Absolute path of ``key``, which need not exist. Raises: SnapshotStoreError for a key that leaves the root."""
        parts = key.split("/")
        if len(parts) > _MAX_KEY_PARTS or not all(_KEY_PART.fullmatch(part) for part in parts):
            raise SnapshotStoreError(
                f"Snapshot key {key!r} is not legal: use letters, digits, '.', '_' and '-' in parts divided by '/'."
            )
        return self.root.joinpath(*parts)

    @contextlib.contextmanager
    def writer(self, key: str) -> Iterator[SnapshotWriter]:
        """Stream a new snapshot: it appears under its key, durable and read-only, when the block ends without an error.

        After any error nothing is left; an error of the block itself (the sender went away) passes as it is.
        Raises: SnapshotStoreError when the key exists already (a snapshot never changes) or the disk is full.
        """
        final = self.path(key)
        part = final.with_name(f".{final.name}.{uuid.uuid4().hex}{_PART_SUFFIX}")
        if final.exists():
            raise _exists(key)
        with translated(key):
            self._make_folder(final.parent)
            fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)  # tells sweep() that a live process writes it
            hasher = ChunkHasher()
            upload = SnapshotWriter(fd, key, hasher=hasher)
            yield upload
            with translated(key):
                upload.checkpoint()
                os.fchmod(fd, 0o444)
                os.link(part, final)  # like rename, but fails if another upload of this key was first
                self.add_manifest(key, hasher)
        finally:
            part.unlink(missing_ok=True)
            os.close(fd)
            self._drop_empty(final.parent)
        with translated(key):
            fsync_folder(final.parent)

    def add_manifest(self, key: str, hasher: ChunkHasher) -> None:
        """Keep the checksums of the chunks of a snapshot that was just stored; it goes if they cannot. Raises: OSError."""
        try:
            write_manifest(self.path(key), hasher)
        except BaseException:
            self.remove(key)
            raise

    def check(self, key: str) -> int:
        """Open the snapshot and return its length in bytes. Raises: SnapshotStoreError if it cannot be read."""
        path = self.path(key)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise SnapshotStoreError(f"Snapshot {key} cannot be read ({error.strerror}).") from None
        try:
            status = os.fstat(fd)
        finally:
            os.close(fd)
        if not stat.S_ISREG(status.st_mode):
            raise SnapshotStoreError(f"Snapshot {key} is not a regular file.")
        return status.st_size

    def allocated_bytes(self, key: str) -> int:
        """What the snapshot takes of the disk, holes not counted; 0 if it is gone."""
        try:
            return self.path(key).stat().st_blocks * 512
        except FileNotFoundError:
            return 0

    def remove(self, key: str) -> None:
        """Remove the snapshot, and its folder if it was the last in it; no error if it is gone."""
        path = self.path(key)
        with translated(key):
            path.unlink(missing_ok=True)
            remove_manifest(path)
            if path.parent.exists():
                fsync_folder(path.parent)
            self._drop_empty(path.parent)

    def sweep(self) -> int:
        """Remove parts that killed uploads left behind; returns how many. Parts being written are spared."""
        removed = 0
        for part in self.root.rglob(f".*{_PART_SUFFIX}"):
            with contextlib.suppress(FileNotFoundError), part.open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                part.unlink()
                removed += 1
        return removed

    def _make_folder(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if folder != self.root:
            fsync_folder(folder.parent)

    def _drop_empty(self, folder: Path) -> None:
        """Remove folders that hold nothing any more, up to the root, which stays."""
        while folder != self.root and self.root in folder.parents:
            try:
                folder.rmdir()
            except OSError:  # not empty, or another process was faster: both are fine
                return
            folder = folder.parent


@contextlib.contextmanager
def translated(key: str) -> Iterator[None]:
    """Errors of the file system in words fit for a user."""
    try:
        yield
    except FileExistsError:
        raise _exists(key) from None
    except OSError as error:
        reason = _FULL.get(error.errno or 0)
        if reason is None:
            raise SnapshotStoreError(f"Snapshot {key} could not be stored ({error.strerror}).") from error
        raise SnapshotStoreError(
            f"The disk that holds the snapshots {reason}: {key} was not stored and nothing of it is left; "
            "free some space and upload it again."
        ) from error


def _exists(key: str) -> SnapshotStoreError:
    return SnapshotStoreError(f"Snapshot {key} exists already; snapshots are never changed.")
