"""The part of a plan that is particular to a VM with compute_engine_disks_target_defaults: its disks are the clone, alone or
attached to a new VM.

No guest is adapted on the way: the contract has neither licence type nor modifiers for such a target. The job keeps what
was planned in the terms of ComputeEngineTargetDetails, because that is what a target is told (``targets.base``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from models.schema import CloneJob, ReplicationCycle
from models.schema import Snapshot as SnapshotRow
from models.target_defaults import DISKS_TARGET
from targets.base import BOOT_DISK_NUMBER, ResourceKind, ResourceRef

Json = dict[str, Any]
UriOf = Callable[[ResourceRef], str]


def details_of(job: CloneJob) -> Json:
    """What was planned for the job, in the terms of ComputeEngineTargetDetails."""
    disks: Json | None = job.target_details.get(DISKS_TARGET)
    return dict(job.target_details if disks is None else disks["details"])


def details(defaults: Mapping[str, Any], target: str) -> Json:
    """ComputeEngineTargetDetails of the new VM, or as much of them as disks alone have."""
    vm = {key: value for key, value in (defaults.get("vmTargetDefaults") or {}).items() if key != "bootDiskDefaults"}
    return {**vm, **({"zone": defaults["zone"]} if "zone" in defaults else {}), "project": target}


def wanted(defaults: Mapping[str, Any], cycle: ReplicationCycle) -> list[tuple[SnapshotRow, Json]]:
    """The disks to make, each with its PersistentDiskDefaults; all of the cycle, where no disk is named."""
    named = {int(each.get("sourceDiskNumber", 0)): each for each in defaults.get("disks", ())}
    return [(each, named.get(each.disk_number, {})) for each in cycle.snapshots
            if not named or each.disk_number in named]  # fmt: skip


def missing(defaults: Mapping[str, Any], cycle: ReplicationCycle) -> list[int]:
    """Numbers of disks that are named and that the cycle does not have."""
    there = {each.disk_number for each in cycle.snapshots}
    return sorted({int(each.get("sourceDiskNumber", 0)) for each in defaults.get("disks", ())} - there)


def disk_details(job: CloneJob, given: Mapping[str, Any], *, boots: bool) -> Json:
    """What a target is told of one disk. The VM's additional licences are those of the disk that it boots from."""
    known = details_of(job)
    found: Json = {key: known[key] for key in ("project", "zone") if key in known}
    found |= {key: given[key] for key in ("diskType", "encryption") if key in given}
    if given.get("additionalLabels"):
        found["labels"] = dict(given["additionalLabels"])
    if boots and known.get("additionalLicenses"):
        found["additionalLicenses"] = list(known["additionalLicenses"])
    return found


def boot_image_of(defaults: Mapping[str, Any]) -> tuple[str, Json]:
    """The image that the new VM's boot disk is made from, "" if it boots from the source's first disk, and
    BootDiskDefaults."""
    given: Json = (defaults.get("vmTargetDefaults") or {}).get("bootDiskDefaults") or {}
    return str((given.get("image") or {}).get("sourceImage", "")), given


def image_pin(image: str) -> Json:
    """An image as the source of a disk. How large it is, only its provider knows."""
    return {"key": image, "format": "reference", "virtualSizeBytes": 0, "sha256": ""}


def remember(job: CloneJob, uri_of: UriOf) -> None:
    """Write down what ComputeEngineDisksTargetDetails is to show once it exists."""
    rows = [row for row in job.ledger if row.kind == ResourceKind.DISK and row.spec["diskNumber"] != BOOT_DISK_NUMBER]
    vms = [row for row in job.ledger if row.kind == ResourceKind.INSTANCE]
    kept: Json = {
        "details": details_of(job),
        "disks": [
            {"sourceDiskNumber": row.spec["diskNumber"], "diskUri": uri_of(_ref(row.kind, row.name))} for row in rows
        ],
        "vmUri": uri_of(_ref(vms[0].kind, vms[0].name)) if vms else None,
    }
    job.target_details = {DISKS_TARGET: kept}


def device_names(names: Sequence[tuple[str, Mapping[str, Any]]]) -> Json:
    """Device name of each disk that was given one, by the disk's own name."""
    return {name: given["deviceName"] for name, given in names if given.get("deviceName")}


def _ref(kind: str, name: str) -> ResourceRef:
    return ResourceRef(ResourceKind(kind), name)
