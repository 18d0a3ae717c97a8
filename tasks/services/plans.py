"""What CreateCloneJob would do now, without doing it: every blocker, not just the first."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from models.schema import CloneJob, LedgerRow, MigratingVm, ReplicationCycle
from models.states import StepKind
from models.target_defaults import DISKS_DEFAULTS, VM_DEFAULTS
from targets.base import ResourceKind, uri_of
from targets.errors import TargetError
from tasks.disks_plan import details_of
from tasks.errors import FailedPrecondition, NotFound, ServiceError, Unavailable
from tasks.names import short_hash
from tasks.plan import plan_job, wanted_adaptation
from tasks.runtime import Runtime
from tasks.services import preconditions
from tasks.services.disks_target import check_can_make_disks, check_has_disks
from tasks.target_calls import TargetCalls

T = TypeVar("T")
_JOB_ID = "0" * 32  # stands for the id that a real job would get
_HASH = "<hash of the job's id>"
_DO = {
    "NO_SUCCESSFUL_CYCLE": "Upload the VM's disks: clonejob vm import.",
    "VM_NOT_CLONEABLE": "Bring the VM to ACTIVE or PAUSED: finish its first replication cycle, or start its migration.",
    "NO_TARGET_DEFAULTS": "Set computeEngineTargetDefaults.targetProject of the VM.",
    "TARGET_PROJECT_NOT_FOUND": "Create the target project, or change the VM's target defaults.",
    "TARGET_NOT_CONFIGURED": "Configure the target (CLONEJOB_TARGETS), or map the target project to one that is.",
    "TARGET_CANNOT_CLONE": "Change what the message names in the VM's target defaults, or choose another target.",
    "BACKEND_UNAVAILABLE": "Try again; if it stays so, look at the target: clonejob doctor.",
    "CLONE_JOB_RUNNING": "Wait for the running clone job, or cancel it.",
    "NO_SUCH_DISK": "Name the disks that the VM's latest replication cycle has, or none for all of them.",
    "DISK_NAME_TAKEN": "Delete or rename that disk, or give the clone's another disk_name.",
    "INSTANCE_NAME_TAKEN": "Delete or rename that instance, or give the clone another vmName.",
}


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One step, and why it is in the plan."""

    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class PlannedResource:
    """One resource. ``name`` is a pattern where it hangs on the job's id. A scaffold is gone before the job succeeds."""

    kind: str
    name: str
    role: str
    step: str


@dataclass(frozen=True, slots=True)
class Blocker:
    """Something that stands against the job. ``reason`` is what CreateCloneJob would answer with."""

    reason: str
    subject: str
    message: str
    action: str


@dataclass(frozen=True, slots=True)
class Plan:
    """``target`` and ``cycle`` are None when there is none; what hangs on them is then not planned. ``clone_mode`` is empty
    for a target that makes disks in one way."""

    vm: str
    target: str | None
    clone_mode: str
    cycle: ReplicationCycle | None
    steps: tuple[PlannedStep, ...]
    resources: tuple[PlannedResource, ...]
    blockers: tuple[Blocker, ...]


