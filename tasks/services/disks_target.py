"""What a user sets with compute_engine_disks_target_defaults: checked when it is set, and again when a clone is made of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from models.schema import MigratingVm, ReplicationCycle
from models.target_defaults import DISKS_DEFAULTS
from tasks import disks_plan
from tasks.errors import FailedPrecondition, InvalidArgument
from tasks.names import check_id
from tasks.runtime import Runtime
from tasks.services.bounds import check_labels, check_metadata

FIELD = "compute_engine_disks_target_defaults"
Json = Mapping[str, Any]


def check_disks_defaults(defaults: Json, resource: str = "migrating_vm") -> None:
    """Raises: InvalidArgument."""
    field = f"{resource}.{FIELD}"
    vm = defaults.get("vmTargetDefaults")
    if vm is None and "disksTargetDefaults" not in defaults:
        raise InvalidArgument(
            field, "must have disks_target_defaults, for disks alone, or vm_target_defaults, for a new VM"
        )
    numbers = [int(each.get("sourceDiskNumber", 0)) for each in defaults.get("disks", ())]
    for at, each in enumerate(defaults.get("disks", ())):
        _check_disk(f"{field}.disks[{at}]", each, attached=vm is not None)
    if twice := _twice(numbers):
        raise InvalidArgument(f"{field}.disks", f"names disk {twice[0]} of the source more than once")
    if vm is not None:
        _check_vm(f"{field}.vm_target_defaults", vm)
        if not disks_plan.boot_image_of(defaults)[0] and numbers and 0 not in numbers:
            raise InvalidArgument(
                f"{field}.disks",
                "must have disk 0, which the VM boots from; or set vm_target_defaults.boot_disk_defaults.image",
            )
    names, devices = _names(defaults, "diskName"), _names(defaults, "deviceName")
    for what, given in (("disk_name", names), ("device_name", devices)):
        if twice := _twice(given):
            raise InvalidArgument(field, f"gives {what} {twice[0]} to more than one disk")


def _check_disk(field: str, given: Json, *, attached: bool) -> None:
    if int(given.get("sourceDiskNumber", 0)) < 0:
        raise InvalidArgument(f"{field}.source_disk_number", "must not be negative")
    if given.get("diskName"):
        check_id(f"{field}.disk_name", given["diskName"])
    check_labels(f"{field}.additional_labels", given.get("additionalLabels", {}))
    device = given.get("vmAttachmentDetails", {}).get("deviceName")
    if device and not attached:
        raise InvalidArgument(f"{field}.vm_attachment_details", "is for disks of a new VM; set vm_target_defaults")
    if device:
        check_id(f"{field}.vm_attachment_details.device_name", device)


def _check_vm(field: str, vm: Json) -> None:
    for name, key in (("vm_name", "vmName"), ("machine_type", "machineType")):
        if not vm.get(key):
            raise InvalidArgument(f"{field}.{name}", "is required")
    check_id(f"{field}.vm_name", vm["vmName"])
    check_labels(f"{field}.labels", vm.get("labels", {}))
    check_metadata(f"{field}.metadata", vm.get("metadata", {}))
    boot = vm.get("bootDiskDefaults", {})
    if "bootDiskDefaults" in vm and not boot.get("image", {}).get("sourceImage"):
        raise InvalidArgument(f"{field}.boot_disk_defaults.image.source_image", "is required; without boot_disk_defaults the "
                              "VM boots from disk 0 of the source")  # fmt: skip
    for name, key in (("disk_name", "diskName"), ("device_name", "deviceName")):
        if boot.get(key):
            check_id(f"{field}.boot_disk_defaults.{name}", boot[key])


def _names(defaults: Json, key: str) -> list[str]:
    return [each for given in _all(defaults) if (each := str(given.get(key, "")))]


def _all(defaults: Json) -> Iterator[Json]:
    yield disks_plan.boot_image_of(defaults)[1]
    for each in defaults.get("disks", ()):
        yield {**each, **each.get("vmAttachmentDetails", {})}


def _twice(values: list[Any]) -> list[Any]:
    return sorted({each for each in values if values.count(each) > 1})


def check_can_make_disks(runtime: Runtime, vm: MigratingVm, target: str) -> None:
    """Raises: FailedPrecondition if the VM's target is disks, and they cannot be made there; says where they can."""
    if DISKS_DEFAULTS not in vm.body or not runtime.targets[target].boots_from_image:
        return
    able = sorted(name for name, each in runtime.targets.items() if not each.boots_from_image)
    raise FailedPrecondition(
        vm.name,
        f"target {target} starts instances from an image of all their disks and makes no disks apart from them; a VM with "
        f"{FIELD} can be cloned to: {', '.join(able) or 'no target that is configured here'}",
        reason="TARGET_CANNOT_CLONE",
    )


def check_has_disks(vm: MigratingVm, cycle: ReplicationCycle) -> None:
    """Raises: FailedPrecondition if the VM's target names a disk that the cycle does not have."""
    missing = disks_plan.missing(vm.body.get(DISKS_DEFAULTS) or {}, cycle)
    if missing:
        there = ", ".join(str(each.disk_number) for each in cycle.snapshots)
        raise FailedPrecondition(
            vm.name,
            f"{FIELD} of {vm.name} names disk {missing[0]}, and its latest replication cycle has the disks {there}",
            reason="NO_SUCH_DISK",
        )
