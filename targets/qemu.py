"""Clones as QEMU virtual machines on this host, without any daemon: folders say what exists, processes what runs.

No call holds anything in the process, and a virtual machine outlives the worker that started it. See
``qemu_folders`` for the files, ``qemu_disks`` for images, ``qemu_vm`` for processes.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from pathlib import Path

from targets import qemu_boot, qemu_copies, qemu_vm
from targets.adaptation import Policy
from targets.base import (
    AdaptedImageSpec,
    BootImageSpec,
    BootReport,
    DiskSpec,
    InstanceSpec,
    Observed,
    ResourceKind,
    ResourceRef,
    ResourceSpec,
    Status,
)
from targets.clone_modes import FULL, OVERLAY, known_mode_of
from targets.errors import ConflictError, RefusedError, TargetError, UnsupportedError
from targets.kept_adaptations import KeptAdaptations
from targets.local_files import Tombstones, check_job_id, storage_errors_translated
from targets.qemu_adapted import AdaptedImages
from targets.qemu_boot import BOOTED_PATTERN
from targets.qemu_disks import DiskMaker, disk_file
from targets.qemu_flatten import flatten_offline, flatten_running, has_backing, is_unlinked_overlay
from targets.qemu_folders import READY, Json, Meta, ResourceFolders, facts_of
from targets.qemu_host import host_of
from targets.qemu_machines import MachineOptions, Machines
from targets.qemu_tools import DiskTools, find_tool
from targets.snapshot_holder import Progress
from targets.snapshot_links import check_linkable, drop_base
from targets.snapshot_store import FileSnapshotStore

# Shares of call_timeout_s, so that no call takes longer.
# A create waits for its lock, then runs five tools, or three and adapts and waits for another lock, or QEMU.
_LOCK_SHARE, _TOOL_SHARE, _ADAPT_SHARE, _KEEP_SHARE, _STOP_SHARE, _SCREEN_SHARE = 0.25, 0.1, 0.4, 0.05, 0.1, 0.3


class QemuTarget:
    """See ``targets.base.Target``. Everything is under ``root``; several processes may use one root.

    ``boot_pattern``: what the serial console of a booted guest shows.
    """

    boots_from_image = False
    clone_modes: tuple[str, ...] = (OVERLAY, FULL)

    def __init__(
        self,
        root: str | Path,
        snapshots: FileSnapshotStore,
        *,
        name: str = "local",
        qemu_binary: str = "qemu-system-x86_64",
        qemu_img: str = "qemu-img",
        qemu_io: str = "qemu-io",
        machines: MachineOptions | None = None,
        call_timeout_s: float = 30.0,
        boot_pattern: str = BOOTED_PATTERN,
        clone_mode: str = OVERLAY,
        os_adaptation: Policy = Policy.REQUIRED,
    ) -> None:
        self.name = name
        self.call_timeout_s = call_timeout_s
        self.root = Path(root).resolve()
        self._snapshots = snapshots
        self._programs = (qemu_binary, qemu_img, qemu_io)
        self.clone_mode = clone_mode
        self._boot_pattern = re.compile(boot_pattern.encode())
        self._folders = ResourceFolders(self.root, lock_timeout_s=call_timeout_s * _LOCK_SHARE)
        options = replace(machines or MachineOptions(), binary=qemu_binary)
        self._has_vmhost = options.vmhost
        self._machines = Machines(self._folders, host_of(self.root, self._folders, options, call_timeout_s))
        self._tombstones = Tombstones(self.root / "tombstones", durable=True)
        self.remove_tombstone = self._tombstones.remove_of_kit  # for the conformance kit
        tools = DiskTools(qemu_img, qemu_io, timeout_s=call_timeout_s * _TOOL_SHARE)
        self._kept = KeptAdaptations(self.root, snapshots, os_adaptation, lock_timeout_s=call_timeout_s * _KEEP_SHARE)
        self._adapted = AdaptedImages(tools, self._kept, os_adaptation, timeout_s=call_timeout_s * _ADAPT_SHARE)
        self._disks = DiskMaker(tools, snapshots)

    def check(self, specs: Sequence[ResourceSpec]) -> None:
        """Programs are installed, snapshots are there and sound, machine types are known. See ``Target.check``."""
        for program in () if self._has_vmhost else (*self._programs, "prlimit"):  # else they are in its image
            find_tool(program)
        for spec in specs:
            self._folders.path(spec.ref)
            if isinstance(spec, InstanceSpec):
                self._machines.check(spec)
            elif isinstance(spec, BootImageSpec):
                raise _no_boot_images()
            else:
                source = self._disks.check(spec)
                if isinstance(spec, AdaptedImageSpec) or known_mode_of(self, spec.clone_mode) != FULL:
                    check_linkable(source, self.root)

    def create(self, spec: ResourceSpec) -> Observed:
        """See ``Target.create``."""
        if isinstance(spec, BootImageSpec):
            raise _no_boot_images()
        owner = spec.owner
        check_job_id(owner.job_id)
        with storage_errors_translated(), self._folders.locked(spec.ref):
            seen = self.find(spec.ref)
            if seen is not None and seen.job_id != owner.job_id:
                raise ConflictError(f"{spec.ref} exists and does not belong to job {owner.job_id}.")
            meta = self._folders.meta(spec.ref)
            if meta is not None and isinstance(spec, DiskSpec) and qemu_copies.is_copy(meta):
                meta = self._go_on(spec, meta)
            elif meta is None or meta.state != READY or (seen is not None and seen.status is Status.FAILED):
                meta = self._make_anew(spec)
            elif isinstance(spec, InstanceSpec) and seen is not None and seen.status is Status.STOPPED:
                self._tombstones.refuse_buried(owner.job_id)
                self._machines.start(spec, meta, self._disks_of(spec))
            else:
                self._tombstones.refuse_buried(owner.job_id)
        status = Status.READY if meta.state == READY else Status.CREATING
        return Observed(spec.ref, meta.uid, status, meta.labels, report=meta.report)

    def find(self, ref: ResourceRef, job_id: str | None = None) -> Observed | None:
        """See ``Target.find``. A machine that runs without its folder is found by its process."""
        with storage_errors_translated():
            return self._find(ref)

    def delete(self, ref: ResourceRef, *, job_id: str, uid: str) -> None:
        """See ``Target.delete``. A machine is asked to quit, killed after 2 s, and gone when this returns."""
        with storage_errors_translated(), self._folders.locked(ref):
            seen = self.find(ref)
            if seen is None:
                return
            if seen.uid != uid or seen.job_id != job_id:
                raise ConflictError(f"{ref} is not the one that was to be deleted; it stays.")
            self._remove(ref, uid)

    def bury(self, job_id: str) -> None:
        """See ``Target.bury``. A create that is under way is seen by ``find``: it claims the name before it looks."""
        with storage_errors_translated():
            self._tombstones.bury(job_id)

    def inventory(self) -> list[Observed]:
        """See ``Target.inventory``."""
        with storage_errors_translated():
            found = [seen for ref in self._folders.refs() if (seen := self.find(ref)) is not None]
        lone = [seen for seen in self._machines.orphans() if seen.uid not in {each.uid for each in found}]
        return [seen for seen in (*found, *lone) if seen.job_id is not None]

    def held_snapshots(self) -> set[str]:
        """See ``SnapshotHolder``: those of disks that have no link to their base and name it by its path."""
        with storage_errors_translated():
            noted = [(self._folders.meta(ref), disk_file(self._folders.path(ref))) for ref in self._folders.refs()]
            return {meta.facts["snapshot"] for meta, disk in noted if meta is not None and is_unlinked_overlay(disk)}

    def flatten(self, ref: ResourceRef, *, job_id: str, uid: str, progress: Progress) -> bool:
        """See ``SnapshotHolder``. The link to the snapshot goes last."""
        with storage_errors_translated(), self._folders.locked(ref):
            seen, disk = self._find(ref), disk_file(self._folders.path(ref))
            if seen is None or (seen.uid, seen.job_id, seen.status) != (uid, job_id, Status.READY):
                raise ConflictError(f"{ref} is not the one that was to be made independent; it stays as it is.")
            needed = has_backing(disk)
            if needed and (machine := self._machines.running_with(ref.name)) is not None:
                flatten_running(disk, machine, progress)
            elif needed:
                flatten_offline(disk, self._programs[1], progress)
            drop_base(disk.parent)
            return needed

    def kept_adaptation(self, spec: AdaptedImageSpec) -> dt.datetime | None:
        """See ``AdaptationKeeper``."""
        with storage_errors_translated():
            return kept.made_at if (kept := self._kept.find(spec)) else None

    def drop_adaptations(self, snapshots: AbstractSet[str], *, dry_run: bool) -> int:
        """See ``AdaptationKeeper``."""
        with storage_errors_translated():
            return self._kept.drop(snapshots, dry_run=dry_run)

    def boot_report(self, ref: ResourceRef) -> BootReport:
        """See ``Target.boot_report``. ``boot_seconds`` runs from QEMU's start to the guest's last output."""
        with storage_errors_translated():
            meta = self._folders.meta(ref)
            started_at = None if meta is None else meta.started_at
            return qemu_boot.report(self._folders.path(ref), started_at, self._boot_pattern)

    def screenshot(self, ref: ResourceRef) -> bytes | None:
        """See ``Target.screenshot``: of a machine that runs, also one that is paused."""
        with storage_errors_translated():
            meta, folder = self._folders.meta(ref), self._folders.path(ref)
            timeout_s = self.call_timeout_s * _SCREEN_SHARE
            if meta is None:
                return None
            return qemu_vm.screenshot(folder, lambda: self._machines.runs(ref, meta), timeout_s=timeout_s)

    def _find(self, ref: ResourceRef) -> Observed | None:
        looked = self._folders.look(ref)
        if looked is None:
            orphans = self._machines.orphans() if ref.kind is ResourceKind.INSTANCE else ()
            return next((seen for seen in orphans if seen.ref == ref), None)
        seen, meta = looked
        folder = self._folders.path(ref)
        if meta is not None and qemu_copies.is_copy(meta):
            return qemu_copies.as_seen(seen, folder)
        if meta is None or meta.state != READY:
            return seen
        if ref.kind is ResourceKind.INSTANCE:
            return seen if self._machines.runs(ref, meta) else replace(seen, status=Status.STOPPED)
        if not disk_file(folder).is_file():
            return replace(seen, status=Status.FAILED, detail="its disk file is gone")
        return seen

    def _make_anew(self, spec: AdaptedImageSpec | DiskSpec | InstanceSpec) -> Meta:
        """Make the resource from nothing: what is left of a half-made one goes first."""
        if isinstance(spec, InstanceSpec) and (adopted := self._machines.adopt(spec.ref)) is not None:
            self._tombstones.refuse_buried(spec.owner.job_id)
            return adopted
        left = self.find(spec.ref)
        if left is not None:
            self._remove(spec.ref, left.uid)
        extra = {} if isinstance(spec, AdaptedImageSpec) else spec.labels
        mode = known_mode_of(self, spec.clone_mode) if isinstance(spec, DiskSpec) else ""
        meta = self._folders.claim(spec.ref, {**extra, **spec.owner.labels()}, facts_of(spec, mode))
        try:
            # After the claim: clean-up buries first and then looks, so one of the two sees the other.
            self._tombstones.refuse_buried(spec.owner.job_id)
            if isinstance(spec, InstanceSpec):
                return self._machines.start(spec, meta, self._disks_of(spec))
            if isinstance(spec, DiskSpec) and qemu_copies.is_copy(meta):
                self._copy(spec, meta)
                return meta
            return self._folders.save(spec.ref, replace(meta, state=READY, report=self._make_disk(spec)))
        except (TargetError, OSError):
            self._remove(spec.ref, meta.uid)
            raise

    def _copy(self, spec: DiskSpec, meta: Meta) -> None:
        folder, image = self._folders.path(spec.ref), self._image_of(spec)
        self._disks.start_copy(folder, spec.snapshot, image, label=meta.uid, qemu_img=self._programs[1])

    def _go_on(self, spec: DiskSpec, meta: Meta) -> Meta:
        """A full copy that was begun: it is done, it runs, it is taken up again, or it can never succeed."""
        folder = self._folders.path(spec.ref)
        self._tombstones.refuse_buried(spec.owner.job_id)
        if qemu_copies.is_running(folder):
            return meta
        if disk_file(folder).is_file():
            return replace(meta, state=READY)
        state = qemu_copies.state_of(folder) or {}
        if state.get("permanent"):
            self._remove(spec.ref, meta.uid)
            raise RefusedError(f"{spec.ref} could not be copied: {state['error']}.")
        self._copy(spec, meta)
        return meta

    def _make_disk(self, spec: AdaptedImageSpec | DiskSpec) -> Json | None:
        folder = self._folders.path(spec.ref)
        if isinstance(spec, AdaptedImageSpec):
            return self._disks.make_adapted(folder, spec, self._adapted)
        image = self._image_of(spec)
        if image is None:
            self._disks.make_overlay(folder, spec.snapshot)
        else:
            self._disks.copy_adapted(folder, image)
        return None

    def _image_of(self, spec: DiskSpec) -> Path | None:
        name = spec.adapted_image
        return None if name is None else self._require(spec, ResourceRef(ResourceKind.ADAPTED_IMAGE, name))

    def _disks_of(self, spec: InstanceSpec) -> list[Path]:
        return [disk_file(self._require(spec, ResourceRef(ResourceKind.DISK, name))) for name in spec.disks]

    def _require(self, spec: ResourceSpec, part: ResourceRef) -> Path:
        """The folder of a READY part of the same job. Raises: RefusedError."""
        seen = self.find(part)
        if seen is None or seen.status is not Status.READY or seen.job_id != spec.owner.job_id:
            raise RefusedError(f"{spec.ref} needs {part}, which is not ready.")
        return self._folders.path(part)

    def _remove(self, ref: ResourceRef, uid: str) -> None:
        if ref.kind is ResourceKind.INSTANCE:
            self._machines.stop(ref, uid)
        elif ref.kind is ResourceKind.DISK:
            qemu_copies.stop(self._folders.path(ref), uid, timeout_s=self.call_timeout_s * _STOP_SHARE)
        self._adapted.release(self._folders.path(ref))
        self._folders.remove(ref)


def _no_boot_images() -> UnsupportedError:
    return UnsupportedError("A QEMU host starts instances from disks, not from images.")
