"""Machine types that QEMU can stand in for, and QEMU's command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields

from targets.errors import UnsupportedError
from targets.qemu_firmware import Firmware, machine_arguments

_CUSTOM = re.compile(r"custom-([1-9][0-9]{0,3})-([1-9][0-9]{0,9})")
_STANDARD = re.compile(r"(?:e2|n1|n2)-standard-([1-9][0-9]{0,2})")
_SHARED_CORE = {"e2-micro": (2, 1024), "e2-small": (2, 2048), "e2-medium": (2, 4096)}
_STANDARD_MB_PER_CPU = 4096
_ACCEPTED = "custom-CPUS-MB, e2-micro, e2-small, e2-medium, or {e2,n1,n2}-standard-CPUS"

SERIAL_LOG, FIRMWARE_LOG, PID_FILE, QMP_SOCKET = "serial.log", "firmware.log", "pid", "qmp.sock"
_SANDBOX = "on,obsolete=deny,resourcecontrol=deny"
_SANDBOX_WHOLE = f"{_SANDBOX},elevateprivileges=deny,spawn=deny"
LABEL_OPTION = "name=opt/org.clonejob/label,string="
_FIRMWARE_DEBUG_PORT = "0x402"  # SeaBIOS tells here, and on the screen only, that nothing can be booted


@dataclass(frozen=True, slots=True)
class Machine:
    """What a machine type means here."""

    cpus: int
    memory_mb: int


def parse_machine_type(machine_type: str, *, default_memory_mb: int) -> Machine:
    """The machine that ``machine_type`` asks for; empty means one CPU and the default memory.

    Nothing bounds the memory: whether the host can give it is for QEMU to say when the instance is made.
    Raises: UnsupportedError.
    """
    if not machine_type:
        return Machine(1, default_memory_mb)
    if machine_type in _SHARED_CORE:
        return Machine(*_SHARED_CORE[machine_type])
    if match := _CUSTOM.fullmatch(machine_type):
        return Machine(int(match[1]), int(match[2]))
    if match := _STANDARD.fullmatch(machine_type):
        return Machine(int(match[1]), int(match[1]) * _STANDARD_MB_PER_CPU)
    raise UnsupportedError(f"Machine type {machine_type!r} is not supported here; use {_ACCEPTED}, or leave it empty.")


@dataclass(frozen=True, slots=True)
class VmLabel:
    """What a QEMU process tells about itself on its command line, so that it is known even without its folder."""

    root_id: str
    name: str
    job_id: str
    epoch: str
    uid: str

    def __str__(self) -> str:
        return f"{self.root_id}/{self.name}/{self.job_id}/{self.epoch}/{self.uid}"

    @classmethod
    def of(cls, arguments: Sequence[str]) -> VmLabel | None:
        """The label in a process's arguments, or None if it is not a virtual machine of ours."""
        for argument in arguments:
            if argument.startswith(LABEL_OPTION):
                parts = argument.removeprefix(LABEL_OPTION).split("/")
                return cls(*parts) if len(parts) == len(fields(cls)) else None
        return None


def command_line(
    binary: str, *, accel: str, machine: Machine, firmware: Firmware, label: VmLabel, vm_uuid: str,
    disks: Sequence[str], seed: str, network: Sequence[str],
) -> list[str]:  # fmt: skip
    """QEMU's arguments; file names that are not absolute are in the instance's folder, its working directory.

    ``disks`` boot in their order; ``seed`` is the name of the seed's file or empty; ``network`` are the interfaces' own
    arguments.
    """
    arguments = [binary, "-name", label.name, "-uuid", vm_uuid, "-fw_cfg", f"{LABEL_OPTION}{label}"]
    arguments += ["-no-user-config", "-nodefaults", "-pidfile", PID_FILE]
    # A bridge is attached by a helper that QEMU starts.
    arguments += ["-sandbox", _SANDBOX if any(each.startswith("bridge,") for each in network) else _SANDBOX_WHOLE]
    arguments += [*machine_arguments(firmware), "-accel", accel, *(["-cpu", "host"] if accel == "kvm" else [])]
    arguments += ["-smp", str(machine.cpus), "-m", f"{machine.memory_mb}M"]
    arguments += ["-qmp", f"unix:{QMP_SOCKET},server=on,wait=off"]
    # Appending, so that whoever cuts a log short while the machine runs (logrotate's copytruncate) makes it short.
    arguments += ["-chardev", f"file,id=serial,path={SERIAL_LOG},append=on", "-serial", "chardev:serial"]
    arguments += ["-chardev", f"file,id=firmware,path={FIRMWARE_LOG},append=on"]
    arguments += ["-device", f"isa-debugcon,iobase={_FIRMWARE_DEBUG_PORT},chardev=firmware"]
    arguments += ["-vga", "std", "-display", "none", *network]
    for number, disk in enumerate(disks):
        image_format = disk.rpartition(".")[2]
        arguments += ["-drive", f"file={_escaped(disk)},format={image_format},if=none,id=disk{number}"]
        arguments += ["-device", f"virtio-blk-pci,drive=disk{number},bootindex={number + 1}"]
    if seed:
        arguments += ["-drive", f"file={_escaped(seed)},format=raw,if=none,id=seed,readonly=on"]
        arguments += ["-device", "virtio-blk-pci,drive=seed"]
    return arguments


def _escaped(path: str) -> str:
    return path.replace(",", ",,")
