"""Disks of the QEMU target: thin qcow2 overlays on a pinned snapshot, which is only ever read."""

from __future__ import annotations

from pathlib import Path

from targets import guest
from targets.base import Snapshot
from targets.errors import AdaptationError, SourceGoneError
from targets.images import ImageError, inspect_image
from targets.local_files import fsync_folder
from targets.qemu_tools import DiskTools, sparse_copy, sync_file
from targets.snapshot_store import FileSnapshotStore, SnapshotStoreError

DISK_FILE = "disk.qcow2"
_TEMPORARY = f"{DISK_FILE}.tmp"


class DiskMaker:
    """Makes the file of a disk or an adapted image in the resource's folder: whole under its name, or not at all."""

    def __init__(self, tools: DiskTools, snapshots: FileSnapshotStore) -> None:
        self._tools = tools
        self._snapshots = snapshots

    def source(self, snapshot: Snapshot) -> Path:
        """The pinned snapshot's file, checked again: it is hostile input each time. Raises: SourceGoneError."""
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

    def make_overlay(self, folder: Path, snapshot: Snapshot) -> None:
        """A disk that shows the snapshot."""
        temporary = folder / _TEMPORARY
        self._tools.create_overlay(temporary, self.source(snapshot), snapshot.format)
        self._publish(temporary)

    def make_adapted(self, folder: Path, snapshot: Snapshot, hostname: str) -> None:
        """An overlay whose guest carries the host name, published only once it does. Raises: AdaptationError."""
        temporary = folder / _TEMPORARY
        self._tools.create_overlay(temporary, self.source(snapshot), snapshot.format)
        boot, config = self._tools.read_first_sectors(temporary)
        if not guest.is_config_sector(config):
            raise AdaptationError(
                f"The operating system on the VM's boot disk could not be adapted: found {guest.describe_boot_sector(boot)}"
                " and no guest that is known here; set skip_os_adaptation in the VM's policy to clone it as it is"
            )
        try:
            adapted = guest.with_hostname(config, hostname)
        except ValueError as error:
            raise AdaptationError(f"The guest could not be adapted: {error}.") from error
        self._tools.write_sector(temporary, guest.CONFIG_LBA, adapted)
        if self._tools.read_first_sectors(temporary)[1] != adapted:  # the effect counts, not the tool's exit status
            raise AdaptationError("The guest could not be adapted: its config sector did not change.")
        self._publish(temporary)

    def copy_adapted(self, folder: Path, image_folder: Path) -> None:
        """A disk that has the adapted image's content and does not need it: both lie on the same snapshot."""
        temporary = folder / _TEMPORARY
        sparse_copy(image_folder / DISK_FILE, temporary)
        self._publish(temporary)

    @staticmethod
    def _publish(temporary: Path) -> None:
        sync_file(temporary)
        temporary.rename(temporary.with_name(DISK_FILE))
        fsync_folder(temporary.parent)
