"""What the targets that keep files share: legal names, atomic JSON, locks between processes, tombstones."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from targets.errors import RefusedError, TombstonedError, TransientError

_NAME = re.compile(r"[a-z0-9][-a-z0-9]{0,127}")
_JOB_ID = re.compile(r"[a-z0-9][-_a-z0-9]{0,62}")
KIT_PREFIX = "kit-"  # of the conformance kit's job ids; a clone job's id is hexadecimal
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.0005, 0.02


def is_legal_name(name: str) -> bool:
    """Whether ``check_name`` accepts it."""
    return _NAME.fullmatch(name) is not None


def check_name(name: str) -> str:
    """``name`` if it is safe as a file name and in every provider. Raises: RefusedError."""
    if not is_legal_name(name):
        raise RefusedError(f"Name {name!r} is not legal: use 1 to 128 of a-z, 0-9 and '-', not starting with '-'.")
    return name


def check_job_id(job_id: str) -> str:
    """``job_id`` if it is a legal label value and file name. Raises: RefusedError."""
    if not _JOB_ID.fullmatch(job_id):
        raise RefusedError(f"Job id {job_id!r} is not legal: use 1 to 63 of a-z, 0-9, '-' and '_'.")
    return job_id


@contextlib.contextmanager
def storage_errors_translated() -> Iterator[None]:
    """What the file system refuses, as a target's answer: RefusedError for a full disk, otherwise TransientError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RefusedError("The disk that holds the clones is full; free some space.") from error
        raise TransientError(f"The file system failed: {error.strerror or error}.") from error


def fsync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable: a rename is only safe from a power loss after this."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_json(path: Path, value: Mapping[str, Any], *, durable: bool) -> None:
    """
    Replace ``path`` in one step; ``durable`` also survives a power loss, otherwise only the process's death.

    The temporary name is fixed, so callers hold the lock of what they write.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    with os.fdopen(fd, "wb", buffering=0) as file:
        left = memoryview(json.dumps(value, separators=(",", ":")).encode())
        while left:  # a disk that is nearly full takes a part, and refuses only what comes after it
            left = left[file.write(left) :]
        if durable:
            os.fsync(fd)
    temporary.replace(path)
    if durable:
        fsync_folder(path.parent)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in ``path``, or None if there is no such file. Raises: ValueError if it holds something else."""
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    value = json.loads(data)
    if not isinstance(value, dict):
        message = f"{path.name} does not hold a JSON object"
        raise ValueError(message)  # noqa: TRY004 - the content is wrong, not a type
    return value


@contextlib.contextmanager
def locked(path: Path, *, timeout_s: float) -> Iterator[None]:
    """
    Hold the lock file ``path`` against other threads and processes; a killed holder frees it.

    The descriptor closes on exec, so a virtual machine that is started under the lock never inherits it. The file is
    removed before it is released, so locks leave nothing behind. Raises: TransientError after ``timeout_s``.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            _flock(fd, fcntl.LOCK_EX, deadline, path.name)
            if not _is_at(fd, path):  # the last holder removed this file while we waited: take the new one
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return
        finally:
            os.close(fd)


@contextlib.contextmanager
def settled(path: Path, *, timeout_s: float) -> Iterator[None]:
    """
    Wait until no one holds the lock file ``path``, and keep it so; makes no file when there is none.

    Raises: TransientError after ``timeout_s``.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            yield
            return
        try:
            _flock(fd, fcntl.LOCK_SH, deadline, path.name)
            if not _is_at(fd, path):
                continue
            yield
            return
        finally:
            os.close(fd)


def is_locked(path: Path) -> bool:
    """Whether someone holds the lock file ``path`` right now."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def sweep_locks(folder: Path) -> None:
    """Remove the lock files in ``folder`` whose holders were killed."""
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError, TransientError), locked(path, timeout_s=0):
            pass


def _flock(fd: int, mode: int, deadline: float, what: str) -> None:
    wait_s = _FIRST_WAIT_S
    while True:
        try:
            fcntl.flock(fd, mode | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise TransientError(f"Another process is still working on {what}; try again.") from None
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)


def _is_at(fd: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    here = os.fstat(fd)
    return (there.st_ino, there.st_dev) == (here.st_ino, here.st_dev)


class Tombstones:
    """One empty file per job whose resources must not come back. Kept for ever: a late call has no time limit.

    Only the conformance kit takes its own away again: it has made every call for its jobs itself, and waited for it.
    """

    def __init__(self, folder: Path, *, durable: bool) -> None:
        self._folder = folder
        self._durable = durable
        folder.mkdir(parents=True, exist_ok=True)

    def bury(self, job_id: str) -> None:
        """Leave the tombstone of ``job_id``; again is fine."""
        os.close(os.open(self._folder / check_job_id(job_id), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
        if self._durable:
            fsync_folder(self._folder)

    def remove_of_kit(self, job_id: str) -> None:
        """Remove the tombstone of one of the kit's jobs. Raises: RefusedError for any other job."""
        if not job_id.startswith(KIT_PREFIX):
            raise RefusedError(f"The tombstone of job {job_id} is kept for ever; only those of {KIT_PREFIX}… may go.")
        (self._folder / check_job_id(job_id)).unlink(missing_ok=True)

    def refuse_buried(self, job_id: str) -> None:
        """Raises: TombstonedError if ``job_id`` was buried."""
        if (self._folder / job_id).exists():
            raise TombstonedError(f"Job {job_id} was already cleaned up here; nothing is made for it any more.")
