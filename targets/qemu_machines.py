"""Instances of the QEMU target: how one is started, found again after its creator died, and ended for good."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from targets import qemu_vm
from targets.base import LABEL_EPOCH, LABEL_JOB_ID, InstanceSpec, Observed, ResourceKind, ResourceRef, Status, token
from targets.errors import RefusedError, TransientError
from targets.qemu_accel import accelerator
from targets.qemu_firmware import firmware_of, keep_variables
from targets.qemu_folders import MAKING, READY, Meta, ResourceFolders
from targets.qemu_machine import VmLabel, command_line, parse_machine_type
from targets.qemu_network import Network, network_arguments, networks_of
from targets.qemu_seed import SEED_FILE, write_seed
from targets.qemu_tools import find_tool
from targets.qemu_user import as_user, check_user, give_to, scope_of

_START_SHARE, _KILL_SHARE = 0.3, 0.1  # of call_timeout_s
_STOP_ATTEMPTS = 3  # a machine whose creator was killed while it started may fork once more


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


class Machines:
    """The machines whose folders and processes carry ``root_id``."""

    def __init__(
        self, root: Path, folders: ResourceFolders, root_id: str, options: MachineOptions, *, call_timeout_s: float
    ) -> None:
        self._root = root
        self._folders = folders
        self._root_id = root_id
        self._options = options
        self._call_timeout_s = call_timeout_s

    def check(self, spec: InstanceSpec) -> None:
        """Whether such a machine can be made here. Raises: UnsupportedError."""
        parse_machine_type(spec.machine_type, default_memory_mb=self._options.default_memory_mb)
        firmware_of(spec.details)
        networks_of(spec.details, self._options.networks)
        check_user(self._options.run_as)

    def start(self, spec: InstanceSpec, meta: Meta, disks: Sequence[Path]) -> Meta:
        """Start the claimed instance; its note says READY then. Raises: RefusedError with QEMU's own reason."""
        options, folder = self._options, self._folders.path(spec.ref)
        machine = parse_machine_type(spec.machine_type, default_memory_mb=options.default_memory_mb)
        firmware, job_id = firmware_of(spec.details), meta.labels[LABEL_JOB_ID]
        keep_variables(firmware, folder)
        if options.seed != "off":
            write_seed(folder / SEED_FILE, spec)
        command = command_line(
            find_tool(options.binary),
            accel=accelerator(self._root, options.binary).accel if options.accel == "auto" else options.accel,
            machine=machine,
            firmware=firmware,
            label=VmLabel(self._root_id, spec.ref.name, job_id, meta.labels[LABEL_EPOCH], meta.uid),
            vm_uuid=token(job_id, spec.ref.name),
            # Another user may not be let into the folders above ours.
            disks=[os.path.relpath(disk, folder) if options.run_as else str(disk) for disk in disks],
            seed=SEED_FILE if options.seed != "off" else "",
            network=network_arguments(networks_of(spec.details, options.networks), job_id),
        )
        give_to(options.run_as, folder, disks)
        command = [*scope_of(options.scope, f"clonejob-{meta.uid}"), *as_user(options.run_as), *command]
        meta = self._folders.save(spec.ref, replace(meta, started_at=time.time()))
        try:
            qemu_vm.start(command, folder, timeout_s=self._call_timeout_s * _START_SHARE)
        except RefusedError as error:
            raise RefusedError(
                f"QEMU refused to start {spec.ref} with {machine.cpus} CPU(s) and {machine.memory_mb} MB of memory: "
                f"{error}."
            ) from error
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
        return bool(qemu_vm.of_instance(self._folders.path(ref), self._root_id, meta.uid))

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
        for vm in qemu_vm.running(self._root_id, self._root):
            ref = ResourceRef(ResourceKind.INSTANCE, vm.label.name)
            labels = {LABEL_JOB_ID: vm.label.job_id, LABEL_EPOCH: vm.label.epoch}
            yield Observed(ref, vm.label.uid, Status.FAILED, labels, "its folder is gone, its process runs")

    def stop(self, ref: ResourceRef, uid: str) -> None:
        """End the instance's processes, and look at the whole process list before that is believed."""
        folder = self._folders.path(ref)
        for _ in range(_STOP_ATTEMPTS):
            vms = qemu_vm.of_uid(uid, self._root_id, self._root)
            if not vms:
                return
            qemu_vm.stop(vms, folder, timeout_s=self._call_timeout_s * _KILL_SHARE)
        raise TransientError(f"{ref} still has a process after it was killed; try again.")
