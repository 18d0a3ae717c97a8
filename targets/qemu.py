"""Clones as QEMU virtual machines on this host, without any daemon: folders say what exists, processes what runs.

No call holds anything in the process, and a virtual machine outlives the worker that started it. See
``qemu_folders`` for the files, ``qemu_disks`` for images, ``qemu_vm`` for processes.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from targets import qemu_vm
from targets.base import (
    LABEL_EPOCH,
    LABEL_JOB_ID,
    AdaptedImageSpec,
    BootReport,
    BootVerdict,
    DiskSpec,
    InstanceSpec,
    Observed,
    ResourceKind,
    ResourceRef,
    ResourceSpec,
    Status,
    token,
)
from targets.errors import ConflictError, RefusedError, TargetError, TransientError
from targets.local_files import Tombstones, check_job_id, storage_errors_translated
from targets.qemu_disks import DISK_FILE, DiskMaker
from targets.qemu_folders import MAKING, READY, Meta, ResourceFolders
from targets.qemu_machine import FIRMWARE_LOG, SERIAL_LOG, VmLabel, command_line, parse_machine_type
from targets.qemu_tools import DiskTools, find_tool
from targets.snapshot_store import FileSnapshotStore

BOOTED_PATTERN = r"BOOTED hostname=[^\n]*\n|\blogin: "
_NO_BOOT = b"No bootable device."
_CONSOLE_BYTES = 8 * 1024
# Shares of call_timeout_s, so that no call takes longer: a create waits for its lock, then runs four tools or QEMU.
_LOCK_SHARE, _TOOL_SHARE, _START_SHARE, _KILL_SHARE = 0.3, 0.15, 0.3, 0.1
_STOP_ATTEMPTS = 3  # a machine whose creator was killed while it started may fork once more


class QemuTarget:
    """See ``targets.base.Target``. Everything is under ``root``; several processes may use one root.

    ``accel`` is QEMU's; "tcg" works everywhere. ``boot_pattern``: what the serial console of a booted guest shows.
    """

    def __init__(
        self,
        root: str | Path,
        snapshots: FileSnapshotStore,
        *,
        name: str = "local",
        qemu_binary: str = "qemu-system-x86_64",
        qemu_img: str = "qemu-img",
        qemu_io: str = "qemu-io",
        accel: str = "tcg",
        call_timeout_s: float = 30.0,
        default_memory_mb: int = 64,
        boot_pattern: str = BOOTED_PATTERN,
    ) -> None:
        self.name = name
        self.call_timeout_s = call_timeout_s
        self.root = Path(root).resolve()
        self._snapshots = snapshots
        self._programs = (qemu_binary, qemu_img, qemu_io)
        self._accel = accel
        self._default_memory_mb = default_memory_mb
        self._boot_pattern = re.compile(boot_pattern.encode())
        self._root_id = hashlib.sha256(str(self.root).encode()).hexdigest()[:16]
        self._folders = ResourceFolders(self.root, lock_timeout_s=call_timeout_s * _LOCK_SHARE)
        self._tombstones = Tombstones(self.root / "tombstones", durable=True)
        tools = DiskTools(qemu_img, qemu_io, timeout_s=call_timeout_s * _TOOL_SHARE)
        self._disks = DiskMaker(tools, snapshots)

    def check(self, specs: Sequence[ResourceSpec]) -> None:
        """Programs are installed, snapshots are there and sound, machine types are known. See ``Target.check``."""
        for program in (*self._programs, "prlimit"):
            find_tool(program)
        for spec in specs:
            self._folders.path(spec.ref)
            if isinstance(spec, InstanceSpec):
                parse_machine_type(spec.machine_type, default_memory_mb=self._default_memory_mb)
            else:
                self._disks.source(spec.snapshot)

    def create(self, spec: ResourceSpec) -> Observed:
        """See ``Target.create``."""
        owner = spec.owner
        check_job_id(owner.job_id)
        with storage_errors_translated(), self._folders.locked(spec.ref):
            seen = self.find(spec.ref)
            if seen is not None and seen.job_id != owner.job_id:
                raise ConflictError(f"{spec.ref} exists and does not belong to job {owner.job_id}.")
            meta = self._folders.meta(spec.ref)
            if meta is None or meta.state != READY or (seen is not None and seen.status is Status.FAILED):
                meta = self._make_anew(spec)
            elif isinstance(spec, InstanceSpec) and seen is not None and seen.status is Status.STOPPED:
                self._tombstones.refuse_buried(owner.job_id)
                self._start(spec, meta)
            else:
                self._tombstones.refuse_buried(owner.job_id)
        return Observed(spec.ref, meta.uid, Status.READY, meta.labels)

    def find(self, ref: ResourceRef) -> Observed | None:
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
        known = {seen.uid for seen in found}
        lone = [_orphan(vm.label) for vm in qemu_vm.running(self._root_id) if vm.label.uid not in known]
        return [seen for seen in (*found, *lone) if seen.job_id is not None]

    def boot_report(self, ref: ResourceRef) -> BootReport:
        """See ``Target.boot_report``. ``boot_seconds`` runs from QEMU's start to the guest's last output."""
        with storage_errors_translated():
            return self._boot_report(ref)

    def _find(self, ref: ResourceRef) -> Observed | None:
        looked = self._folders.look(ref)
        if looked is None:
            orphans = [] if ref.kind is not ResourceKind.INSTANCE else qemu_vm.running(self._root_id)
            return next((_orphan(vm.label) for vm in orphans if vm.label.name == ref.name), None)
        seen, meta = looked
        if meta is None or meta.state != READY:
            return seen
        folder = self._folders.path(ref)
        if ref.kind is ResourceKind.INSTANCE:
            runs = qemu_vm.of_instance(folder, self._root_id, meta.uid)
            return seen if runs else replace(seen, status=Status.STOPPED)
        if not (folder / DISK_FILE).is_file():
            return replace(seen, status=Status.FAILED, detail="its disk file is gone")
        return seen

    def _boot_report(self, ref: ResourceRef) -> BootReport:
        folder, meta = self._folders.path(ref), self._folders.meta(ref)
        serial = _tail(folder / SERIAL_LOG)
        console = serial.decode(errors="replace")
        if match := self._boot_pattern.search(serial):
            # The file's time is that of its last output: only if that was the match does it tell the boot's end.
            is_last = match.end() == len(serial) and meta is not None and meta.started_at is not None
            end = (folder / SERIAL_LOG).stat().st_mtime
            seconds = max(0.0, end - meta.started_at) if is_last and meta and meta.started_at else None
            return BootReport(BootVerdict.BOOTED, console, seconds)
        if _NO_BOOT in _tail(folder / FIRMWARE_LOG):
            return BootReport(BootVerdict.NO_BOOT, console, detail="The firmware found no bootable device.")
        return BootReport(BootVerdict.WAITING, console)

    def _make_anew(self, spec: ResourceSpec) -> Meta:
        """Make the resource from nothing: what is left of a half-made one goes first."""
        if isinstance(spec, InstanceSpec):
            adopted = self._adopt(spec.ref)
            if adopted is not None:
                self._tombstones.refuse_buried(spec.owner.job_id)
                return adopted
        left = self.find(spec.ref)
        if left is not None:
            self._remove(spec.ref, left.uid)
        extra = {} if isinstance(spec, AdaptedImageSpec) else spec.labels
        meta = self._folders.claim(spec.ref, {**extra, **spec.owner.labels()}, _facts(spec))
        try:
            # After the claim: clean-up buries first and then looks, so one of the two sees the other.
            self._tombstones.refuse_buried(spec.owner.job_id)
            if isinstance(spec, InstanceSpec):
                return self._start(spec, meta)
            self._make_disk(spec)
            return self._folders.save(spec.ref, replace(meta, state=READY))
        except (TargetError, OSError):
            self._remove(spec.ref, meta.uid)
            raise

    def _make_disk(self, spec: AdaptedImageSpec | DiskSpec) -> None:
        folder = self._folders.path(spec.ref)
        if isinstance(spec, AdaptedImageSpec):
            self._disks.make_adapted(folder, spec.snapshot, spec.hostname)
        elif spec.adapted_image is None:
            self._disks.make_overlay(folder, spec.snapshot)
        else:
            image = self._require(spec, ResourceRef(ResourceKind.ADAPTED_IMAGE, spec.adapted_image))
            self._disks.copy_adapted(folder, image)

    def _adopt(self, ref: ResourceRef) -> Meta | None:
        """The instance that a creator started before it died, if its machine answers."""
        meta, folder = self._folders.meta(ref), self._folders.path(ref)
        if meta is None or meta.state != MAKING or meta.started_at is None:
            return None
        if qemu_vm.of_instance(folder, self._root_id, meta.uid) and qemu_vm.is_answering(folder):
            return self._folders.save(ref, replace(meta, state=READY))
        return None

    def _start(self, spec: InstanceSpec, meta: Meta) -> Meta:
        machine = parse_machine_type(spec.machine_type, default_memory_mb=self._default_memory_mb)
        disks = [self._require(spec, ResourceRef(ResourceKind.DISK, name)) / DISK_FILE for name in spec.disks]
        job_id, epoch = meta.labels[LABEL_JOB_ID], meta.labels[LABEL_EPOCH]
        command = command_line(
            find_tool(self._programs[0]),
            accel=self._accel,
            machine=machine,
            label=VmLabel(self._root_id, spec.ref.name, job_id, epoch, meta.uid),
            vm_uuid=token(job_id, spec.ref.name),
            disks=disks,
        )
        meta = self._folders.save(spec.ref, replace(meta, started_at=time.time()))
        try:
            qemu_vm.start(command, self._folders.path(spec.ref), timeout_s=self.call_timeout_s * _START_SHARE)
        except RefusedError as error:
            raise RefusedError(
                f"QEMU refused to start {spec.ref} with {machine.cpus} CPU(s) and {machine.memory_mb} MB of memory: "
                f"{error}."
            ) from error
        return self._folders.save(spec.ref, replace(meta, state=READY))

    def _require(self, spec: ResourceSpec, part: ResourceRef) -> Path:
        """The folder of a READY part of the same job. Raises: RefusedError."""
        seen = self.find(part)
        if seen is None or seen.status is not Status.READY or seen.job_id != spec.owner.job_id:
            raise RefusedError(f"{spec.ref} needs {part}, which is not ready.")
        return self._folders.path(part)

    def _remove(self, ref: ResourceRef, uid: str) -> None:
        if ref.kind is ResourceKind.INSTANCE:
            self._stop(ref, uid)
        self._folders.remove(ref)

    def _stop(self, ref: ResourceRef, uid: str) -> None:
        """End the instance's processes, and look at the whole process list before that is believed."""
        folder = self._folders.path(ref)
        for _ in range(_STOP_ATTEMPTS):
            vms = [vm for vm in qemu_vm.running(self._root_id) if vm.label.uid == uid]
            if not vms:
                return
            qemu_vm.stop(vms, folder, timeout_s=self.call_timeout_s * _KILL_SHARE)
        raise TransientError(f"{ref} still has a process after it was killed; try again.")


def _facts(spec: ResourceSpec) -> dict[str, str]:
    """What a person who looks into the folder wants to know."""
    if isinstance(spec, InstanceSpec):
        return {"disks": " ".join(spec.disks), "hostname": spec.hostname, "machine_type": spec.machine_type}
    return {"snapshot": spec.snapshot.key, "sha256": spec.snapshot.sha256}


def _orphan(label: VmLabel) -> Observed:
    ref = ResourceRef(ResourceKind.INSTANCE, label.name)
    labels = {LABEL_JOB_ID: label.job_id, LABEL_EPOCH: label.epoch}
    return Observed(ref, label.uid, Status.FAILED, labels, "its folder is gone, its process runs")


def _tail(path: Path) -> bytes:
    """The last few KiB of a log; nothing if there is none yet."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _CONSOLE_BYTES))
            return file.read(_CONSOLE_BYTES)
    except FileNotFoundError:
        return b""
