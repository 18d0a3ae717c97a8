"""What a worker does for one message: claim, work, give back.

A step reads the row and writes the row; nothing passes from step to step by message. Each resource is made by the same
pattern: commit the intent, look whether it is there already, create it, commit what was seen. So a step may be repeated
from its start at any time, by any worker.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy.exc import DBAPIError

from models.schema import CloneJob, LedgerRow
from models.states import LedgerState, Role, StepKind
from models.store import Lease, Settled, StaleWrite
from targets.base import Status
from targets.errors import AdaptationError, ConflictError, PermanentError, RefusedError, TransientError
from tasks import settle
from tasks.boot import NotBootedError, watch_boot
from tasks.cleanup import StillThereError, remove_scaffolds
from tasks.dispatch import dispatch_cleanup
from tasks.lease import DrainingError, HeldLease, new_owner
from tasks.runtime import Runtime
from tasks.target_calls import TargetCalls
from tasks.work import NotYetError, Work

logger = logging.getLogger(__name__)
# A message with a countdown waits unacknowledged in a worker's memory; a longer pause is
# left to the reconciler.
_LONGEST_COUNTDOWN_S = 10.0


class Result(enum.Enum):
    """What became of a message."""

    DONE = "the step ended; the chain goes on"
    AGAIN = "the step is to be looked at again after a pause"
    DROPPED = "the message was old, early or a duplicate, or the job has another verdict: the chain stops here"
    FAILED = "the job failed; the chain stops here"


@dataclass(frozen=True, slots=True)
class Outcome:
    """``pause_s`` goes with AGAIN, ``error`` with FAILED."""

    result: Result
    pause_s: float = 0.0
    error: str = ""


def run_step(runtime: Runtime, job_id: str, epoch: int, position: int) -> Outcome:
    """Work on the step at ``position``; len(steps) is the final ``finish``."""
    owner = new_owner(runtime)
    job = runtime.store.claim_step(job_id, epoch, position, owner)
    if job is None:
        return Outcome(Result.DROPPED)
    lease = Lease(job_id, epoch, owner)
    try:
        with HeldLease(runtime, lease) as held:
            commit = _work(runtime, job, position, held)
        commit()  # after the block: a renewal that came later would find the lease given back
        return Outcome(Result.DONE)
    except StaleWrite:
        return _hand_back(runtime, lease)
    except DrainingError:
        return _guarded_end(runtime, lease, partial(_again, runtime, lease, 0.0))
    except (NotYetError, StillThereError) as waiting:
        return _guarded_end(runtime, lease, partial(_pause, runtime, job, position, lease, str(waiting)))
    except TransientError as error:
        return _guarded_end(runtime, lease, partial(_retry, runtime, job, position, lease, str(error)))
    except PermanentError as error:
        action = error.action if isinstance(error, NotBootedError) else ""
        adaptation = isinstance(error, AdaptationError)  # also where a kept result was to be reused
        return _guarded_end(
            runtime, lease, partial(_fail, runtime, job, position, lease, str(error), action, adaptation=adaptation)
        )
    except DBAPIError:
        # The database did not answer: nothing can be written now. The lease runs out and the reconciler repeats the step.
        logger.exception("job %s: the database failed in step %s", job_id, position)
        return Outcome(Result.DROPPED)
    except Exception as error:
        logger.exception("job %s: defect in step %s", job_id, position)
        message = f"internal error ({type(error).__name__}); see the worker's log"
        return _guarded_end(runtime, lease, partial(_retry, runtime, job, position, lease, message))


def _work(runtime: Runtime, job: CloneJob, position: int, held: HeldLease) -> Callable[[], None]:
    """Do the step's work; what is returned commits its end."""
    work = Work(runtime, job, position, held, TargetCalls(runtime, job.target))
    if work.kind is None:
        _prepare_success(work)
        return lambda: runtime.store.succeed(held.lease)
    rows = [row for row in job.ledger if row.step == work.kind]
    uid = ""
    for done, row in enumerate(rows):
        uid = _make(work, row)
        percent = 100 * (done + 1) // len(rows)
        if len(rows) > 1:
            runtime.store.note_progress(held.lease, position, percent=percent, detail=f"{row.kind} {row.name} is ready")
    if work.kind is StepKind.INSTANTIATING_MIGRATED_VM:
        watch_boot(work, rows[-1], uid)
    return lambda: runtime.store.complete_step(held.lease, position)


