"""The writes of a step at work, and success."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models import operations
from models.boot_proofs import BootProof
from models.io_points import io_point
from models.schema import CloneJob
from models.states import STEP_STATE, JobState, LedgerState, Role, Verdict, check_job_transition
from models.store.base import Lease, NotReady, StoreBase


class StepWrites(StoreBase):
    """A step claims the job, works under the lease, gives it back."""

    @io_point("store.claim_step")
    def claim_step(self, job_id: str, epoch: int, position: int, owner: str) -> CloneJob | None:
        """Take the lease for one step; None if the message is old, early or a duplicate, or somebody works already.

        ``position`` is an index into the job's steps; len(steps) claims the final ``finish``.
        """
        now = self.clock()
        with self._sessions.begin() as session:
            job = self._lock(session, job_id)
            if job is None or job.verdict is not None or job.epoch != epoch or position != job.current_step:
                return None
            if job.lease_owner is not None or (job.next_check_at is not None and job.next_check_at > now):
                return None
            state = STEP_STATE[job.steps[position].kind] if position < len(job.steps) else JobState.ACTIVE
            check_job_transition(job.state, state)
            recorded = self._in_order(job, now)
            taken = self._guarded(
                session,
                CloneJob.id == job_id,
                CloneJob.epoch == epoch,
                CloneJob.verdict.is_(None),
                CloneJob.lease_owner.is_(None),
                CloneJob.current_step == position,
                state=state,
                state_time=recorded if state is not job.state else job.state_time,
                lease_owner=owner,
                next_check_at=None,
                attempts=job.attempts + 1,
                dispatches=0,
                **self._lease_until(now),
            )
            if not taken:
                return None
            if position < len(job.steps) and job.steps[position].start_time is None:
                job.steps[position].start_time = recorded
                self._event(session, job, "step_started", str(job.steps[position].kind))
        return self.get_job(job_id)

    @io_point("store.renew")
    def renew(self, lease: Lease) -> None:
        """Extend the lease. Raises: StaleWrite, which is how a running step hears of a verdict."""
        with self._held(lease):
            pass

    @io_point("store.note_progress")
    def note_progress(
        self, lease: Lease, position: int, *, percent: int, detail: str, boot: Mapping[str, Any] | None = None,
        adaptation: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """What an operator may see of the step; ``boot`` is what the guest showed, ``adaptation`` what was done to it:
        that an earlier job's result was reused is an event. Renews the lease.

        With a verdict on the boot, what it says about the pinned snapshots is recorded by the same transaction.
        """
        with self._held(lease) as (session, job):
            if boot is not None and boot["verdict"] != "WAITING":
                session.merge(self._proof(job.id, boot))
            found = {"boot": dict(boot)} if boot is not None else {}
            if adaptation is not None:
                found["adaptation"] = dict(adaptation)
                if adaptation.get("reused") and "adaptation" not in job.steps[position].progress:
                    self._event(session, job, "adaptation_reused", detail)
            job.steps[position].progress = {
                **job.steps[position].progress,
                "percent": percent,
                "detail": detail,
                **found,
            }

    def _proof(self, job_id: str, boot: Mapping[str, Any]) -> BootProof:
        files = boot.get("files", {})
        console, screen = (files.get(name, {}).get("sha256") for name in ("console.txt", "screen.png"))
        return BootProof(job_id=job_id, verdict=boot["verdict"], time=self.clock(), seconds=boot["seconds"],
                         console_sha256=console, screen_sha256=screen)  # fmt: skip

    @io_point("store.complete_step")
    def complete_step(self, lease: Lease, position: int) -> None:
        """End the step, give the lease back, point the job at the next step."""
        with self._held(lease, lease_owner=None, lease_expires_at=None, next_check_at=None, attempts=0, dispatches=0,
                        current_step=position + 1, wake_at=self._after(self.timing.dispatch_grace_s)) as (session, job):  # fmt: skip
            job.steps[position].end_time = self._in_order(job, self.clock())
            self._event(session, job, "step_ended", str(job.steps[position].kind))

    @io_point("store.pause_step")
    def pause_step(self, lease: Lease, pause_s: float, *, failed: str | None = None, comes_back: bool = True) -> None:
        """Give the lease back and have the step looked at again in ``pause_s``.

        ``failed`` is the error of an attempt that is to be repeated; without it the step is waiting for the target and
        its attempts start anew. ``comes_back`` tells that the caller will send a message for it; otherwise the
        reconciler wakes the job.
        """
        check_at = self._after(pause_s) if pause_s > 0 else None  # clocks of two machines differ: "at once" has no time
        wake_at = self._after(pause_s + (self.timing.dispatch_grace_s if comes_back else 0))
        with self._held(lease, lease_owner=None, lease_expires_at=None, next_check_at=check_at, dispatches=0,
                        wake_at=wake_at) as (session, job):  # fmt: skip
            if failed is None:
                job.attempts = 0
            else:
                self._event(session, job, "attempt_failed", f"attempt {job.attempts}: {failed}")

    @io_point("store.succeed")
    def succeed(self, lease: Lease) -> None:
        """The verdict SUCCEED, the state SUCCEEDED and every product KEPT, in one transaction (R2, R4).

        Raises: StaleWrite if a cancel or failure was first; NotReady unless every scaffold is ABSENT and every product
        CREATED.
        """

        def success(job: CloneJob) -> dict[str, Any]:
            now = self._in_order(job, self.clock())
            return {"verdict": Verdict.SUCCEED, "verdict_time": now, **self._ended(JobState.SUCCEEDED, now)}

        with self._held(lease, success) as (session, job):
            assert job.end_time is not None
            for row in job.ledger:
                wanted = LedgerState.ABSENT if row.role is Role.SCAFFOLD else LedgerState.CREATED
                if row.state is not wanted:
                    raise NotReady(f"{row.kind} {row.name} is {row.state}, not {wanted}")
                if row.role is Role.PRODUCT:
                    row.state = LedgerState.KEPT
            self._event(session, job, "succeeded", "the products belong to the user now")
            operations.end_for_job(session, job, job.end_time)
