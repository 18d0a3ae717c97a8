"""Snapshots that arrive in parts: what has arrived is kept until the rest comes, in whichever process takes it.

A part is a file, and its length is the offset at which the next chunk continues, so nothing but the folder has to
survive a restart. A lock on the file keeps two writers apart, whichever processes they are in. Beside it lies a note of
what the first chunk said (format, length) and of the key that the whole will have: a process that died between
publishing the whole and recording it leaves nothing that the next attempt does not find again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import os
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from targets.chunk_sums import ChunkHasher
from targets.local_files import fsync_folder, read_json, write_json
from targets.snapshot_store import FileSnapshotStore, SnapshotStoreError, SnapshotWriter, translated

_FOLDER = ".uploads"  # not legal as a part of a key, so no snapshot can stand here
_READ_BYTES = 1 << 20
_MOST_HASHES = 64


class UploadBusy(SnapshotStoreError):
    """Another request is writing this part now."""


@dataclasses.dataclass(frozen=True, slots=True)
class Received:
    """What has arrived of one disk. ``total_bytes`` is None when its sender did not say."""

    received_bytes: int
    format: str
    total_bytes: int | None
    time: float  # when it last grew, in seconds since the epoch


@dataclasses.dataclass(frozen=True, slots=True)
class _Note:
    format: str
    total_bytes: int | None
    key: str


class PartialUpload:
    """One part, locked. ``write`` appends; ``checkpoint`` makes it durable; ``publish`` makes it a snapshot."""

    def __init__(self, owner: PartialUploads, path: Path, fd: int, note: _Note) -> None:
        self._owner = owner
        self._path = path
        self._fd = fd
        self._note = note
        size = os.fstat(fd).st_size
        self._writer = SnapshotWriter(fd, path.name, hasher=owner.running_hash(path, fd), size_bytes=size)

    @property
    def format(self) -> str:
        """As the first chunk named it."""
        return self._note.format

    @property
    def total_bytes(self) -> int | None:
        """As the first chunk said it."""
        return self._note.total_bytes

    @property
    def received_bytes(self) -> int:
        """Where the next chunk continues."""
        return self._writer.size_bytes

    @property
    def path(self) -> Path:
        """The file, to be looked at once it is complete and checkpointed."""
        return self._path

    def write(self, data: bytes) -> None:
        """Append. Raises: SnapshotStoreError when the disk is full."""
        self._writer.write(data)

    def checkpoint(self) -> None:
        """Make what has arrived durable; the file's length says how much that is. Raises: SnapshotStoreError."""
        with translated(self._path.name):
            self._writer.checkpoint()
        self._owner.remember(self._path, self._fd, self._writer.hasher)

    def cut(self, size_bytes: int) -> None:
        """Forget what arrived after ``size_bytes``: a chunk that turned out to be wrong."""
        self._writer = SnapshotWriter(self._fd, self._path.name, hasher=None, size_bytes=size_bytes)
        self.checkpoint()

    def sha256(self) -> str:
        """Digest of the whole. Read back from the file if other processes took some of the chunks."""
        return self._known_hasher().hexdigest()

    def _known_hasher(self) -> ChunkHasher:
        if self._writer.hasher is None:
            self._writer.hasher = _hash_of(self._fd)
        return self._writer.hasher

    def publish(self) -> str:
        """Make the whole a snapshot, durable and read-only; returns its key. May be repeated after a crash.

        Raises: SnapshotStoreError.
        """
        final = self._owner.store.path(self._note.key)
        with translated(self._note.key):
            final.parent.mkdir(parents=True, exist_ok=True)
            os.fchmod(self._fd, 0o444)
            with contextlib.suppress(FileExistsError):  # the key is this part's own: it is an earlier attempt's link
                os.link(self._path, final)
            self._owner.store.add_manifest(self._note.key, self._known_hasher())
            fsync_folder(final.parent)
            fsync_folder(final.parent.parent)
        return self._note.key

    def restart(self, image_format: str, total_bytes: int | None) -> None:
        """Forget all that has arrived, also a whole that was published and never recorded. Raises: SnapshotStoreError."""
        self._owner.store.remove(self._note.key)
        with translated(self._path.name):
            os.fchmod(self._fd, 0o600)
            self._note = write_note(self._path, image_format, total_bytes)
        self.cut(0)
        self._writer.hasher = ChunkHasher()

    def discard(self) -> None:
        """Remove the part; a snapshot that was made of it stays."""
        self._owner.drop(self._path)


