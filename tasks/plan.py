"""The plan of a clone job: fixed when the job is created, the same in every process, made without side effects.

The plan names everything before anything is made: which snapshots are pinned, which steps run, which resources they
create under which names. Names are derived from the job's id, so a resource can be found when its reply was lost.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from models.schema import CloneJob, CloneStep, LedgerRow, MigratingVm, ReplicationCycle
from models.schema import Snapshot as SnapshotRow
from models.states import JobState, LedgerState, Role, StepKind
from models.target_defaults import DISKS_DEFAULTS, VM_DEFAULTS
from targets.base import (
    BOOT_DISK_NUMBER,
    AdaptedImageSpec,
    BootImageSpec,
    DiskSpec,
    InstanceSpec,
    Owner,
    ResourceKind,
    ResourceRef,
    ResourceSpec,
    Snapshot,
)
from tasks import disks_plan
from tasks.disks_plan import UriOf, details_of
from tasks.names import short_hash

DEFAULT_LICENSE = "COMPUTE_ENGINE_LICENSE_TYPE_DEFAULT"


@dataclass(frozen=True, slots=True)
class Names:
    """Deterministic names of what one job creates; at most 63 characters each. Those that a user chose are not here."""

    instance: str
    stem: str

    @classmethod
    def of(cls, vm_id: str, job_id: str, vm_name: str) -> Names:
        """``vm_name`` is the user's wish (ComputeEngineTargetDetails.vm_name); without one the name is the job's own."""
        base = re.sub(r"-+$", "", (vm_name or vm_id)[:36])
        stem = f"{base}-{short_hash(job_id)}"
        return cls(instance=vm_name or stem, stem=stem)

    def disk(self, number: int) -> str:
        """Name of the clone's disk of that number."""
        return f"{self.stem}-disk{number}"

    @property
    def adapted_image(self) -> str:
        """Name of the adapted boot image."""
        return f"{self.stem}-adapted"

    @property
    def boot_disk(self) -> str:
        """Name of a boot disk that is none of the source's."""
        return f"{self.stem}-boot"

    @property
    def boot_image(self) -> str:
        """Name of the image of all disks that an instance is started from."""
        return f"{self.stem}-boot"


def details_from_defaults(defaults: Mapping[str, Any], target: str) -> dict[str, Any]:
    """ComputeEngineTargetDetails from ComputeEngineTargetDefaults: the same fields but for the project's name."""
    return {key: value for key, value in defaults.items() if key != "targetProject"} | {"project": target}


def wanted_adaptation(details: Mapping[str, Any]) -> dict[str, Any]:
    """What the guest must be adapted for: licence and modifiers, as the contract compares them."""
    modifiers = {item["modifier"]: item.get("value", "") for item in details.get("adaptationModifiers", ())}
    return {"licenseType": details.get("licenseType", DEFAULT_LICENSE), "modifiers": modifiers}


