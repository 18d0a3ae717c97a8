"""What must hold before a VM can be cloned, each as a check of its own: creating stops at the first, a plan asks them all."""

from __future__ import annotations

from models.expiry import expired_state
from models.schema import CloneJob, MigratingVm, ReplicationCycle, TargetProject
from models.states import CLONEABLE, VmState
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


def latest_cycle(runtime: Runtime, vm: MigratingVm) -> ReplicationCycle:
    """The cycle that a new clone pins. Raises: FailedPrecondition if there is none."""
    cycle = runtime.catalog.last_cycle(vm.name)
    if cycle is None:
        raise FailedPrecondition(
            vm.name,
            f"{vm.name} has no successful replication cycle yet; upload one (clonejob vm import), then clone",
            reason="NO_SUCCESSFUL_CYCLE",
        )
    return cycle


def target_of(runtime: Runtime, vm: MigratingVm) -> str:
    """The name of the configured target. Raises: FailedPrecondition."""
    defaults = vm.body.get("computeEngineTargetDefaults")
    if not defaults or not defaults.get("targetProject"):
        raise FailedPrecondition(
            vm.name,
            f"{vm.name} has no target: set computeEngineTargetDefaults with a targetProject",
            reason="NO_TARGET_DEFAULTS",
        )
    project = runtime.catalog.get(TargetProject, defaults["targetProject"])
    if project is None:
        raise FailedPrecondition(
            vm.name,
            f"target project {defaults['targetProject']} does not exist; create it or change the VM's target defaults",
            reason="TARGET_PROJECT_NOT_FOUND",
        )
    if project.target not in runtime.targets:
        raise FailedPrecondition(
            project.name,
            f"target project {project.name} maps to {project.target!r}, which is not configured; "
            f"configured: {', '.join(sorted(runtime.targets)) or 'none'}",
            reason="TARGET_NOT_CONFIGURED",
        )
    return project.target


def check_target(runtime: Runtime, job: CloneJob) -> None:
    """Ask the target, without side effects. Raises: FailedPrecondition (it cannot), Unavailable (it does not answer)."""
    try:
        TargetCalls(runtime, job.target).check(job)
    except PermanentError as error:
        raise FailedPrecondition(job.parent, str(error), reason="TARGET_CANNOT_CLONE") from error
    except TargetError as error:
        raise Unavailable(f"target {job.target} does not answer: {error}; try again") from error
