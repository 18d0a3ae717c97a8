"""What clients see of a clone job, in one statement and without the ORM: GetCloneJob is the call that polls."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Connection

from models.listing import KEY_PREFIX
from models.prepared import Prepared, PreparedIn, Row
from models.schema import CloneJob, CloneStep
from models.states import JobState, StepKind

Revision = tuple[Any, ...]


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
    encoded: dict[str, bytes] = field(default_factory=dict, compare=False, repr=False)
    """What the front ends have made of it, by their own keys: one that is kept is not encoded again."""


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
_BY_NAMES = _WITH_STEPS.order_by(CloneJob.name, CloneStep.position)
BY_NAMES = PreparedIn(_BY_NAMES, CloneJob.name)
# One text for any number of jobs, as ``PreparedIn`` has it: an expanding IN is written, read and planned anew each time.
_ARRAY = sa.bindparam("jobs", type_=postgresql.ARRAY(sa.String()))
_EACH = sa.func.json_each(sa.bindparam("jobs", type_=sa.JSON())).table_valued("value")
_OF_THESE = {
    "postgresql": CloneStep.job_id == sa.any_(_ARRAY),
    "sqlite": CloneStep.job_id.in_(sa.select(_EACH.c.value)),
}
_STEPS = {
    dialect: sa.select(CloneStep.job_id, *_STEP).where(of_these).order_by(CloneStep.job_id, CloneStep.position)
    for dialect, of_these in _OF_THESE.items()
}


def _xmin(table: str) -> sa.ColumnElement[str]:
    return sa.cast(sa.literal_column(f"{table}.xmin"), sa.Text())


# PostgreSQL only. What tells one state of a job from every other: which transactions wrote the job's row and its steps',
# on which run of the server. Whoever changes a row leaves another xmin there, old processes and hands at psql included.
_SERVER = sa.select(sa.cast(sa.func.pg_postmaster_start_time(), sa.Text())).scalar_subquery()
_REVISION: tuple[Any, ...] = (_SERVER, _xmin(CloneJob.__tablename__), _xmin(CloneStep.__tablename__))
REVISIONS = PreparedIn(
    sa.select(CloneJob.name, *_REVISION).outerjoin(CloneStep, CloneStep.job_id == CloneJob.id), CloneJob.name
)
_SIZE_BYTES = sa.literal_column("octet_length(concat(clone_jobs.target_details, clone_jobs.error))", sa.Integer())
WITH_REVISIONS = PreparedIn(_BY_NAMES.add_columns(_SIZE_BYTES, *_REVISION), CloneJob.name)


def revisions_in(rows: Sequence[Row]) -> dict[str, Revision]:
    """The revisions of ``REVISIONS``' rows by the jobs' names, to be compared and no more."""
    found: dict[str, Revision] = {}
    for name, server, job, step in rows:
        found[name] = (*(found.get(name) or (server, job)), step)
    return found


def revised_in(rows: Sequence[Row]) -> dict[str, tuple[JobRecord, Revision, int]]:
    """The jobs of ``WITH_REVISIONS``' rows, their revisions, and how many bytes their JSON has."""
    width = _WIDTH + len(_STEP)
    revisions = revisions_in([(row[1], *row[width + 1 :]) for row in rows])
    sizes = {row[1]: row[width] for row in rows}
    return {name: (job, revisions[name], sizes[name]) for name, job in jobs_in(rows).items()}


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
            job.steps.append(StepRecord(*row[_WIDTH : _WIDTH + len(_STEP)]))
    return jobs


def page(connection: Connection, query: sa.Select[Any]) -> list[tuple[JobRecord, tuple[Any, ...]]]:
    """The jobs that ``query`` selects, each with the keys that it selects beside them."""
    keys: list[Any] = [column for column in query.selected_columns if str(column.key).startswith(KEY_PREFIX)]
    found = connection.execute(query.with_only_columns(*COLUMNS, *keys)).all()
    jobs = {row[0]: JobRecord(*row[:_WIDTH]) for row in found}
    for row in connection.execute(_STEPS[connection.dialect.name], {"jobs": list(jobs)}) if jobs else ():
        jobs[row[0]].steps.append(StepRecord(*row[1:]))
    return [(jobs[row[0]], tuple(row[_WIDTH:])) for row in found]
