"""The verdict: the one place where cancel, failure and success race, and what it does to a lease."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from models import operations
from models.io_points import io_point
from models.operations import NewOperation
from models.schema import CloneJob, Operation
from models.states import TERMINAL, JobState, LedgerState, Verdict, check_job_transition
from models.store.base import CancelRefused, Lease, Settled, StaleWrite, StoreBase

_NOT_STARTED = "clean-up has not started yet"


class VerdictWrites(StoreBase):
    """FAIL and CANCEL, and the lease of whoever was at work meanwhile."""

    @io_point("store.settle")
    def settle(
        self,
        job_id: str,
        verdict: Verdict,
        *,
        epoch: int | None = None,
        lease: Lease | None = None,
        error: Mapping[str, Any] | None = None,
        reason: str = "",
        cancel_operation: NewOperation | None = None,
    ) -> tuple[Settled, Operation | None]:
        """Set the verdict FAIL or CANCEL, once, and raise the epoch, so that every step at work goes stale.

        A step or a signal handler passes the ``epoch`` it acted for, a step that holds it also its ``lease``, which is
        given back by the same statement. A job that owns nothing ends at once.
        Raises: CancelRefused for a cancel (one with ``cancel_operation``) of a job with another verdict.
        """
        now = self.clock()
        with self._sessions.begin() as session:
            job = self._lock(session, job_id)
            if job is None:
                return Settled.LOST, None
            if job.verdict is not None or epoch not in (None, job.epoch):
                return Settled.LOST, self._join_cancel(session, job, cancel_operation, now)
            recorded = self._in_order(job, now)
            outcome, values = self._sentence(job, verdict, lease, now, recorded)
            won = self._guarded(
                session,
                CloneJob.id == job_id,
                CloneJob.verdict.is_(None),
                CloneJob.epoch == job.epoch,
                verdict=verdict,
                verdict_time=recorded,
                epoch=job.epoch + 1,
                error=dict(error) if error else None,
                dispatches=0,
                **{"next_check_at": None, "cleanup_detail": _NOT_STARTED, **values},
            )
            if not won:
                raise StaleWrite(f"job {job_id} changed under a lock")  # not reachable while rows lock
            session.refresh(job)
            for step in job.steps:
                if step.start_time is not None and step.end_time is None:
                    step.end_time = recorded  # it ended here, unfinished
            self._event(session, job, verdict.lower(), reason or str((error or {}).get("message", "")))
            operation = self._join_cancel(session, job, cancel_operation, recorded)
            if outcome is Settled.ENDED:
                self._never_created(job, recorded)
                session.flush()
                operations.end_for_job(session, job, recorded)
            return outcome, operation

    def _sentence(
        self, job: CloneJob, verdict: Verdict, lease: Lease | None, now: dt.datetime, recorded: dt.datetime
    ) -> tuple[Settled, dict[str, Any]]:
        """What a verdict does to the row: end it, start clean-up, or have clean-up wait for a lease."""
        free = job.lease_owner is None or (lease is not None and lease.owner == job.lease_owner)
        ended, cleaning = (
            (JobState.CANCELLED, JobState.CANCELLING) if verdict is Verdict.CANCEL else (JobState.FAILED, job.state)
        )
        if job.state is JobState.PENDING:  # never claimed, so no call was ever made for it
            check_job_transition(job.state, ended)
            return Settled.ENDED, self._ended(ended, recorded) | {"cleanup_detail": None}
        check_job_transition(job.state, cleaning)
        values: dict[str, Any] = {
            "state": cleaning,
            "state_time": recorded if cleaning is not job.state else job.state_time,
        }
        if not free:
            assert job.lease_expires_at is not None
            limit = dt.timedelta(seconds=self.timing.provider_call_limit_s)
            values["wake_at"] = max(job.lease_expires_at + limit, job.fence_until or now)
            values["cleanup_detail"] = (
                f"waiting for {job.lease_owner.partition('/')[0] if job.lease_owner else 'a worker'} to stop its step; "
                f"if it is dead, clean-up starts at {values['wake_at']:%H:%M:%S} UTC, when none of its calls can land any more"
            )
            return Settled.CLEAN_UP_LATER, values
        values |= {"lease_owner": None, "lease_expires_at": None}
        if job.fence_until is not None and job.fence_until > now:
            values["wake_at"] = job.fence_until
            values["cleanup_detail"] = (
                f"waiting until {job.fence_until:%H:%M:%S} UTC, when no call of a worker that was lost can land any more"
            )
            return Settled.CLEAN_UP_LATER, values
        values["wake_at"] = self._after(self.timing.dispatch_grace_s)
        return Settled.CLEAN_UP, values

    def _join_cancel(
        self, session: Session, job: CloneJob, operation: NewOperation | None, now: dt.datetime
    ) -> Operation | None:
        if operation is None:
            return None
        if job.verdict is not Verdict.CANCEL:
            raise CancelRefused(job.name)
        row = operations.insert(session, operation, now, done=job.state in TERMINAL, job_id=job.id)
        row.requested_cancellation = True
        return row

    def _never_created(self, job: CloneJob, now: dt.datetime) -> None:
        for row in job.ledger:
            row.state, row.absent_time, row.detail = LedgerState.ABSENT, now, "never created"

    @io_point("store.give_back")
    def give_back(self, lease: Lease) -> CloneJob | None:
        """Give the lease back, whatever the epoch is by now; the job as it stands then, or None if it was lost before.

        After a verdict the job may be cleaned up at once: its holder has just said that it makes no more calls.
        """
        now = self.clock()
        with self._sessions.begin() as session:
            job = self._lock(session, lease.job_id)
            if job is None or job.lease_owner != lease.owner:
                return None
            wake_at = max(now, job.fence_until or now) if job.verdict else now
            self._guarded(session, CloneJob.id == lease.job_id, CloneJob.lease_owner == lease.owner,
                          lease_owner=None, lease_expires_at=None, wake_at=wake_at)  # fmt: skip
        return self.get_job(lease.job_id)

    @io_point("store.forfeit")
    def forfeit(self, job_id: str, epoch: int, reason: str, position: int | None = None) -> bool:
        """The holder is known to be dead (its pool reported it): let its lease run out now instead of later.

        ``position``: only while the job still stands at that step; None for clean-up.
        """
        now = self.clock()
        with self._sessions.begin() as session:
            job = self._lock(session, job_id)
            if job is None or job.epoch != epoch or job.lease_owner is None or job.end_time is not None:
                return False
            if position is not None and job.current_step != position:
                return False
            self._guarded(session, CloneJob.id == job_id, CloneJob.epoch == epoch, lease_expires_at=now, wake_at=now)
            self._event(session, job, "lease_forfeited", reason)
            return True
