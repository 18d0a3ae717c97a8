"""Snapshots for a run of the kit, in a folder of its own, removed at its end, or by the next run if it was killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from targets.base import Snapshot
from targets.guest import build_disk
from targets.images import inspect_image
from targets.local_files import KIT_PREFIX, locked
from targets.snapshot_store import FileSnapshotStore

GUEST_BYTES = 1024 * 1024
_BLOCK_BYTES = 1024 * 1024
_LOCK_S = 30.0


@contextlib.contextmanager
def kit_snapshots(
    store: FileSnapshotStore, images: Sequence[tuple[Path, str]] = ()
) -> Iterator[tuple[tuple[Snapshot, ...], Snapshot]]:
    """Snapshots of these image files and formats, or of our own tiny guest, and one that does not exist.

    Raises: SnapshotStoreError, ImageError, OSError, TransientError.
    """
    prefix = f"{KIT_PREFIX}{uuid.uuid4().hex[:12]}"
    kept: list[Snapshot] = []
    with _folder(store.root, prefix) as folder:
        for path, image_format in images or [(build_disk(folder / "guest.raw", size_bytes=GUEST_BYTES), "raw")]:
            key = f"{prefix}/disk{len(kept)}.{image_format}"
            kept.append(_keep(store, key, path, image_format))
        gone = Snapshot(f"{prefix}/gone.{kept[0].format}", kept[0].format, kept[0].virtual_size_bytes, kept[0].sha256)
        yield tuple(kept), gone


@contextlib.contextmanager
def _folder(root: Path, prefix: str) -> Iterator[Path]:
    """A folder that is removed at the end; its lock tells other runs that this one lives."""
    root.mkdir(parents=True, exist_ok=True)
    with locked(
        root / ".kit.lock", timeout_s=_LOCK_S
    ):  # a folder that is made and not locked yet must not look like a dead run's
        for left in root.glob(f"{KIT_PREFIX}*"):
            _remove_if_dead(left)
        folder = root / prefix
        folder.mkdir()
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
        os.close(fd)


def _remove_if_dead(folder: Path) -> None:
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # its run has just ended
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        pass
    finally:
        os.close(fd)


def _keep(store: FileSnapshotStore, key: str, path: Path, image_format: str) -> Snapshot:
    info = inspect_image(path, image_format)
    with path.open("rb") as file, store.writer(key) as writer:
        while block := file.read(_BLOCK_BYTES):
            writer.write(block)
    return Snapshot(key, image_format, info.virtual_size_bytes, writer.sha256)