def plan_job(
    *, job_id: str, name: str, vm: MigratingVm, cycle: ReplicationCycle, target: str, now: dt.datetime,
    boots_from_image: bool = False, clone_mode: str = "", kept_since: str = "", uri_of: UriOf = str,
) -> CloneJob:  # fmt: skip
    """The whole job as rows, not yet stored. ``adapting_os`` is planned only when licence or modifiers differ from what
    the cycle's snapshots are adapted for already, and the VM's policy does not skip it (contract, section 2.4). A VM whose
    target is disks has none, and where no VM is to be made of them the job ends with its disks.

    ``kept_since``: when the target made the adapted result that it keeps of this cycle for this licence and these
    modifiers. There is no ``adapting_os`` then either, and the image on that result is made with the disks.
    ``uri_of`` names what is to be made to others; see ``targets.base.uri_of``.
    """
    disks_only = vm.body.get(DISKS_DEFAULTS)
    if disks_only is None:
        details = details_from_defaults(vm.body[VM_DEFAULTS], target)
    else:
        details = disks_plan.details(disks_only, target)
    names = Names.of(vm.name.rsplit("/", 1)[1], job_id, details.get("vmName", ""))
    adaptation, adapt = wanted_adaptation(details), False
    kinds = [StepKind.PREPARING_VM_DISKS]
    if disks_only is None:
        details["vmName"] = names.instance  # what the clone really is called, wished for or not
        skip = vm.body.get("policy", {}).get("skipOsAdaptation", False)
        adapt = not skip and cycle.adaptation != adaptation
    if adapt and not kept_since:
        kinds.insert(0, StepKind.ADAPTING_OS)
    if disks_only is None or "vmTargetDefaults" in disks_only:
        kinds.append(StepKind.INSTANTIATING_MIGRATED_VM)
    job = CloneJob.of(
        id=job_id, name=name, parent=vm.name, state=JobState.PENDING, state_time=now, create_time=now, end_time=None,
        verdict=None, verdict_time=None, error=None, cycle=cycle.name, target=target, target_details=details,
        epoch=1, current_step=0, attempts=0, lease_owner=None, lease_expires_at=None, fence_until=None,
        next_check_at=None, wake_at=now, dispatches=0, stale_writes=0, cleanup_start_time=None, cleanup_attempts=0, cleanup_detail=None,
    )  # fmt: skip
    job.steps = [CloneStep.of(job_id=job_id, position=at, kind=kind, start_time=None, end_time=None, progress={})
                 for at, kind in enumerate(kinds)]  # fmt: skip
    job.ledger = []
    if disks_only is None:
        _resources(job, names, cycle, adaptation if adapt else None, boots_from_image, clone_mode, kept_since)
    else:
        _disks(job, names, cycle, disks_only, clone_mode)
        disks_plan.remember(job, uri_of)
    return job


def _add(job: CloneJob, step: StepKind, kind: ResourceKind, name: str, role: Role, spec: dict[str, Any]) -> None:
    job.ledger.append(LedgerRow.of(
        job_id=job.id, position=len(job.ledger), step=step, kind=kind, name=name, role=role, spec=spec,
        state=LedgerState.PLANNED, uid=None, detail=None,
        intended_time=None, created_time=None, deleting_time=None, absent_time=None,
    ))  # fmt: skip


def _disks(job: CloneJob, names: Names, cycle: ReplicationCycle, defaults: Mapping[str, Any], clone_mode: str) -> None:
    """Products all: a boot disk from an image of its own, if there is one, the source's disks, and what they are
    attached to."""
    image, boot = disks_plan.boot_image_of(defaults)
    made: list[tuple[str, Mapping[str, Any]]] = []

    def add_disk(name: str, pin: dict[str, Any], number: int, given: Mapping[str, Any], *, boots: bool) -> None:
        details = disks_plan.disk_details(job, given, boots=boots)
        _add(job, StepKind.PREPARING_VM_DISKS, ResourceKind.DISK, name, Role.PRODUCT,
             {"snapshot": pin, "diskNumber": number, "adaptedImage": None, "details": details,
              "cloneMode": clone_mode})  # fmt: skip

    if image:
        made.append((boot.get("diskName") or names.boot_disk, boot))
        add_disk(made[0][0], disks_plan.image_pin(image), BOOT_DISK_NUMBER, boot, boots=True)
    for snapshot, given in disks_plan.wanted(defaults, cycle):
        made.append((given.get("diskName") or names.disk(snapshot.disk_number), given.get("vmAttachmentDetails", {})))
        add_disk(made[-1][0], _pin(snapshot), snapshot.disk_number, given, boots=len(made) == 1)
    if "vmTargetDefaults" in defaults:
        details = details_of(job)
        more = {"deviceNames": disks_plan.device_names(made), "bootsFromImage": bool(image)}
        _add(job, StepKind.INSTANTIATING_MIGRATED_VM, ResourceKind.INSTANCE, names.instance, Role.PRODUCT,
             {"disks": [name for name, _ in made], "hostname": details.get("hostname") or names.instance,
              "bootImage": None, "details": {**details, **more}})  # fmt: skip


