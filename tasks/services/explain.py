"""Why a job waits, why it failed, what was cleaned, what was kept, what to do next: from the row and its events alone."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from models.schema import CloneJob, CloneStep, JobEvent, LedgerRow
from models.states import TERMINAL, JobState, LedgerState, StepKind, Verdict
from tasks.plan import clone_mode_of
from tasks.runtime import Runtime
from tasks.services.common import must_get


@dataclass(frozen=True, slots=True)
class Waits:
    """What a running job waits for. ``until`` is when somebody looks again at the latest."""

    reason: str
    message: str
    since: dt.datetime | None
    until: dt.datetime | None
    holder: str | None
    attempts: int


@dataclass(frozen=True, slots=True)
class Failure:
    """Why it failed, in the terms of the contract's MigrationError."""

    code: str
    message: str
    action: str
    step: str | None
    attempts: int
    time: dt.datetime | None


@dataclass(frozen=True, slots=True)
class Cleaned:
    """A resource that does not exist; ``absent_time`` is when that was seen."""

    kind: str
    name: str
    absent_time: dt.datetime | None
    detail: str | None


@dataclass(frozen=True, slots=True)
class Left:
    """A resource that exists, or may exist, and is the job's to remove or to keep."""

    kind: str
    name: str
    role: str
    state: str


@dataclass(frozen=True, slots=True)
class Kept:
    """A resource of a job that succeeded: its user's."""

    kind: str
    name: str
    uid: str | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """``summary`` is one sentence; ``next_steps`` are what a person may do; ``clone_mode`` may be empty."""

    name: str
    state: JobState
    clone_mode: str
    summary: str
    waits: Waits | None
    failure: Failure | None
    cleaned: tuple[Cleaned, ...]
    left: tuple[Left, ...]
    kept: tuple[Kept, ...]
    next_steps: tuple[str, ...]


