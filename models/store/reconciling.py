"""What the reconciler reads and writes."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from models.io_points import io_point
from models.schema import CloneJob, ReconcilerLease
from models.store.base import StoreBase, changed

# Times ``dispatch_grace_s`` is the longest pause between two messages for one job: short enough that a job whose messages
# were lost again and again goes on soon, long enough that a long queue does not fill up with copies.
_LONGEST_GRACE = 16

_RECONCILER_LEASE = 1  # the row of reconciler_lease


class ReconcilerWrites(StoreBase):
    """Alarms that went off, leases that ran out, messages that were lost."""

    @io_point("store.due_jobs")
    def due_jobs(self, limit: int = 100) -> Sequence[CloneJob]:
        """Running jobs whose alarm has gone off, longest waiting first."""
        with self._reader() as session:
            due = sa.select(CloneJob).where(CloneJob.wake_at <= self.clock()).order_by(CloneJob.wake_at).limit(limit)
            return session.scalars(due).all()

    @io_point("store.take_over")
    def take_over(self, job: CloneJob) -> CloneJob | None:
        """Raise the epoch of a job whose lease has run out; None if somebody else moved it meanwhile.

        Calls that the lost holder had under way may still land: ``fence_until`` says until when.
        """
        now = self.clock()
        if job.lease_expires_at is None or job.lease_expires_at > now:
            return None
        fence = job.lease_expires_at + dt.timedelta(seconds=self.timing.provider_call_limit_s)
        with self._sessions.begin() as session:
            taken = self._guarded(session, CloneJob.id == job.id, CloneJob.epoch == job.epoch,
                                  CloneJob.lease_owner == job.lease_owner, CloneJob.verdict.is_(None),
                                  CloneJob.lease_expires_at <= now,
                                  epoch=job.epoch + 1, lease_owner=None, lease_expires_at=None, next_check_at=None,
                                  fence_until=max(fence, job.fence_until or fence),
                                  wake_at=self._after(self.timing.dispatch_grace_s))  # fmt: skip
            if not taken:
                return None
            self._event(session, job, "lease_lost", f"{job.lease_owner} did not come back; epoch {job.epoch + 1}")
        return self.get_job(job.id)

    @io_point("store.dispatch_again")
    def dispatch_again(self, job: CloneJob) -> bool:
        """Note that another message for a job is about to be sent; the pause before the next one doubles, up to a bound.

        The epoch stays: were it raised, a message that merely stands in a long queue would die on arrival and its
        successor stand at the queue's end, for ever.
        """
        pause_s = self.timing.dispatch_grace_s * min(2 ** (job.dispatches + 1), _LONGEST_GRACE)
        with self._sessions.begin() as session:
            return self._guarded(session, CloneJob.id == job.id, CloneJob.epoch == job.epoch,
                                 CloneJob.wake_at == job.wake_at,
                                 CloneJob.lease_owner.is_not_distinct_from(job.lease_owner),
                                 dispatches=job.dispatches + 1, wake_at=self._after(pause_s))  # fmt: skip

    @io_point("store.hold_reconciler")
    def hold_reconciler(self, owner: str, ttl_s: float) -> bool:
        """Be the one active reconciler for ``ttl_s``; False if another worker's is."""
        with self._sessions.begin() as session:
            return hold_turn(session, _RECONCILER_LEASE, owner, self.clock(), ttl_s)


def hold_turn(session: Session, row: int, owner: str, now: dt.datetime, ttl_s: float) -> bool:
    """Be the one that has the row of ``reconciler_lease``, for ``ttl_s``; False if another one is."""
    mine = sa.or_(ReconcilerLease.owner == owner, ReconcilerLease.expires_at <= now)
    taken = session.execute(
        sa.update(ReconcilerLease).where(ReconcilerLease.id == row, mine)
        .values(owner=owner, expires_at=now + dt.timedelta(seconds=ttl_s))
    )  # fmt: skip
    return changed(taken) == 1