def _make(work: Work, row: LedgerRow) -> str:
    """Get or create the row's resource and see it ready; its uid. Raises: TargetError, NotYetError, StaleWrite."""
    store, lease = work.runtime.store, work.held.lease
    work.held.check()
    seen = work.calls.find(row)
    if seen is not None and (seen.job_id != work.job.id or row.uid not in (None, seen.uid)):
        raise ConflictError(f"a {row.kind} named {row.name} exists and was not made by this job; "
                            "delete or rename it, or give the clone another name (vm_name)")  # fmt: skip
    if seen is None or seen.status in (Status.FAILED, Status.STOPPED):
        store.mark_intended(lease, row.position)
        work.held.check()
        seen = work.calls.create(work.job, row)
    elif row.state is LedgerState.PLANNED:
        store.mark_intended(lease, row.position)
    give_up_at = work.runtime.monotonic() + work.runtime.pacing.inline_wait_s
    while seen.status is Status.CREATING:
        if work.runtime.monotonic() >= give_up_at:
            store.note_progress(lease, work.position, percent=seen.progress_percent or 0,
                                detail=f"waiting for {row.kind} {row.name}" + (seen.detail and f": {seen.detail}"))  # fmt: skip
            raise NotYetError(f"{row.kind} {row.name} is being created")
        work.held.wait(min(0.05, work.runtime.pacing.poll_s))
        seen = work.calls.find(row)
        if seen is None:
            raise TransientError(f"{row.kind} {row.name} vanished while it was being created")
    if seen.status is not Status.READY:
        raise RefusedError(f"{row.kind} {row.name} is {seen.status}: {seen.detail or 'no reason given'}")
    if row.state is not LedgerState.CREATED or row.uid != seen.uid:
        store.mark_created(lease, row.position, seen.uid)
    if seen.report is not None:
        store.note_progress(lease, work.position, percent=100, detail=_adapted(work.job, row, seen.report),
                            adaptation=seen.report)  # fmt: skip
    return seen.uid


def _adapted(job: CloneJob, row: LedgerRow, report: Mapping[str, Any]) -> str:
    if not report.get("reused"):
        return f"{row.kind} {row.name} is adapted"
    cycle = job.cycle.rpartition("/")[2]
    return f"adapted result of {cycle} from {report['made_at']} reused for {row.kind} {row.name}"


def _prepare_success(work: Work) -> None:
    """Remove scaffolds and look once more that every product exists as it was recorded (R4)."""
    remove_scaffolds(work.runtime, work.job, work.calls, work.held)
    for row in work.job.ledger:
        if row.role is not Role.PRODUCT:
            continue
        work.held.check()
        seen = work.calls.find(row)
        # An instance may have powered itself off by now, as test clones do; it exists all the same.
        ours = seen is not None and seen.job_id == work.job.id and seen.uid == row.uid
        if ours and seen is not None and seen.status is Status.FAILED:
            raise RefusedError(f"{row.kind} {row.name} cannot be used: {seen.detail or 'no reason given'}")
        if not ours or seen is None or seen.status not in (Status.READY, Status.STOPPED):
            raise RefusedError(f"{row.kind} {row.name} did not stay as it was created; somebody deleted or replaced it")


def _hand_back(runtime: Runtime, lease: Lease) -> Outcome:
    """The lease was lost or a verdict was heard: say that we make no more calls, so that clean-up may begin at once."""
    job = runtime.store.give_back(lease)
    if job is not None and job.verdict is not None:
        dispatch_cleanup(runtime, job.id)
    return Outcome(Result.DROPPED)


def _guarded_end(runtime: Runtime, lease: Lease, end: Callable[[], Outcome]) -> Outcome:
    try:
        return end()
    except StaleWrite:
        return _hand_back(runtime, lease)


def _pause(runtime: Runtime, job: CloneJob, position: int, lease: Lease, waiting: str) -> Outcome:
    started = job.steps[position].start_time if position < len(job.steps) else job.steps[-1].end_time
    limit_s = runtime.pacing.step_timeout_s
    if started is not None and (runtime.clock() - started).total_seconds() > limit_s:
        return _fail(runtime, job, position, lease, f"{waiting}; it has had {limit_s:.0f} s")
    return _again(runtime, lease, runtime.pacing.poll_s)


def _retry(runtime: Runtime, job: CloneJob, position: int, lease: Lease, error: str) -> Outcome:
    if job.attempts >= runtime.pacing.step_attempts:
        return _fail(runtime, job, position, lease, f"{error} (gave up after {job.attempts} attempts)")
    return _again(runtime, lease, runtime.pacing.retry_in_s(job.attempts), failed=error)


def _again(runtime: Runtime, lease: Lease, pause_s: float, failed: str | None = None) -> Outcome:
    comes_back = pause_s <= _LONGEST_COUNTDOWN_S
    runtime.store.pause_step(lease, pause_s, failed=failed, comes_back=comes_back)
    return Outcome(Result.AGAIN, pause_s=pause_s) if comes_back else Outcome(Result.DROPPED)


def _fail(runtime: Runtime, job: CloneJob, position: int, lease: Lease, error: str, action: str = "",
          *, adaptation: bool = False) -> Outcome:  # fmt: skip
    kind = job.steps[position].kind if position < len(job.steps) else None
    kind = StepKind.ADAPTING_OS if adaptation else kind
    if settle.fail(runtime, job.id, lease.epoch, settle.error_of(error, kind, action), lease) is Settled.LOST:
        return _hand_back(runtime, lease)  # a cancel was first
    return Outcome(Result.FAILED, error=error)
