"""What the model holds true after every rule, besides what the judge reads from the target's log."""

from __future__ import annotations

import logging

import sqlalchemy as sa
from guarantee.judge import judge
from guarantee.machine_stage import InjectedError, Stage, Worker
from sqlalchemy.orm import Session

from models.schema import CloneJob, Operation
from models.states import JOB_TRANSITIONS, TERMINAL, JobState, Verdict
from models.store import Lease
from targets.simulated_log import Call
from tasks.steps import Result


class ViolationError(AssertionError):
    """A rule of docs/guarantee.md is broken."""


class _Defects(logging.Handler):
    """Steps and the reconciler survive their own defects and log them; here a defect is a failure."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not isinstance(error, InjectedError):
            self.found.append(f"{record.getMessage()}: {error!r}")


def jobs(stage: Stage) -> list[CloneJob]:
    """All jobs as committed now, read without passing an I/O point."""
    with Session(stage.engine, expire_on_commit=False) as session:
        return list(session.scalars(sa.select(CloneJob).order_by(CloneJob.create_time, CloneJob.name)))


class Witness:
    """Judges, and remembers how each job looked before."""

    def __init__(self, stage: Stage) -> None:
        self.leases: list[Lease] = []  # of workers that are gone
        self._stage = stage
        self._before: dict[str, tuple[JobState, Verdict | None, int]] = {}
        self._judged_at = -1
        self._defects = _Defects()
        logger = logging.getLogger("tasks")
        logger.handlers = [each for each in logger.handlers if not isinstance(each, _Defects)]
        logger.addHandler(self._defects)

    def see_end(self, worker: Worker) -> None:
        """What a worker that has ended leaves. Raises: what it failed with, unless it was allowed to."""
        stage, kind = self._stage, worker.what[0]
        if worker.failed is not None and not isinstance(worker.failed, worker.allowed):
            raise worker.failed
        if kind in ("step", "cleanup") and (worker.crashed or worker.was_frozen):
            job = stage.job_quietly(worker.what[1])
            if job is not None and job.lease_owner is not None:
                self.leases.append(Lease(job.id, job.epoch, job.lease_owner))
        dropped = kind == "step" and worker.result is not None and worker.result.result is Result.DROPPED
        if dropped or (kind == "cleanup" and worker.result is False):
            stage.tally["messages absorbed"] += 1

    def judge(self, accepted: dict[str, str], *, final: bool) -> None:
        """Raises: ViolationError."""
        stage = self._stage
        if not final and stage.moved == self._judged_at:
            return
        self._judged_at = stage.moved
        calls = [call._replace(time=float(number)) for number, call in enumerate(stage.target.calls())]
        ends = {job_id: length - 0.5 for job_id, length in stage.published.items()}
        finding = judge(stage.engine, stage.target, final=final, accepted=accepted, calls=calls, ends=ends)
        wrong = [f"{each.rule}: {each.job} {each.what}" for each in finding.violations]
        wrong += stage.blames + self._defects.found
        for job in jobs(stage):
            wrong += self._against_before(job)
            if job.end_time is not None and job.id not in stage.published:
                wrong.append(f"R6: {job.name} has ended, and no write that ends jobs was seen")
            if job.state in (JobState.FAILED, JobState.CANCELLED):
                wrong += self._absence_not_seen(job, calls[: stage.published.get(job.id, 0)])
        if wrong:
            stage.tally["violations"] += 1
            raise ViolationError("\n".join(wrong))

    def _against_before(self, job: CloneJob) -> list[str]:
        """R6: states along the table, verdicts once, epochs forward."""
        state, verdict, epoch = self._before.get(job.id, (JobState.PENDING, None, 1))
        self._before[job.id] = job.state, job.verdict, job.epoch
        wrong = []
        if job.state not in _reachable(state):
            wrong.append(f"R6: {job.name} went from {state} to {job.state}")
        if verdict is not None and job.verdict is not verdict:
            wrong.append(f"R6: the verdict of {job.name} was {verdict} and is {job.verdict}")
        if job.epoch < epoch:
            wrong.append(f"R8: the epoch of {job.name} went from {epoch} to {job.epoch}")
        times = [job.create_time, job.verdict_time, job.end_time]
        if (known := [time for time in times if time is not None]) != sorted(known):
            wrong.append(f"R6: {job.name} was created, judged and ended at {known}")
        return wrong

    @staticmethod
    def _absence_not_seen(job: CloneJob, calls: list[Call]) -> list[str]:
        """R1: after the last thing that happened to a resource, and before the end was published, somebody looked."""
        changed: dict[tuple[str | None, str | None], int] = {}
        looked: dict[tuple[str | None, str | None], int] = {}
        for number, call in enumerate(calls):
            place = (call.kind, call.name)
            if call.phase == "effect" and call.job_id == job.id and call.op in ("create", "delete"):
                changed[place] = number
            elif call.op == "find" and call.phase == "end" and call.outcome == "ok":
                looked[place] = number
        return [
            f"R1: {job.state} of {job.name} was published before anybody saw that {row.kind} {row.name} was gone"
            for row in job.ledger
            if (place := (row.kind, row.name)) in changed and looked.get(place, -1) < changed[place]
        ]

    def count(self, accepted: dict[str, str]) -> None:
        """Count what the example saw; every operation that waited for a job has ended with it."""
        stage = self._stage
        for job in jobs(stage):
            stage.tally[f"jobs {job.state}"] += 1
            stage.tally["stale writes rejected"] += job.stale_writes
            stage.tally["clean-ups that had to wait"] += job.cleanup_attempts
        for call in stage.target.calls():
            if call.phase == "end" and call.outcome != "ok":
                stage.tally[f"provider: {call.op} {call.outcome}"] += 1
        with Session(stage.engine) as session:
            open_ones = session.scalars(sa.select(Operation.name).where(Operation.end_time.is_(None))).all()
        if open_ones:
            raise ViolationError(f"R5: operations that nobody ends: {open_ones}")


def _reachable(state: JobState) -> set[JobState]:
    found, new = {state}, {state}
    while new := {after for each in new for after in JOB_TRANSITIONS[each]} - found:
        found |= new
    return found


__all__ = ["TERMINAL", "ViolationError", "Witness", "jobs"]
