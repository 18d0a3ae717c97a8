"""Disks of the QEMU target: thin qcow2 overlays on a pinned snapshot, which is only ever read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from targets import qemu_copies
from targets.adaptation import check_modifiers
from targets.base import AdaptedImageSpec, DiskSpec, Snapshot
from targets.errors import SourceGoneError, UnsupportedError
from targets.images import ImageError, inspect_image
from targets.local_files import fsync_folder
from targets.qemu_adapted import AdaptedImages
from targets.qemu_folders import DISK_FILE, RAW_DISK_FILE, disk_file
from targets.qemu_tools import DiskTools, sparse_copy, sync_file
from targets.snapshot_links import share_base
from targets.snapshot_store import FileSnapshotStore, SnapshotStoreError

__all__ = ["DISK_FILE", "DiskMaker", "disk_file"]
_TEMPORARY = f"{DISK_FILE}.tmp"


class DiskMaker:
    """Makes the file of a disk or an adapted image in the resource's folder: whole under its name, or not at all."""

    def __init__(self, tools: DiskTools, snapshots: FileSnapshotStore) -> None:
        self._tools = tools
        self._snapshots = snapshots

    def source(self, snapshot: Snapshot) -> Path:
        """The pinned snapshot's file, checked again: it is hostile input each time.

        Raises: SourceGoneError; UnsupportedError for a snapshot by reference.
        """
        if snapshot.format == "reference":
            raise UnsupportedError(
                f"Disk {snapshot.key} lies at its provider, and QEMU needs a file here: upload the disk with clonejob vm "
                "import VM --disk FILE, or clone on a target at that provider."
            )
        try:
            path = self._snapshots.path(snapshot.key)
            info = inspect_image(path, snapshot.format)
        except (SnapshotStoreError, ImageError) as error:
            raise SourceGoneError(f"The pinned snapshot {snapshot.key} cannot be used: {error}") from error
        if info.virtual_size_bytes != snapshot.virtual_size_bytes:
            raise SourceGoneError(
                f"The pinned snapshot {snapshot.key} is not what was uploaded: its disk has {info.virtual_size_bytes} "
                f"bytes instead of {snapshot.virtual_size_bytes}."
            )
        return path

    def check(self, spec: AdaptedImageSpec | DiskSpec) -> Path:
        """The snapshot's file. Raises: SourceGoneError; UnsupportedError for adaptation modifiers that are not known."""
        if isinstance(spec, AdaptedImageSpec):
            check_modifiers(spec.modifiers)
        return self.source(spec.snapshot)

    def make_overlay(self, folder: Path, snapshot: Snapshot) -> None:
        """A disk that shows the snapshot."""
        temporary = folder / _TEMPORARY
        self._tools.create_overlay(temporary, self.source(snapshot), snapshot.format)
        self._publish(temporary)

    def make_adapted(self, folder: Path, spec: AdaptedImageSpec, adapted: AdaptedImages) -> Mapping[str, Any]:
        """An overlay whose guest is adapted, published only once it is; returns the report.

        Raises: AdaptationError if the policy asks for more than could be done.
        """
        temporary = folder / _TEMPORARY
        report = adapted.make(temporary, self.source(spec.snapshot), spec)
        self._publish(temporary)
        return report

    def copy_adapted(self, folder: Path, image_folder: Path) -> None:
        """A disk that has the adapted image's content and does not need it: each holds what both lie on by itself."""
        temporary = folder / _TEMPORARY
        share_base(image_folder, folder)
        sparse_copy(image_folder / DISK_FILE, temporary)
        self._publish(temporary)

    def start_copy(
        self, folder: Path, snapshot: Snapshot, image_folder: Path | None, *, label: str, qemu_img: str
    ) -> None:
        """Begin a full copy of the snapshot, or of the adapted image on it, or take up the one that died."""
        source = self.source(snapshot)
        convert = source if snapshot.format != "raw" else None
        if image_folder is not None:
            convert = image_folder / DISK_FILE
        qemu_copies.start(
            folder, label=label, verify=source, sha256=snapshot.sha256, convert=convert,
            target=RAW_DISK_FILE if convert is None else DISK_FILE, total_bytes=source.stat().st_size,
            qemu_img=qemu_img,
        )  # fmt: skip

    @staticmethod
    def _publish(temporary: Path) -> None:
        sync_file(temporary)
        temporary.rename(temporary.with_name(DISK_FILE))
        fsync_folder(temporary.parent)