class PartialUploads:
    """The parts of one snapshot store. ``owner`` is what they belong to: the name of a replication cycle."""

    def __init__(self, store: FileSnapshotStore) -> None:
        self.store = store
        self._root = store.root / _FOLDER
        # Running digests of parts whose last chunk came to this process, by path; only a saving, see ``sha256``.
        self._hashes: dict[Path, tuple[tuple[int, int, int], ChunkHasher]] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def open(self, owner: str, disk_number: int, image_format: str, total_bytes: int | None) -> Iterator[PartialUpload]:
        """The part of one disk, locked; made if there is none.

        Raises: UploadBusy while another request writes it; SnapshotStoreError.
        """
        path = self._path(owner, disk_number)
        with translated(path.name):
            fd = self._locked(path)
        try:
            with translated(path.name):
                note = self._note(path)
                if note is None:
                    os.ftruncate(fd, 0)
                    note = write_note(path, image_format, total_bytes)
            yield PartialUpload(self, path, fd, note)
        finally:
            os.close(fd)

    def received(self, owner: str, disk_number: int) -> Received | None:
        """What has arrived of the disk, or None."""
        path = self._path(owner, disk_number)
        note = self._note(path)
        try:
            status = path.stat()
        except FileNotFoundError:
            return None
        if note is None:
            return None
        return Received(status.st_size, note.format, note.total_bytes, status.st_mtime)

    def last_time(self, owner: str) -> float | None:
        """When the last byte of any of the owner's parts arrived, in seconds since the epoch."""
        times = []
        for part in self._folder(owner).glob("*.part"):
            with contextlib.suppress(FileNotFoundError):
                times.append(part.stat().st_mtime)
        return max(times, default=None)

    def discard(self, owner: str, *, published: bool) -> None:
        """Remove all parts of the owner, also one that is being written: its writer finds the cycle closed.

        ``published`` also removes wholes that were published from these parts.
        """
        for part in list(self._folder(owner).glob("*.part")):
            if published and (note := self._note(part)) is not None:
                self.store.remove(note.key)
            self.drop(part)

    def sweep(self, older_than_s: float) -> int:
        """Remove parts that nobody writes and that have not grown for so long; returns how many."""
        removed, limit = 0, time.time() - older_than_s
        for part in list(self._root.glob("*/*.part")):
            with contextlib.suppress(FileNotFoundError, BlockingIOError), part.open("rb") as file:
                if os.fstat(file.fileno()).st_mtime > limit:
                    continue
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.drop(part)
                removed += 1
        return removed

    def drop(self, path: Path) -> None:
        """Remove a part with its note, and the folder if it was the last in it."""
        with self._lock:
            self._hashes.pop(path, None)
        path.unlink(missing_ok=True)
        path.with_suffix(".json").unlink(missing_ok=True)
        path.with_name(f".{path.stem}.json.tmp").unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty, or gone
            path.parent.rmdir()
            self._root.rmdir()

    def running_hash(self, path: Path, fd: int) -> ChunkHasher | None:
        """The digest so far; None if it is not known here, since another process took the last chunk."""
        if os.fstat(fd).st_size == 0:
            return ChunkHasher()
        with self._lock:
            kept = self._hashes.pop(path, None)
        return kept[1] if kept is not None and kept[0] == _stamp(fd) else None

    def remember(self, path: Path, fd: int, hasher: ChunkHasher | None) -> None:
        """Keep a digest for the next chunk."""
        with self._lock:
            self._hashes.pop(path, None)
            if hasher is not None:
                self._hashes[path] = (_stamp(fd), hasher)
            while len(self._hashes) > _MOST_HASHES:
                del self._hashes[next(iter(self._hashes))]

    def _locked(self, path: Path) -> int:
        """Open and lock; look again whether the path still names what was locked, since a part may be dropped."""
        while True:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                fd = _open(path)
            except FileNotFoundError:  # the folder was dropped a moment ago
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(fd), path.stat()):
                    return fd
            except BlockingIOError:
                os.close(fd)
                raise UploadBusy(f"{path.stem} is being written by another request.") from None
            except FileNotFoundError:
                pass
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def _note(self, path: Path) -> _Note | None:
        stored = read_json(path.with_suffix(".json"))
        return None if stored is None else _Note(**stored)

    def _folder(self, owner: str) -> Path:
        return self._root / hashlib.sha256(owner.encode()).hexdigest()[:32]

    def _path(self, owner: str, disk_number: int) -> Path:
        return self._folder(owner) / f"disk{disk_number}.part"


def _open(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags, 0o600)
    except OSError as error:
        if error.errno != errno.EACCES:
            raise
        path.chmod(0o600)  # its process died between publish and discard
        return os.open(path, flags, 0o600)


def write_note(path: Path, image_format: str, total_bytes: int | None) -> _Note:
    """Begin a part: what its first chunk said, and a new key."""
    note = _Note(image_format, total_bytes, f"{uuid.uuid4().hex}/{path.stem}.{image_format}")
    write_json(path.with_suffix(".json"), dataclasses.asdict(note), durable=True)
    return note


def _stamp(fd: int) -> tuple[int, int, int]:
    status = os.fstat(fd)
    return status.st_ino, status.st_size, status.st_mtime_ns


def _hash_of(fd: int) -> ChunkHasher:
    hasher = ChunkHasher()
    offset = 0
    while block := os.pread(fd, _READ_BYTES, offset):
        hasher.update(block)
        offset += len(block)
    return hasher
