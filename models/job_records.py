"""What clients see of a clone job, in one statement and without the ORM: GetCloneJob is the call that polls."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from models.listing import KEY_PREFIX
from models.prepared import Prepared, PreparedIn, Row
from models.schema import CloneJob, CloneStep
from models.states import JobState, StepKind


@dataclass(slots=True)
class StepRecord:
    """A step of a job, as it was read."""

    kind: StepKind
    start_time: dt.datetime | None
    end_time: dt.datetime | None


@dataclass(slots=True)
class JobRecord:
    """A clone job with its steps and without its ledger, as it was read. It can change nothing."""

    id: str
    name: str
    parent: str
    state: JobState
    state_time: dt.datetime
    create_time: dt.datetime
    end_time: dt.datetime | None
    verdict_time: dt.datetime | None
    error: dict[str, Any] | None
    target_details: dict[str, Any]
    steps: list[StepRecord] = field(default_factory=list)


COLUMNS: tuple[Any, ...] = (
    CloneJob.id, CloneJob.name, CloneJob.parent, CloneJob.state, CloneJob.state_time, CloneJob.create_time,
    CloneJob.end_time, CloneJob.verdict_time, CloneJob.error, CloneJob.target_details,
)  # fmt: skip
_WIDTH = len(COLUMNS)
_STEP: tuple[Any, ...] = (CloneStep.kind, CloneStep.start_time, CloneStep.end_time)
_WITH_STEPS = sa.select(*COLUMNS, *_STEP).outerjoin(CloneStep, CloneStep.job_id == CloneJob.id)
BY_NAME = Prepared(
    _WITH_STEPS.where(CloneJob.name == sa.bindparam("name", type_=sa.String())).order_by(CloneStep.position)
)
BY_NAMES = PreparedIn(_WITH_STEPS.order_by(CloneJob.name, CloneStep.position), CloneJob.name)
_STEPS = (
    sa.select(CloneStep.job_id, *_STEP)
    .where(CloneStep.job_id.in_(sa.bindparam("jobs", expanding=True)))
    .order_by(CloneStep.job_id, CloneStep.position)
)


def job_of(rows: Sequence[Row]) -> JobRecord | None:
    """The job of ``BY_NAME``'s rows, of which there is one per step."""
    if not rows:
        return None
    job = JobRecord(*rows[0][:_WIDTH])
    job.steps = [StepRecord(*row[_WIDTH:]) for row in rows if row[_WIDTH] is not None]
    return job


def jobs_in(rows: Sequence[Row]) -> dict[str, JobRecord]:
    """The jobs of ``BY_NAMES``'s rows."""
    jobs: dict[str, JobRecord] = {}
    for row in rows:
        job = jobs.get(row[1])
        if job is None:
            job = jobs[row[1]] = JobRecord(*row[:_WIDTH])
        if row[_WIDTH] is not None:
            job.steps.append(StepRecord(*row[_WIDTH:]))
    return jobs


def page(connection: Connection, query: sa.Select[Any]) -> list[tuple[JobRecord, tuple[Any, ...]]]:
    """The jobs that ``query`` selects, each with the keys that it selects beside them."""
    keys: list[Any] = [column for column in query.selected_columns if str(column.key).startswith(KEY_PREFIX)]
    found = connection.execute(query.with_only_columns(*COLUMNS, *keys)).all()
    jobs = {row[0]: JobRecord(*row[:_WIDTH]) for row in found}
    for row in connection.execute(_STEPS, {"jobs": list(jobs)}) if jobs else ():
        jobs[row[0]].steps.append(StepRecord(*row[1:]))
    return [(jobs[row[0]], tuple(row[_WIDTH:])) for row in found]
