"""The only place that deletes. Walks the ledger backwards until the target says that each resource is gone.

R1: FAILED and CANCELLED are published only after absence was observed, and observed at a time when nobody could still
create. R2: nothing of a succeeded job comes here; the store and the database refuse it too. R9: what is deleted is what
was looked at a moment before, and only if it carries our job's label and the uid that was recorded.
"""

from __future__ import annotations

import enum
import logging

from models.orphans import OrphanStore
from models.schema import CloneJob, LedgerRow
from models.states import LedgerState, Role
from models.store import Lease, StaleWrite
from targets.base import Observed, Status
from targets.errors import TargetError
from tasks.dispatch import dispatch_cleanup
from tasks.lease import DrainingError, HeldLease, new_owner
from tasks.orphans import Why, judge, key_of, left_alone_detail
from tasks.plan import ref_of
from tasks.runtime import Runtime
from tasks.target_calls import TargetCalls

logger = logging.getLogger(__name__)


class StillThereError(Exception):
    """A resource is on its way out, but not gone yet. ``began``: the target began to delete it just now."""

    def __init__(self, message: str, *, began: bool = False) -> None:
        super().__init__(message)
        self.began = began


class OrphanEnd(enum.Enum):
    """What came of deleting an orphan."""

    GONE = "it is gone"
    GOING = "its deletion has begun"
    LEFT = "it is not what it was when it was seen, and was left alone"


def run_cleanup(runtime: Runtime, job_id: str, epoch: int) -> bool:
    """Clean up a cancelled or failed job; False if the message was old, early or a duplicate.

    What cannot be finished now is looked at again after a growing pause, for ever; the row says why it waits.
    """
    owner = new_owner(runtime)
    job = runtime.store.claim_cleanup(job_id, epoch, owner)
    if job is None:
        return False
    lease = Lease(job.id, job.epoch, owner)
    try:
        with HeldLease(runtime, lease) as held:
            reason, moved = _remove_all(runtime, job, held)
        if reason is None:
            runtime.store.finish_cleanup(lease)
        else:
            # The long pauses of a target that was dead are not for one that works again.
            attempts = 1 if moved else job.cleanup_attempts + 1
            runtime.store.pause_cleanup(lease, runtime.pacing.cleanup_in_s(attempts), reason, attempts=attempts)
    except DrainingError:
        if runtime.store.give_back(lease) is not None:
            dispatch_cleanup(runtime, job_id)
    except StaleWrite as stale:
        logger.warning("clean-up of job %s lost its lease: %s", job_id, stale)
    return True


def _remove_all(runtime: Runtime, job: CloneJob, held: HeldLease) -> tuple[str | None, bool]:
    """Remove what is left, instance first; why it is not finished, or None, and whether anything has moved.

    One stuck resource does not keep the rest.
    """
    try:
        calls = TargetCalls(runtime, job.target)
        held.check()
        calls.bury(job.id)
    except TargetError as error:
        return str(error), False
    reasons = []
    moved = False
    for row in reversed(job.ledger):
        if row.state is LedgerState.ABSENT:
            continue
        try:
            remove(runtime, job, row, calls, held)
            moved = True
        except TargetError as error:
            reasons.append(f"{row.kind} {row.name}: {error}")
        except StillThereError as error:
            reasons.append(f"{row.kind} {row.name}: {error}")
            moved = moved or error.began
            break  # what stands before it in the ledger may be in use by it
    return "; ".join(reasons) or None, moved


def remove_scaffolds(runtime: Runtime, job: CloneJob, calls: TargetCalls, held: HeldLease) -> None:
    """Remove what a successful job does not keep, before success is committed. From here on nothing is created.

    Raises: TargetError, StillThereError, StaleWrite.
    """
    held.check()
    calls.bury(job.id)
    for row in reversed(job.ledger):
        if row.role is Role.SCAFFOLD and row.state is not LedgerState.ABSENT:
            remove(runtime, job, row, calls, held)


def remove(runtime: Runtime, job: CloneJob, row: LedgerRow, calls: TargetCalls, held: HeldLease) -> None:
    """Delete one resource and see that it is gone. Raises: TargetError, StillThereError, StaleWrite."""
    give_up_at = runtime.monotonic() + max(runtime.pacing.inline_wait_s, runtime.pacing.delete_wait_s)
    asked_for: str | None = None
    while True:
        held.check()
        seen = calls.find(row)
        if seen is None:
            runtime.store.mark_absent(held.lease, row.position)
            return
        if not _is_ours(job, row, seen):
            runtime.store.mark_absent(held.lease, row.position, left_alone_detail(seen.uid))
            return
        if asked_for != seen.uid and seen.status is not Status.DELETING:
            runtime.store.mark_deleting(held.lease, row.position)
            held.check()
            calls.delete(ref_of(row), job_id=job.id, uid=seen.uid)
            asked_for = seen.uid
        elif runtime.monotonic() >= give_up_at:
            began = asked_for == seen.uid and seen.status is Status.DELETING
            raise StillThereError(f"still {seen.status}" + (f" ({seen.detail})" if seen.detail else ""), began=began)
        else:
            held.wait(min(0.05, runtime.pacing.poll_s))


def _is_ours(job: CloneJob, row: LedgerRow, seen: Observed) -> bool:
    """Our label, and the uid that we saw when it was made; an unknown uid (lost reply) rests on the label alone."""
    return seen.job_id == job.id and row.uid in (None, seen.uid)


def remove_orphan(runtime: Runtime, orphans: OrphanStore, target: str, orphan: Observed, counted: int) -> OrphanEnd:
    """Delete what the call of a frozen worker made after its job had ended; the auditor has the proof (tasks/audit.py).

    ``counted``: the good inventories that the proof rests on. The job is buried first. Then everything that the proof
    rests on is read once more, the intent is committed, which the database refuses unless a failed or cancelled job left
    it behind, and only then the call is made.
    Raises: TargetError, sqlalchemy.exc.DBAPIError.
    """
    calls, key = TargetCalls(runtime, target), key_of(target, orphan)
    job = _left_behind_by(runtime, target, orphan)
    if job is None:
        return OrphanEnd.LEFT
    calls.bury(job.id)
    seen = calls.find_ref(orphan.ref, job.id)
    if seen is None:
        orphans.mark_gone(key)
        return OrphanEnd.GONE
    if seen.uid != orphan.uid or seen.job_id != job.id or _left_behind_by(runtime, target, seen) is None:
        return OrphanEnd.LEFT
    if seen.status is not Status.DELETING:
        if not orphans.mark_deleting(key, counted):
            return OrphanEnd.LEFT  # another auditor has seen it gone meanwhile: the proof begins anew
        calls.delete(seen.ref, job_id=job.id, uid=seen.uid)
        if calls.find_ref(orphan.ref, job.id) is None:
            orphans.mark_gone(key)
            return OrphanEnd.GONE
    return OrphanEnd.GOING


def _left_behind_by(runtime: Runtime, target: str, seen: Observed) -> CloneJob | None:
    """The job, as the database has it at this moment, if it failed or was cancelled and made the thing."""
    job = runtime.store.get_job(seen.job_id or "")
    return job if judge(job, target, seen) is Why.CLEANED_UP else None