class ExplainService:
    """Reads only."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def explain(self, name: str) -> Explanation:
        """Raises: NotFound."""
        job = must_get(self._runtime.catalog, CloneJob, name)
        events = self._runtime.catalog.events(job.id)
        waits = None if job.state in TERMINAL else self._waits(job, events)
        failure = _failure(job, events)
        ledger = job.ledger
        cleaned = tuple(
            Cleaned(row.kind, row.name, row.absent_time, row.detail)
            for row in ledger
            if row.state is LedgerState.ABSENT
        )
        left = tuple(Left(row.kind, row.name, str(row.role), str(row.state)) for row in ledger if _may_exist(row))
        kept = tuple(Kept(row.kind, row.name, row.uid) for row in ledger if row.state is LedgerState.KEPT)
        return Explanation(
            name,
            job.state,
            clone_mode_of(job),
            _summary(job, waits, failure),
            waits,
            failure,
            cleaned,
            left,
            kept,
            _next(job, waits, failure),
        )

    def _waits(self, job: CloneJob, events: Sequence[JobEvent]) -> Waits:
        found = self._of_step(job, events) if job.verdict is None else self._of_cleanup(job, events)
        reason, message, since = found
        attempts = job.attempts if job.verdict is None else job.cleanup_attempts
        return Waits(reason, message, since, job.next_check_at or job.wake_at, job.lease_owner, attempts)

    def _of_step(self, job: CloneJob, events: Sequence[JobEvent]) -> tuple[str, str, dt.datetime | None]:
        step = _current(job)
        what = _label(step)
        moved = events[-1].time if events else job.create_time
        if job.lease_owner is not None:
            since = step.start_time if step else moved
            if job.lease_expires_at is not None and job.lease_expires_at < self._runtime.clock():
                lost = f"{job.lease_owner} has not been heard of since its lease on {what} ran out; another worker takes over"
                return "LEASE_EXPIRED", lost, job.lease_expires_at
            return "WORKING", f"{job.lease_owner} works on {what}{_detail(step)}", since
        if job.next_check_at is not None and job.attempts:
            failed = _last(events, "attempt_failed")
            why = failed.message if failed else f"attempt {job.attempts} failed"
            return "RETRYING", f"{what} is tried again; {why}", failed.time if failed else None
        if job.next_check_at is not None:
            return (
                "WAITING_FOR_TARGET",
                f"the target is at work for {what}{_detail(step)}",
                step.start_time if step else moved,
            )
        again = f"; asked for {job.dispatches} more times, so look whether workers run" if job.dispatches else ""
        if job.state is JobState.PENDING:
            return "QUEUED", f"no worker has taken it yet{again}", job.create_time
        lost_lease = _last(events, "lease_lost")
        if lost_lease is not None and lost_lease is events[-1]:
            return "QUEUED", f"{what} is to be repeated, since {lost_lease.message}{again}", lost_lease.time
        return "QUEUED", f"no worker has taken {what} yet{again}", moved

    def _of_cleanup(self, job: CloneJob, events: Sequence[JobEvent]) -> tuple[str, str, dt.datetime | None]:
        now = self._runtime.clock()
        started = job.cleanup_start_time
        if job.lease_owner is not None and started is None:
            message = (
                f"{job.lease_owner} was at work when the job got its verdict; clean-up begins when it gives its lease "
                "back, or when the lease has run out by as much as one call to the target may take"
            )
            return "WAITING_FOR_WORKER", message, job.verdict_time
        if job.lease_owner is not None:
            return "CLEANING_UP", f"{job.lease_owner} removes what the job made", started
        if job.fence_until is not None and job.fence_until > now:
            message = f"a call of a worker that was lost may still land until {job.fence_until:%H:%M:%S} UTC; then clean-up begins"
            return "WAITING_FOR_FENCE", message, job.verdict_time
        if job.cleanup_attempts:
            paused = _last(events, "cleanup_waits")
            message = f"clean-up is not finished after {job.cleanup_attempts} attempts: {job.cleanup_detail}"
            return "CLEANUP_WAITS", message, paused.time if paused else started
        return "CLEANUP_QUEUED", "no worker has taken its clean-up yet", job.verdict_time


def _summary(job: CloneJob, waits: Waits | None, failure: Failure | None) -> str:
    if waits is not None:
        if job.verdict is None:
            return f"It is {job.state}: {waits.message}."
        ending = (
            "cancelled" if job.verdict is Verdict.CANCEL else f"failed ({failure.message})" if failure else "failed"
        )
        return f"It was {ending}, and what it made is being removed: {waits.message}."
    if job.state is JobState.SUCCEEDED:
        return "It succeeded: what it made is yours, and it never touches it again."
    seen = max((row.absent_time for row in job.ledger if row.absent_time), default=None)
    gone = (
        f"nothing that it made exists any more, as seen at {seen:%Y-%m-%d %H:%M:%S} UTC" if seen else "it made nothing"
    )
    if all(row.intended_time is None for row in job.ledger):
        gone = "it had made nothing"
    if failure is not None:
        step = StepKind(failure.step).words if failure.step else "finish"
        return f"It failed in step {step}: {failure.message}; {gone}."
    return f"It was cancelled; {gone}."


def _next(job: CloneJob, waits: Waits | None, failure: Failure | None) -> tuple[str, ...]:
    if waits is not None:
        do = {
            "QUEUED": ("Nothing, if workers run: clonejob doctor tells.",),
            "WORKING": ("Nothing; it goes on by itself.",),
            "LEASE_EXPIRED": ("Nothing, if workers run: the reconciler repeats the step. clonejob doctor tells.",),
            "WAITING_FOR_TARGET": ("Nothing; it looks again by itself.",),
            "RETRYING": ("Mend what the message names if it does not pass by itself, or cancel the job.",),
            "CLEANUP_WAITS": ("Mend what the reason names at the target; clean-up looks again by itself, for ever.",),
        }
        return do.get(waits.reason, ("Nothing; clean-up goes on by itself.",))
    if job.state is JobState.SUCCEEDED:
        has_vm = any(step.kind is StepKind.INSTANTIATING_MIGRATED_VM for step in job.steps)
        use, them = ("instance", "it") if has_vm else ("disks", "them")
        return (f"Use the {use}; delete {them} yourself when you no longer want {them}.",)
    if failure is not None:
        return (failure.action,) if failure.action else ("Mend what the message names, then create a new clone job.",)
    return ("Nothing; create another clone job whenever you like.",)


def _failure(job: CloneJob, events: Sequence[JobEvent]) -> Failure | None:
    if job.error is None:
        return None
    step = _current(job)
    tried = sum(event.kind in ("attempt_failed", "lease_lost") for event in _since_step(events))
    return Failure(
        job.error.get("code", ""), job.error.get("message", ""), job.error.get("action", ""),
        str(step.kind) if step else None, max(job.attempts, tried), job.verdict_time,
    )  # fmt: skip


def _since_step(events: Sequence[JobEvent]) -> Sequence[JobEvent]:
    """The events of the step that the job stands at."""
    ended = [at for at, event in enumerate(events) if event.kind == "step_ended"]
    return events[ended[-1] + 1 :] if ended else events


def _current(job: CloneJob) -> CloneStep | None:
    return job.steps[job.current_step] if job.current_step < len(job.steps) else None


def _label(step: CloneStep | None) -> str:
    return f"step {step.kind.words}" if step else "the last look before success"


def _detail(step: CloneStep | None) -> str:
    detail = (step.progress or {}).get("detail") if step else None
    return f": {detail}" if detail else ""


def _last(events: Sequence[JobEvent], kind: str) -> JobEvent | None:
    return next((event for event in reversed(events) if event.kind == kind), None)


def _may_exist(row: LedgerRow) -> bool:
    return row.state in (LedgerState.INTENDED, LedgerState.CREATED, LedgerState.DELETING)
