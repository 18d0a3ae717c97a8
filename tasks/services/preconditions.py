"""What must hold before a VM can be cloned, each as a check of its own: creating stops at the first, a plan asks them all."""

from __future__ import annotations

from models.catalog import CloneGround
from models.expiry import expired_state
from models.schema import CloneJob, MigratingVm, ReplicationCycle
from models.states import CLONEABLE, VmState
from models.target_defaults import target_project_of
from targets.clone_modes import mode_of, modes_of
from targets.errors import PermanentError, TargetError
from tasks.errors import FailedPrecondition, Unavailable
from tasks.runtime import Runtime
from tasks.target_calls import TargetCalls


def check_state(runtime: Runtime, vm: MigratingVm) -> None:
    """Raises: FailedPrecondition for a VM in a state that cannot be cloned."""
    state = expired_state(vm, runtime.clock())
    if state not in CLONEABLE:
        raise not_cloneable(vm.name, state)


def not_cloneable(name: str, state: VmState) -> FailedPrecondition:
    """What a VM in a state that cannot be cloned gets."""
    hint = "; extend its migration first" if state is VmState.EXPIRED else ""
    return FailedPrecondition(
        name, f"{name} is {state}; only an ACTIVE or PAUSED VM can be cloned{hint}", reason="VM_NOT_CLONEABLE"
    )


def latest_cycle(ground: CloneGround) -> ReplicationCycle:
    """The cycle that a new clone pins. Raises: FailedPrecondition if there is none."""
    vm, cycle = ground.vm, ground.cycle
    if cycle is None:
        raise FailedPrecondition(
            vm.name,
            f"{vm.name} has no successful replication cycle yet; upload one (clonejob vm import), then clone",
            reason="NO_SUCCESSFUL_CYCLE",
        )
    return cycle


def target_of(runtime: Runtime, ground: CloneGround) -> str:
    """The name of the configured target. Raises: FailedPrecondition."""
    vm, project = ground.vm, ground.project
    named = target_project_of(vm.body)
    if not named:
        raise FailedPrecondition(
            vm.name,
            f"{vm.name} has no target: set computeEngineTargetDefaults, or computeEngineDisksTargetDefaults, with a targetProject",
            reason="NO_TARGET_DEFAULTS",
        )
    if project is None:
        raise no_target_project(vm.name, named)
    if project.target not in runtime.targets:
        raise FailedPrecondition(
            project.name,
            f"target project {project.name} maps to {project.target!r}, which is not configured; "
            f"configured: {', '.join(sorted(runtime.targets)) or 'none'}",
            reason="TARGET_NOT_CONFIGURED",
        )
    return project.target


def clone_mode(runtime: Runtime, ground: CloneGround, target: str) -> str:
    """How disks are made there: as the target project says, or else as the target is configured; empty without a choice.

    Raises: FailedPrecondition for a mode that the target does not have any more.
    """
    project, modes = ground.project, modes_of(runtime.targets[target])
    wanted = "" if project is None else project.clone_mode or ""
    if project is not None and wanted and wanted not in modes:
        raise FailedPrecondition(
            project.name,
            f"the clone mode of target project {project.name} is {wanted!r}, and target {target} has "
            f"{', '.join(modes) or 'no choice of modes'}; change it with clonejob target clone-mode",
            reason="TARGET_CANNOT_CLONE",
        )
    return mode_of(runtime.targets[target], wanted)


def no_target_project(vm_name: str, project: str) -> FailedPrecondition:
    """What a VM gets whose target defaults name, or are to name, a target project that does not exist."""
    return FailedPrecondition(
        vm_name,
        f"target project {project} does not exist; create it or change the VM's target defaults",
        reason="TARGET_PROJECT_NOT_FOUND",
    )


def check_target(runtime: Runtime, job: CloneJob) -> None:
    """Ask the target, without side effects. Raises: FailedPrecondition (it cannot), Unavailable (it does not answer)."""
    try:
        TargetCalls(runtime, job.target).check(job)
    except PermanentError as error:
        raise FailedPrecondition(job.parent, str(error), reason="TARGET_CANNOT_CLONE") from error
    except TargetError as error:
        raise _no_answer(job, error) from error


def kept_since(runtime: Runtime, job: CloneJob) -> str:
    """When the target made the adapted result that it keeps for this job (UTC); empty if it must be adapted anew.

    Raises: Unavailable.
    """
    try:
        made_at = TargetCalls(runtime, job.target).kept_adaptation(job)
    except TargetError as error:
        raise _no_answer(job, error) from error
    return "" if made_at is None else made_at.strftime("%Y-%m-%dT%H:%M:%SZ")


def _no_answer(job: CloneJob, error: TargetError) -> Unavailable:
    return Unavailable(f"target {job.target} does not answer: {error}; try again")
