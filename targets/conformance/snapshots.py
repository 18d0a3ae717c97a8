"""Snapshots for a run of the kit, under keys of its own, removed at its end."""

from __future__ import annotations

import contextlib
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from targets.base import Snapshot
from targets.guest import build_disk
from targets.images import inspect_image
from targets.snapshot_store import FileSnapshotStore

GUEST_BYTES = 1024 * 1024
_BLOCK_BYTES = 1024 * 1024


@contextlib.contextmanager
def kit_snapshots(
    store: FileSnapshotStore, images: Sequence[tuple[Path, str]] = ()
) -> Iterator[tuple[tuple[Snapshot, ...], Snapshot]]:
    """Snapshots of these image files and formats, or of our own tiny guest, and one that does not exist.

    Raises: SnapshotStoreError, ImageError, OSError.
    """
    prefix = f"kit-{uuid.uuid4().hex[:12]}"
    kept: list[Snapshot] = []
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        for path, image_format in images or [(build_disk(Path(folder) / "guest.raw", size_bytes=GUEST_BYTES), "raw")]:
            key = f"{prefix}/disk{len(kept)}.{image_format}"
            stack.callback(store.remove, key)
            kept.append(_keep(store, key, path, image_format))
        gone = Snapshot(f"{prefix}/gone.{kept[0].format}", kept[0].format, kept[0].virtual_size_bytes, kept[0].sha256)
        yield tuple(kept), gone


def _keep(store: FileSnapshotStore, key: str, path: Path, image_format: str) -> Snapshot:
    info = inspect_image(path, image_format)
    with path.open("rb") as file, store.writer(key) as writer:
        while block := file.read(_BLOCK_BYTES):
            writer.write(block)
    return Snapshot(key, image_format, info.virtual_size_bytes, writer.sha256)
