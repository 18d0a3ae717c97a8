"""Holds the rules R1–R9 of docs/guarantee.md against what the simulated target itself saw.

The target's call log is the witness: an ``effect`` line says that something came to exist or went, with its uid; a
``start`` line says that somebody called. Our own tables say only what was promised and when.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from models.schema import CloneJob, ReplicationCycle, Snapshot
from models.states import TERMINAL, JobState, LedgerState, Role, StepKind, Verdict
from targets.base import BOOT_DISK_NUMBER, LABEL_JOB_ID, Observed, ResourceKind
from targets.simulated import SimulatedTarget
from targets.simulated_lives import Life, lives
from targets.simulated_log import Call


class Violation(NamedTuple):
    """One broken rule."""

    rule: str
    job: str
    what: str


@dataclasses.dataclass
class Finding:
    """What the judge found.

    ``late_calls``: calls of a frozen worker that came after the end of its job and changed nothing: the residual
    window that R1 states. They are no violation, but they are counted.
    """

    violations: list[Violation]
    late_calls: list[Call]
    jobs: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        """For a report."""
        return {
            "violations": [violation._asdict() for violation in self.violations],
            "late_calls_without_effect": len(self.late_calls),
            "jobs": self.jobs,
        }


def read_jobs(engine: sa.Engine) -> list[CloneJob]:
    """All jobs with their ledgers, as committed now, read without passing an I/O point."""
    with Session(engine, expire_on_commit=False) as session:
        return list(session.scalars(sa.select(CloneJob).order_by(CloneJob.create_time)))


def pinned_keys(engine: sa.Engine) -> dict[str, set[str]]:
    """Snapshot keys of every cycle."""
    keys: dict[str, set[str]] = defaultdict(set)
    with Session(engine) as session:
        for cycle, key in session.execute(sa.select(ReplicationCycle.name, Snapshot.store_key).join_from(
                Snapshot, ReplicationCycle, Snapshot.cycle == ReplicationCycle.name)):  # fmt: skip
            keys[cycle].add(key)
    return keys


def judge(
    engine: sa.Engine,
    target: SimulatedTarget,
    *,
    final: bool,
    accepted: Mapping[str, str] | None = None,
    calls: list[Call] | None = None,
    ends: Mapping[str, float] | None = None,
) -> Finding:
    """Hold all rules against the target's log, its inventory and the tables.

    ``final``: faults have stopped and time was given, so every job must have ended (R5). ``accepted``: names of jobs
    for which a client got an operation, by request id (R7). ``calls``: the log, if it was read already; read the log
    before the tables otherwise, so that a job which ends meanwhile is not judged by half of its calls. ``ends``: when each
    job's end was committed by the clock of ``calls``, for whoever knows it better than ``end_time``, which is the
    service's clock.
    """
    jobs = read_jobs(engine)
    calls = target.calls() if calls is None else calls
    found = _Judge(jobs, calls, target.everything(), pinned_keys(engine), ends or {})
    found.each_job(final=final)
    found.strangers()
    if accepted is not None:
        found.accepted(accepted)
    counts: dict[str, int] = defaultdict(int)
    for job in jobs:
        counts[str(job.state)] += 1
    return Finding(found.violations, found.late_calls, dict(counts))


class _Judge:
    def __init__(
        self,
        jobs: list[CloneJob],
        calls: list[Call],
        inventory: list[Observed],
        keys: Mapping[str, set[str]],
        ends: Mapping[str, float],
    ) -> None:
        self.violations: list[Violation] = []
        self.late_calls: list[Call] = []
        self._jobs = {job.id: job for job in jobs}
        self._calls = calls
        self._inventory = inventory
        self._keys = keys
        self._ends = ends
        self._lives = lives(calls)
        self._of_job: dict[str, list[Life]] = defaultdict(list)
        for life in self._lives:
            if life.job_id is not None and not life.by_foreign:
                self._of_job[life.job_id].append(life)

    def _blame(self, rule: str, job: CloneJob | None, what: str) -> None:
        self.violations.append(Violation(rule, job.name if job else "", what))

    def _end_of(self, job: CloneJob) -> float:
        assert job.end_time is not None
        return self._ends.get(job.id, job.end_time.timestamp())

    def each_job(self, *, final: bool) -> None:
        """R1–R6, job by job."""
        for job in self._jobs.values():
            mine = self._of_job[job.id]
            ended = (job.end_time is not None) == (job.state in TERMINAL)
            if not ended:
                self._blame("R6", job, f"state {job.state} with end time {job.end_time}")
            if final and job.end_time is None:
                self._blame("R5", job, f"{job.state}, verdict {job.verdict}: {job.cleanup_detail or job.error}")
            self._steps_in_order(job)
            self._one_instance(job, mine)
            if job.state in (JobState.FAILED, JobState.CANCELLED):
                self._nothing_left(job, mine)
            if job.state is JobState.SUCCEEDED:
                self._kept(job, mine)
                self._untouched(job)

    def _nothing_left(self, job: CloneJob, mine: list[Life]) -> None:
        published = self._end_of(job)
        for life in mine:
            if life.until is None or life.until > published:
                self._blame("R1", job, f"{job.state} was published while {life.kind} {life.name} ({life.uid}) existed")
            if life.since > published:
                self._blame("R1", job, f"{life.kind} {life.name} was made after {job.state} was published")

    def _one_instance(self, job: CloneJob, mine: list[Life]) -> None:
        instances = sorted((life for life in mine if life.kind == ResourceKind.INSTANCE), key=lambda life: life.since)
        for earlier, later in zip(instances, instances[1:], strict=False):
            if earlier.until is None or earlier.until > later.since:
                self._blame("R3", job, f"instances {earlier.uid} and {later.uid} existed at once")

    def _kept(self, job: CloneJob, mine: list[Life]) -> None:
        committed = self._end_of(job)
        by_place = {(life.kind, life.name, life.uid): life for life in mine}
        kinds = set()
        for row in job.ledger:
            if row.state is LedgerState.ABSENT and row.role is Role.SCAFFOLD:
                continue
            life = by_place.get((row.kind, row.name, row.uid or ""))
            kinds.add(row.kind)
            if row.state is not LedgerState.KEPT or life is None or life.since > committed:
                self._blame("R4", job, f"{row.kind} {row.name} ({row.state}, {row.uid}) was never made")
            elif life.until is not None and life.until <= self._last_look(life, committed):
                self._blame("R4", job, f"{row.kind} {row.name} was gone before success ({life.by})")
            elif life.until is not None and life.by == "delete":
                self._blame("R2", job, f"{row.kind} {row.name} was deleted by us after success")
            pin = row.spec.get("snapshot", {}).get("key")
            of_source = (
                row.spec.get("diskNumber") != BOOT_DISK_NUMBER
            )  # else its image is named by the VM's target defaults
            if pin is not None and of_source and pin not in self._keys[job.cycle]:
                self._blame("R4", job, f"{row.kind} {row.name} was made from {pin}, which is not of {job.cycle}")
        due = {row.kind for row in job.ledger if row.role is Role.PRODUCT}
        due |= {ResourceKind.DISK} if all(row.kind != ResourceKind.BOOT_IMAGE for row in job.ledger) else set()
        due |= {ResourceKind.INSTANCE for step in job.steps if step.kind is StepKind.INSTANTIATING_MIGRATED_VM}
        if not kinds >= due:
            self._blame("R4", job, f"its ledger keeps only {sorted(kinds)}")

    def _last_look(self, life: Life, committed: float) -> float:
        """When the job looked at the resource for the last time before its success: a user's hand in the moment
        between that look and the commit is nobody's fault."""
        looks = (
            call.time for call in self._calls
            if call.op == "find" and (call.kind, call.name) == (life.kind, life.name) and call.time <= committed
        )  # fmt: skip
        return committed if life.by == "delete" else max(looks, default=committed)

    def _untouched(self, job: CloneJob) -> None:
        committed = self._end_of(job)
        uids = {life.uid for life in self._of_job[job.id]}
        for call in self._calls:
            ours = call.job_id == job.id or call.uid in uids
            if not ours or call.time <= committed or call.op not in ("create", "delete"):
                continue
            if call.phase == "effect":
                self._blame("R2", job, f"{call.op} of {call.kind} {call.name} took effect after success")
            elif call.phase == "start":
                self.late_calls.append(call)

    def _steps_in_order(self, job: CloneJob) -> None:
        times = [time for step in job.steps for time in (step.start_time, step.end_time) if time is not None]
        if times != sorted(times):
            self._blame("R6", job, f"step times go backwards: {times}")
        if job.verdict is Verdict.SUCCEED and job.state is not JobState.SUCCEEDED:
            self._blame("R6", job, f"verdict SUCCEED in state {job.state}")

    def strangers(self) -> None:
        """R9, and what carries a label of no job that we know."""
        for life in self._lives:
            if life.by == "delete" and (life.by_foreign or life.job_id not in self._jobs):
                self._blame("R9", None, f"{life.kind} {life.name} ({life.uid}) was not ours and was deleted")
        for seen in self._inventory:
            job = self._jobs.get(seen.job_id or "")
            if job is not None and job.state in (JobState.FAILED, JobState.CANCELLED):
                if seen.uid in {life.uid for life in self._of_job[job.id]}:
                    self._blame("R1", job, f"{seen.ref} ({seen.uid}, {seen.status}) still exists")
        made = {life.uid for life in self._lives}
        for seen in self._inventory:
            if seen.uid not in made:
                self._blame("LOG", None, f"{seen.ref} ({seen.labels.get(LABEL_JOB_ID)}) exists and nobody logged it")

    def accepted(self, accepted: Mapping[str, str]) -> None:
        """R7: who was told that a job was accepted finds it."""
        names = {job.name for job in self._jobs.values()}
        for request, name in accepted.items():
            if name not in names:
                self._blame("R7", None, f"{name} was accepted (request {request}) and does not exist")
