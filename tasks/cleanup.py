"""The only place that deletes. Walks the ledger backwards until the target says that each resource is gone.

R1: FAILED and CANCELLED are published only after absence was observed, and observed at a time when nobody could still
create. R2: nothing of a succeeded job comes here; the store and the database refuse it too. R9: what is deleted is what
was looked at a moment before, and only if it carries our job's label and the uid that was recorded.
"""

from __future__ import annotations

import logging
import time

from models.schema import CloneJob, LedgerRow
from models.states import LedgerState, Role
from models.store import Lease, StaleWrite
from targets.base import Observed, Status
from targets.errors import TargetError
from tasks.lease import HeldLease, new_owner
from tasks.plan import ref_of
from tasks.runtime import Runtime
from tasks.target_calls import TargetCalls

logger = logging.getLogger(__name__)


class StillThereError(Exception):
    """A resource is on its way out, but not gone yet. ``began``: the target began to delete it just now."""

    def __init__(self, message: str, *, began: bool = False) -> None:
        super().__init__(message)
        self.began = began


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
    give_up_at = time.monotonic() + max(runtime.pacing.inline_wait_s, 0.5)
    asked_for: str | None = None
    while True:
        held.check()
        seen = calls.find(row)
        if seen is None:
            runtime.store.mark_absent(held.lease, row.position)
            return
        if not _is_ours(job, row, seen):
            detail = f"ours is gone; another resource (uid {seen.uid}) stands under its name and was left alone"
            runtime.store.mark_absent(held.lease, row.position, detail)
            return
        if asked_for != seen.uid and seen.status is not Status.DELETING:
            runtime.store.mark_deleting(held.lease, row.position)
            held.check()
            calls.delete(ref_of(row), job_id=job.id, uid=seen.uid)
            asked_for = seen.uid
        elif time.monotonic() >= give_up_at:
            began = asked_for == seen.uid and seen.status is Status.DELETING
            raise StillThereError(f"still {seen.status}" + (f" ({seen.detail})" if seen.detail else ""), began=began)
        else:
            held.wait(min(0.05, runtime.pacing.poll_s))


def _is_ours(job: CloneJob, row: LedgerRow, seen: Observed) -> bool:
    """Our label, and the uid that we saw when it was made; an unknown uid (lost reply) rests on the label alone."""
    return seen.job_id == job.id and row.uid in (None, seen.uid)
