"""Instances of the QEMU target: how one is started, found again after its creator died, and ended for good."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from targets import qemu_vm
from targets.base import LABEL_EPOCH, LABEL_JOB_ID, InstanceSpec, Observed, ResourceKind, ResourceRef, Status
from targets.qemu_folders import MAKING, READY, Meta, ResourceFolders
from targets.qemu_machine import VmLabel
from targets.qemu_network import Network


@dataclass(frozen=True, slots=True)
class MachineOptions:
    """What a target's options say of its machines. See ``targets.qemu_options``."""

    binary: str = "qemu-system-x86_64"
    accel: str = "tcg"
    default_memory_mb: int = 64
    networks: Mapping[str, Network] = field(default_factory=dict)
    seed: str = "auto"
    run_as: str = ""
    scope: str = "auto"
    vmhost: bool = False


class MachineHost(Protocol):
    """Whoever has the machines' processes: this process's own host (``qemu_host``), or a vmhost (``qemu_vmhost``).

    Every call may raise TransientError.
    """

    def check(self, spec: InstanceSpec) -> None:
        """Whether such a machine can be made there. Raises: UnsupportedError."""

    def start(self, spec: InstanceSpec, meta: Meta, disks: Sequence[Path]) -> None:
        """Start the claimed instance; returns when its monitor answers. Raises: PermanentError with QEMU's reason."""

    def runs(self, ref: ResourceRef, uid: str) -> bool:
        """Whether the instance has a process."""

    def running(self) -> Sequence[VmLabel]:
        """Every machine of the target that has a process, whether or not it still has a folder."""

    def stop(self, ref: ResourceRef, uid: str) -> None:
        """End the instance's processes, and look at the whole process list before that is believed."""


class Machines:
    """The machines whose folders lie in the target's root and whose processes ``host`` has."""

    def __init__(self, folders: ResourceFolders, host: MachineHost) -> None:
        self._folders = folders
        self._host = host
        self.check = host.check
        self.stop = host.stop

    def start(self, spec: InstanceSpec, meta: Meta, disks: Sequence[Path]) -> Meta:
        """Start the claimed instance; its note says READY then. Raises: RefusedError with QEMU's own reason."""
        meta = self._folders.save(spec.ref, replace(meta, started_at=time.time()))
        self._host.start(spec, meta, disks)
        return self._folders.save(spec.ref, replace(meta, state=READY))

    def adopt(self, ref: ResourceRef) -> Meta | None:
        """The instance that a creator started before it died, if its machine answers."""
        meta, folder = self._folders.meta(ref), self._folders.path(ref)
        if meta is None or meta.state != MAKING or meta.started_at is None:
            return None
        if self.runs(ref, meta) and qemu_vm.is_answering(folder):
            return self._folders.save(ref, replace(meta, state=READY))
        return None

    def runs(self, ref: ResourceRef, meta: Meta) -> bool:
        """Whether the instance has a process."""
        return self._host.runs(ref, meta.uid)

    def running_with(self, disk: str) -> Path | None:
        """The folder of a running instance that has the disk of that name."""
        for ref in self._folders.refs():
            if ref.kind is not ResourceKind.INSTANCE:
                continue
            meta = self._folders.meta(ref)
            if meta is not None and disk in meta.facts.get("disks", "").split() and self.runs(ref, meta):
                return self._folders.path(ref)
        return None

    def orphans(self) -> Iterator[Observed]:
        """Every process, as if its folder were gone."""
        for label in self._host.running():
            ref = ResourceRef(ResourceKind.INSTANCE, label.name)
            labels = {LABEL_JOB_ID: label.job_id, LABEL_EPOCH: label.epoch}
            yield Observed(ref, label.uid, Status.FAILED, labels, "its folder is gone, its process runs")