class PlanService:
    """Dry runs. Reads the database and asks the target what it can do; writes nowhere."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def plan(self, vm_name: str) -> Plan:
        """Raises: NotFound (VM)."""
        ground = self._runtime.catalog.clone_ground(vm_name)
        if ground is None:
            raise NotFound("MigratingVm", vm_name)
        vm = ground.vm
        blockers: list[Blocker] = []

        def tried(check: Callable[[], T]) -> T | None:
            try:
                return check()
            except (FailedPrecondition, Unavailable) as error:
                blockers.append(_blocker(error, vm_name))
                return None

        tried(lambda: preconditions.check_state(self._runtime, vm))
        cycle = tried(lambda: preconditions.latest_cycle(ground))
        target = tried(lambda: preconditions.target_of(self._runtime, ground))
        if target is not None:
            tried(lambda: check_can_make_disks(self._runtime, vm, target))
        if cycle is not None:
            tried(lambda: check_has_disks(vm, cycle))
        mode = "" if target is None else tried(lambda: preconditions.clone_mode(self._runtime, ground, target)) or ""
        blockers += [
            Blocker("CLONE_JOB_RUNNING", job.name, f"a clone of this VM is running: {job.name} is {job.state}",
                    _DO["CLONE_JOB_RUNNING"])
            for job in self._runtime.catalog.recent_jobs([vm_name])[vm_name] if job.end_time is None
        ]  # fmt: skip
        if cycle is None:
            return Plan(vm_name, target, mode, None, (), (), tuple(blockers))
        job, kept = self._job(vm, cycle, target, mode), ""
        if target is not None:
            tried(lambda: preconditions.check_target(self._runtime, job))
            kept = tried(lambda: preconditions.kept_since(self._runtime, job)) or ""
            job = self._job(vm, cycle, target, mode, kept) if kept else job
            for row in job.ledger:
                tried(lambda row=row: self._check_name(job, row))  # type: ignore[misc]
        resources = tuple(
            PlannedResource(row.kind, row.name.replace(short_hash(_JOB_ID), _HASH), str(row.role), str(row.step))
            for row in job.ledger
        )
        return Plan(vm_name, target, mode, cycle, _steps(vm, job, cycle, kept), resources, tuple(blockers))

    def _job(self, vm: MigratingVm, cycle: ReplicationCycle, target: str | None, mode: str, kept: str = "") -> CloneJob:
        """The job as it would be stored; it is not, and the VM's row is not touched."""
        body = vm.body if DISKS_DEFAULTS in vm.body else {**vm.body, VM_DEFAULTS: vm.body.get(VM_DEFAULTS) or {}}
        like = MigratingVm(name=vm.name, body=body)
        now: dt.datetime = self._runtime.clock()
        boots_from_image = target is not None and self._runtime.targets[target].boots_from_image
        return plan_job(
            job_id=_JOB_ID, name=f"{vm.name}/cloneJobs/-", vm=like, cycle=cycle, target=target or "", now=now,
            boots_from_image=boots_from_image, clone_mode=mode, kept_since=kept,
            uri_of=str if target is None else partial(uri_of, self._runtime.targets[target]),
        )  # fmt: skip

    def _check_name(self, job: CloneJob, row: LedgerRow) -> None:
        """What has a name that the user chose may exist already; every other name is the job's own."""
        if short_hash(_JOB_ID) in row.name:
            return
        try:
            seen = TargetCalls(self._runtime, job.target).find(row)
        except TargetError as error:
            raise Unavailable(f"target {job.target} does not answer: {error}; try again") from error
        if seen is None:
            return
        if row.kind == ResourceKind.INSTANCE:
            raise FailedPrecondition(
                row.name, f"an instance named {row.name} exists on target {job.target}", reason="INSTANCE_NAME_TAKEN"
            )
        raise FailedPrecondition(
            row.name, f"a disk named {row.name} exists on target {job.target}", reason="DISK_NAME_TAKEN"
        )


def _blocker(error: ServiceError, vm_name: str) -> Blocker:
    subject = error.metadata.get("resource", vm_name)
    return Blocker(error.reason, subject, error.message, _DO.get(error.reason, "Mend what the message names."))


def _steps(vm: MigratingVm, job: CloneJob, cycle: ReplicationCycle, kept: str) -> tuple[PlannedStep, ...]:
    count = sum(row.kind == ResourceKind.DISK for row in job.ledger) or len(cycle.snapshots)  # of one image: none
    reasons = {
        StepKind.ADAPTING_OS: _why_adapted(cycle.adaptation, wanted_adaptation(details_of(job))),
        StepKind.PREPARING_VM_DISKS: f"{count} disk{'s' if count > 1 else ''} of cycle {cycle.cycle_number}",
        StepKind.INSTANTIATING_MIGRATED_VM: "the instance is made of these disks and started",
    }
    steps = tuple(PlannedStep(str(step.kind), reasons[step.kind]) for step in job.steps)
    if job.steps[0].kind is StepKind.ADAPTING_OS:
        return steps
    skip = vm.body.get("policy", {}).get("skipOsAdaptation", False)
    if DISKS_DEFAULTS in vm.body:
        return steps  # no such target is adapted, whatever the policy says
    why = "the VM's policy skips OS adaptation" if skip else "the snapshots are adapted for its licence and modifiers"
    if kept:
        why = f"the adapted result of cycle {cycle.cycle_number} from {kept} is reused"
    first = PlannedStep(steps[0].kind, f"{steps[0].reason}; no {StepKind.ADAPTING_OS.words} before: {why}")
    return (first, *steps[1:])


def _why_adapted(had: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> str:
    if had is None:
        return "the snapshots of this cycle are not adapted yet"
    changes = []
    if had.get("licenseType") != wanted["licenseType"]:
        changes.append(f"licence type {had.get('licenseType')} becomes {wanted['licenseType']}")
    old, new = had.get("modifiers", {}), wanted["modifiers"]
    changes += [
        f"modifier {name}: {old.get(name, 'none')!r} becomes {new.get(name, 'none')!r}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]
    return "the snapshots are adapted for something else: " + "; ".join(changes)
