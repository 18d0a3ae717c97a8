"""The only writer of a job's state, verdict, lease and ledger.

Every write is guarded: it names in its WHERE what it believes (epoch, lease owner, verdict, state), and a write whose
belief is out of date changes no row, is counted in ``stale_writes`` and raises ``StaleWrite`` (R8). The rows are
locked while a write decides, so that what it read is still so when it commits; the WHERE holds even without the lock.
"""

from __future__ import annotations

import sqlalchemy as sa

from models import operations
from models.expiry import expired_state
from models.io_points import io_point
from models.operations import NewOperation
from models.schema import CloneJob, MigratingVm, Operation
from models.states import CLONEABLE
from models.store.base import (
    ActiveJobExists,
    CancelRefused,
    Clock,
    JobExists,
    Lease,
    NotReady,
    Settled,
    StaleWrite,
    Timing,
    VmNotCloneable,
    utc_now,
)
from models.store.ledger import LedgerWrites
from models.store.reconciling import ReconcilerWrites
from models.store.steps import StepWrites
from models.store.verdict import VerdictWrites

__all__ = ["ActiveJobExists", "CancelRefused", "Clock", "JobExists", "JobStore", "Lease", "NotReady", "Settled",
           "StaleWrite", "Timing", "VmNotCloneable", "utc_now"]  # fmt: skip

_TRIES = 3  # of an insert whose obstacle, a running job, has ended before it could be named


class JobStore(StepWrites, VerdictWrites, LedgerWrites, ReconcilerWrites):
    """Guarded writes on clone jobs. Thread-safe; one instance per process."""

    @io_point("store.create_job")
    def create_job(self, job: CloneJob, operation: NewOperation, *, ends_with_job: bool) -> Operation:
        """Insert job, steps, ledger and operation in one transaction (R7).

        Raises: JobExists, ActiveJobExists, VmNotCloneable, operations.RequestIdReused. A replay of the same request returns the
        operation that it started the first time and inserts nothing.
        """
        for _ in range(_TRIES):
            try:
                return self._insert_job(job, operation, ends_with_job=ends_with_job)
            except sa.exc.IntegrityError as error:
                conflict = error
                if earlier := self._explain_conflict(job, operation, error):
                    return earlier
        raise conflict

    def _insert_job(self, job: CloneJob, operation: NewOperation, *, ends_with_job: bool) -> Operation:
        with self._sessions.begin() as session:
            if earlier := operations.replayed(session, operation):
                return earlier
            # Nobody finalizes or deletes the VM between the plan and this row.
            vm = session.get(MigratingVm, job.parent, with_for_update={"read": True})
            if vm is None or expired_state(vm, self.clock()) not in CLONEABLE:
                raise VmNotCloneable(vm and vm.state)
            job.wake_at = self._after(self.timing.dispatch_grace_s)
            session.add(job)
            # With the plan in place, so that whoever sees the job sees all of it.
            row = operations.insert(session, operation, self.clock(), done=not ends_with_job, job_id=job.id)
            self._event(session, job, "created", f"pinned {job.cycle}")
            return row

    def _explain_conflict(self, job: CloneJob, operation: NewOperation, error: Exception) -> Operation | None:
        """The operation of the same request, or None when what stood in the way is gone by now."""
        with self._sessions() as session:
            if earlier := operations.replayed(session, operation):
                return earlier
            if session.scalar(sa.select(CloneJob.id).where(CloneJob.name == job.name)):
                raise JobExists(job.name) from error
            active = session.scalar(
                sa.select(CloneJob.name).where(CloneJob.parent == job.parent, CloneJob.end_time.is_(None))
            )
            if active:
                raise ActiveJobExists(active) from error
        return None