def _resources(
    job: CloneJob, names: Names, cycle: ReplicationCycle, adaptation: dict[str, Any] | None, boots_from_image: bool,
    clone_mode: str, kept_since: str,
) -> None:  # fmt: skip
    hostname = job.target_details.get("hostname") or names.instance

    def add(step: StepKind, kind: ResourceKind, name: str, role: Role, spec: dict[str, Any]) -> None:
        _add(job, step, kind, name, role, spec)

    boot = cycle.snapshots[0]
    if adaptation is not None:
        step = StepKind.PREPARING_VM_DISKS if kept_since else StepKind.ADAPTING_OS
        add(step, ResourceKind.ADAPTED_IMAGE, names.adapted_image, Role.SCAFFOLD,
            {"snapshot": _pin(boot), "hostname": hostname, **adaptation})  # fmt: skip
    if boots_from_image:
        add(StepKind.PREPARING_VM_DISKS, ResourceKind.BOOT_IMAGE, names.boot_image, Role.SCAFFOLD,
            {"snapshots": [_pin(each) for each in cycle.snapshots]})  # fmt: skip
    for snapshot in () if boots_from_image else cycle.snapshots:
        image = names.adapted_image if adaptation is not None and snapshot is boot else None
        add(StepKind.PREPARING_VM_DISKS, ResourceKind.DISK, names.disk(snapshot.disk_number), Role.PRODUCT,
            {"snapshot": _pin(snapshot), "diskNumber": snapshot.disk_number, "adaptedImage": image,
             "cloneMode": clone_mode})  # fmt: skip
    add(StepKind.INSTANTIATING_MIGRATED_VM, ResourceKind.INSTANCE, names.instance, Role.PRODUCT,
        {"disks": [row.name for row in job.ledger if row.kind == ResourceKind.DISK], "hostname": hostname,
         "bootImage": names.boot_image if boots_from_image else None})  # fmt: skip


def clone_mode_of(job: CloneJob) -> str:
    """How the job's disks are made; empty where its target has one way only, and for jobs of older code."""
    return next((row.spec.get("cloneMode", "") for row in job.ledger if row.kind == ResourceKind.DISK), "")


def _pin(row: SnapshotRow) -> dict[str, Any]:
    return {"key": row.store_key, "format": row.format, "virtualSizeBytes": row.virtual_size_bytes,
            "sha256": row.sha256}  # fmt: skip


def ref_of(row: LedgerRow) -> ResourceRef:
    """What the target knows the row's resource by."""
    return ResourceRef(ResourceKind(row.kind), row.name)


def spec_of(job: CloneJob, row: LedgerRow) -> ResourceSpec:
    """What the target needs to create the row's resource."""
    ref, owner, spec = ref_of(row), Owner(job.id, job.epoch), row.spec
    details = dict(spec["details"]) if "details" in spec else details_of(job)
    labels = dict(details.get("labels", {}))
    match ref.kind:
        case ResourceKind.ADAPTED_IMAGE:
            return AdaptedImageSpec(ref, owner, _snapshot(spec["snapshot"]), spec["hostname"], spec["licenseType"],
                                    spec["modifiers"], details)  # fmt: skip
        case ResourceKind.DISK:
            return DiskSpec(ref, owner, spec["diskNumber"], _snapshot(spec["snapshot"]), spec["adaptedImage"], labels,
                            details, spec.get("cloneMode", ""))  # fmt: skip
        case ResourceKind.BOOT_IMAGE:
            return BootImageSpec(ref, owner, tuple(_snapshot(pin) for pin in spec["snapshots"]), labels, details)
        case ResourceKind.INSTANCE:
            return InstanceSpec(ref, owner, tuple(spec["disks"]), spec["hostname"],
                                details.get("machineType", ""), labels, dict(details.get("metadata", {})),
                                spec.get("bootImage"), details)  # fmt: skip


def _snapshot(pin: Mapping[str, Any]) -> Snapshot:
    return Snapshot(pin["key"], pin["format"], pin["virtualSizeBytes"], pin["sha256"])
