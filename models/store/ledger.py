"""The ledger and clean-up."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from models import operations
from models.io_points import io_point
from models.schema import CloneJob, LedgerRow
from models.states import (
    JobState,
    LedgerState,
    Role,
    Verdict,
    check_job_transition,
    job_predecessors,
    ledger_predecessors,
)
from models.store.base import Lease, NotReady, StoreBase, changed


class LedgerWrites(StoreBase):
    """Intent before action; absence before the end."""

    @io_point("store.mark_intended")
    def mark_intended(self, lease: Lease, position: int) -> None:
        """Commit that a create is about to be sent. The uid is forgotten: what the call makes is not known yet."""
        self._mark(lease, position, LedgerState.INTENDED, uid=None, intended_time=self.clock())

    @io_point("store.mark_created")
    def mark_created(self, lease: Lease, position: int, uid: str) -> None:
        """Commit what the target showed."""
        self._mark(lease, position, LedgerState.CREATED, uid=uid, created_time=self.clock())

    @io_point("store.mark_deleting")
    def mark_deleting(self, lease: Lease, position: int) -> None:
        """Commit that a delete is about to be sent: of anything after FAIL or CANCEL, else of scaffolds only."""
        self._mark(lease, position, LedgerState.DELETING, deleting_time=self.clock())

    @io_point("store.mark_absent")
    def mark_absent(self, lease: Lease, position: int, detail: str = "") -> None:
        """Commit that the target showed that it does not exist."""
        self._mark(lease, position, LedgerState.ABSENT, absent_time=self.clock(), detail=detail or None)

    def _mark(self, lease: Lease, position: int, state: LedgerState, **values: Any) -> None:
        with self._held(lease) as (session, job):
            where = [
                LedgerRow.job_id == lease.job_id,
                LedgerRow.position == position,
                LedgerRow.state.in_(ledger_predecessors(state)),
            ]
            if job.verdict is None and state is LedgerState.DELETING:
                where.append(LedgerRow.role == Role.SCAFFOLD)
            count = changed(session.execute(sa.update(LedgerRow).where(*where).values(state=state, **values)))
            row = job.ledger[position]
            if count == 0:
                raise NotReady(f"{row.kind} {row.name} cannot go from {row.state} to {state}")
            self._event(session, job, f"resource_{state.lower()}", f"{row.kind} {row.name}")

    @io_point("store.note_deleted_by_user")
    def note_deleted_by_user(self, job_id: str, gone: Iterable[tuple[str, str, str]]) -> None:
        """Note of kept resources (kind, name, uid) that their user deleted them with our tool, and that they were seen to be
        gone. The rows stay KEPT: what is kept is never the service's to delete."""
        with self._sessions.begin() as session:
            job = self._lock(session, job_id)
            for kind, name, uid in gone if job is not None else ():
                assert job is not None
                where = (LedgerRow.job_id == job_id, LedgerRow.kind == kind, LedgerRow.name == name,
                         LedgerRow.uid == uid, LedgerRow.state == LedgerState.KEPT)  # fmt: skip
                if changed(session.execute(sa.update(LedgerRow).where(*where).values(absent_time=self.clock()))):
                    self._event(session, job, "deleted_by_user", f"{kind} {name}, with clonejob instance delete")

    @io_point("store.claim_cleanup")
    def claim_cleanup(self, job_id: str, epoch: int, owner: str) -> CloneJob | None:
        """Take the lease for clean-up, under a new epoch; None if the message is old or somebody may still work.

        Nobody may still work when the lease was given back, or has run out by more than a provider call takes (R1).
        """
        now = self.clock()
        with self._sessions.begin() as session:
            job = self._lock(session, job_id)
            if job is None or job.epoch != epoch or job.end_time is not None or job.verdict in (None, Verdict.SUCCEED):
                return None
            if (free_at := self._free_at(job)) > now:
                job.wake_at = free_at
                return None
            self._guarded(session, CloneJob.id == job_id, CloneJob.epoch == epoch, epoch=epoch + 1, lease_owner=owner,
                          cleanup_start_time=job.cleanup_start_time or now, dispatches=0, cleanup_detail="clean-up is at work", **self._lease_until(now))  # fmt: skip
            self._event(session, job, "cleanup_started", f"attempt {job.cleanup_attempts + 1}")
        return self.get_job(job_id)

    def _free_at(self, job: CloneJob) -> dt.datetime:
        """When nobody can hold a valid lease on the job or have a create of his under way any more."""
        free_at = job.fence_until or job.create_time
        if job.lease_owner is not None and job.lease_expires_at is not None:
            # A lost clean-up had no create under way, so its lease alone is waited for.
            limit_s = 0.0 if job.cleanup_start_time else self.timing.provider_call_limit_s
            free_at = max(free_at, job.lease_expires_at + dt.timedelta(seconds=limit_s))
        return free_at

    @io_point("store.finish_cleanup")
    def finish_cleanup(self, lease: Lease) -> None:
        """FAILED or CANCELLED. Raises: NotReady unless every ledger row is ABSENT; StaleWrite."""
        with self._held(lease, lease_owner=None) as (session, job):
            now = self._in_order(job, self.clock())
            left = [f"{row.kind} {row.name}" for row in job.ledger if row.state is not LedgerState.ABSENT]
            if left:
                raise NotReady(f"still there: {', '.join(left)}")
            state = JobState.CANCELLED if job.verdict is Verdict.CANCEL else JobState.FAILED
            check_job_transition(job.state, state)
            self._guarded(session, CloneJob.id == job.id, CloneJob.state.in_(job_predecessors(state)),
                          **self._ended(state, now), cleanup_detail=None)  # fmt: skip
            session.refresh(job)
            self._event(session, job, state.lower(), "nothing that it made exists any more")
            operations.end_for_job(session, job, now)

    @io_point("store.pause_cleanup")
    def pause_cleanup(self, lease: Lease, pause_s: float, reason: str, *, attempts: int) -> None:
        """Give the lease back, say why clean-up is not finished, and have it looked at again in ``pause_s``.

        ``attempts``: how many there have been, this one included, since anything moved.
        """
        with self._held(lease, lease_owner=None, lease_expires_at=None, wake_at=self._after(pause_s),
                        cleanup_detail=reason) as (session, job):  # fmt: skip
            job.cleanup_attempts = attempts
            self._event(session, job, "cleanup_waits", f"{reason}; next look in {pause_s:.0f} s")
