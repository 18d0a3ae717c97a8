"""One door for every way in which a job does not succeed.

Failing steps, Celery's ``link_error``, the ``task_failure`` and ``task_revoked`` signals and the reconciler all come
here. It is idempotent: whoever comes second finds the verdict set, or the epoch raised, and changes nothing.
"""

from __future__ import annotations

import enum
import logging
from typing import Any

from models.schema import CloneJob
from models.states import StepKind, Verdict
from models.store import Lease, Settled
from tasks.dispatch import dispatch_cleanup, dispatch_steps
from tasks.runtime import Runtime

logger = logging.getLogger(__name__)


class Reason(enum.StrEnum):
    """Why a message handler calls for settling."""

    TASK_FAILED = "task_failed"  # Celery reports a failure; a step that fails by itself has settled before
    WORKER_LOST = "worker_lost"  # the pool's child died under the step
    TIME_LIMIT = "time_limit"  # the pool killed the step at its hard limit
    REVOKED = "revoked"  # an operator revoked the task, from Flower for example


_ACTIONS = {
    "OS_ADAPTATION_ERROR": "Check that the VM's operating system is supported, or set the VM's policy to skip adaptation.",
    "CLONE_ERROR": "Mend what the message names, then create a new clone job; nothing of this one was left behind.",
}


def error_of(message: str, kind: StepKind | None = None, action: str = "") -> dict[str, Any]:
    """The row's ``error``, in the terms of the contract's MigrationError; ``action`` if it is a special one."""
    code = "OS_ADAPTATION_ERROR" if kind is StepKind.ADAPTING_OS else "CLONE_ERROR"
    return {"code": code, "message": message, "action": action or _ACTIONS[code]}


def fail(runtime: Runtime, job_id: str, epoch: int, error: dict[str, Any], lease: Lease | None = None) -> Settled:
    """Set the verdict FAIL for this epoch and have clean-up begin as soon as nobody can work on the job any more."""
    outcome, _ = runtime.store.settle(job_id, Verdict.FAIL, epoch=epoch, lease=lease, error=error)
    if outcome is Settled.CLEAN_UP:
        dispatch_cleanup(runtime, job_id)
    return outcome


def settle(runtime: Runtime, job_id: str, epoch: int, reason: Reason, detail: str, position: int | None = None) -> None:
    """What a message handler reports about a task of this job and epoch, at this ``position`` of its chain.

    The epoch stays from step to step, so a report that comes late must not be taken for one about the step that runs
    by now. Clean-up has no position.
    """
    logger.info("settling job %s epoch %s: %s %s", job_id, epoch, reason, detail)
    match reason:
        case Reason.REVOKED:
            outcome, _ = runtime.store.settle(job_id, Verdict.CANCEL, epoch=epoch, reason=f"task revoked: {detail}")
            if outcome is Settled.CLEAN_UP:
                dispatch_cleanup(runtime, job_id)
        case Reason.WORKER_LOST | Reason.TIME_LIMIT | Reason.TASK_FAILED:
            # The task is over, so its lease is too; or it had ended its step, and only the next link was not published.
            runtime.store.forfeit(job_id, epoch, f"{reason}: {detail}", position)
            job = runtime.store.get_job(job_id)
            if job is None or job.epoch != epoch or job.end_time is not None:
                return
            if position is not None and job.verdict is None and job.current_step not in (position, position + 1):
                return
            if position is not None and job.current_step == position + 1 and job.lease_owner is not None:
                return
            if job.lease_owner is not None or job.verdict is not None:
                recover(runtime, job)
            # Once: what fails before it claims would be reported, and sent, for ever, twice as often each time.
            elif job.next_check_at is None and job.dispatches == 0 and runtime.store.dispatch_again(job):
                dispatch_steps(runtime, job)


def recover(runtime: Runtime, job: CloneJob) -> None:
    """Take a job over whose lease has run out: repeat its step under a new epoch, or fail it after too many attempts."""
    if job.verdict is not None:
        dispatch_cleanup(runtime, job.id)
        return
    taken = runtime.store.take_over(job)
    if taken is None:
        return
    step = taken.steps[taken.current_step].kind.words if taken.current_step < len(taken.steps) else "finish"
    if taken.attempts >= runtime.pacing.step_attempts:
        message = f"step {step} did not come back {taken.attempts} times: its worker died or hung each time"
        fail(runtime, taken.id, taken.epoch, error_of(message))
        return
    logger.warning("job %s: step %s did not come back, repeated under epoch %s", taken.id, step, taken.epoch)
    dispatch_steps(runtime, taken)
