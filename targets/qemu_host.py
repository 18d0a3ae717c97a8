"""The machines' processes on this very host: started, seen and ended by whoever asks, a worker or a vmhost."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from targets import qemu_vm
from targets.base import LABEL_EPOCH, LABEL_JOB_ID, InstanceSpec, ResourceRef, token
from targets.errors import RefusedError, TransientError
from targets.qemu_accel import accelerator
from targets.qemu_firmware import firmware_of, keep_variables
from targets.qemu_folders import Meta, ResourceFolders
from targets.qemu_machine import VmLabel, command_line, parse_machine_type
from targets.qemu_machines import MachineHost, MachineOptions
from targets.qemu_network import network_arguments, networks_of
from targets.qemu_seed import SEED_FILE, write_seed
from targets.qemu_tools import find_tool
from targets.qemu_user import as_user, check_user, give_to, scope_of
from targets.qemu_vmhost import VmHost

START_SHARE, KILL_SHARE = 0.3, 0.1  # of call_timeout_s
_STOP_ATTEMPTS = 3  # a machine whose creator was killed while it started may fork once more


def root_id_of(root: Path) -> str:
    """What tells the processes of one target from another's on the same host."""
    return hashlib.sha256(str(root).encode()).hexdigest()[:16]


def host_of(root: Path, folders: ResourceFolders, options: MachineOptions, call_timeout_s: float) -> MachineHost:
    """Who has the machines of the target in ``root``, as its options say."""
    if options.vmhost:
        return VmHost(root, call_timeout_s=call_timeout_s)
    return ThisHost(root, folders, options, call_timeout_s=call_timeout_s)


class ThisHost:
    """See ``MachineHost``. Processes are known by the label on their command line, in this process's pid namespace."""

    def __init__(self, root: Path, folders: ResourceFolders, options: MachineOptions, *, call_timeout_s: float) -> None:
        self._root = root
        self._folders = folders
        self._root_id = root_id_of(root)
        self._options = options
        self._call_timeout_s = call_timeout_s

    def check(self, spec: InstanceSpec) -> None:
        """See ``MachineHost.check``."""
        for program in (self._options.binary, "prlimit"):
            find_tool(program)
        parse_machine_type(spec.machine_type, default_memory_mb=self._options.default_memory_mb)
        firmware_of(spec.details)
        networks_of(spec.details, self._options.networks)
        check_user(self._options.run_as)

    def start(self, spec: InstanceSpec, meta: Meta, disks: Sequence[Path]) -> None:
        """See ``MachineHost.start``."""
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
        try:
            qemu_vm.start(command, folder, timeout_s=self._call_timeout_s * START_SHARE)
        except RefusedError as error:
            raise RefusedError(
                f"QEMU refused to start {spec.ref} with {machine.cpus} CPU(s) and {machine.memory_mb} MB of memory: "
                f"{error}."
            ) from error

    def runs(self, ref: ResourceRef, uid: str) -> bool:
        """See ``MachineHost.runs``."""
        return bool(qemu_vm.of_instance(self._folders.path(ref), self._root_id, uid))

    def running(self) -> Sequence[VmLabel]:
        """See ``MachineHost.running``."""
        return [vm.label for vm in qemu_vm.running(self._root_id, self._root)]

    def stop(self, ref: ResourceRef, uid: str) -> None:
        """See ``MachineHost.stop``."""
        folder = self._folders.path(ref)
        for _ in range(_STOP_ATTEMPTS):
            vms = qemu_vm.of_uid(uid, self._root_id, self._root)
            if not vms:
                return
            qemu_vm.stop(vms, folder, timeout_s=self._call_timeout_s * KILL_SHARE)
        raise TransientError(f"{ref} still has a process after it was killed; try again.")
