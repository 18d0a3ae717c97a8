"""Reads of everything; the writes of what is not a job stand in ``resources``, ``cycles`` and ``migrating_vms``.

Jobs and their ledger have their own writer, ``models/store``; this module only reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy.orm import aliased, joinedload, lazyload

from models import boot_proofs, clone_ground, job_records, listing
from models.boot_proofs import Proof
from models.catalog_base import (
    CycleChanged,
    CycleClosed,
    CycleRunning,
    InUse,
    JobRunning,
    NotExtendable,
    ParentGone,
    ResourceExists,
    TargetGone,
    WrongState,
)
from models.clone_ground import CloneGround
from models.cycles import CycleWrites
from models.io_points import io_point
from models.job_polls import JobPolls
from models.job_records import JobRecord
from models.listing import Keys
from models.migrating_vms import VmWrites
from models.projects import project_of
from models.pruning import PruneWrites
from models.resources import ResourceWrites
from models.schema import CloneJob, JobEvent, MigratingVm, Operation, ReplicationCycle, Source, TargetProject
from models.states import CycleState

__all__ = ["Catalog", "CloneGround", "CycleChanged", "CycleClosed", "CycleRunning", "InUse", "JobRecord", "JobRunning", "L", "Listed", "N", "Named", "NotExtendable",
           "ParentGone", "ResourceExists", "Sync", "TargetGone", "WrongState"]  # fmt: skip

Named = Source | TargetProject | MigratingVm | ReplicationCycle | CloneJob | Operation
N = TypeVar("N", bound=Named)
L = TypeVar("L", bound=Named | JobRecord)


@dataclass(frozen=True, slots=True)
class Sync:
    """Where a VM's replication stands: the cycle that runs, the last that has ended, the last that has succeeded."""

    current: ReplicationCycle | None = None
    last: ReplicationCycle | None = None
    last_successful: ReplicationCycle | None = None

    def with_cycle(self, cycle: ReplicationCycle) -> Sync:
        """The same with a later cycle."""
        if cycle.end_time is None:
            return replace(self, current=cycle)
        if cycle.state is CycleState.SUCCEEDED:
            return replace(self, last=cycle, last_successful=cycle)
        return replace(self, last=cycle)


@dataclass(frozen=True, slots=True)
class Listed(Generic[L]):
    """A row of a list, and its place in the list's order."""

    row: L
    keys: Keys


class Catalog(ResourceWrites, CycleWrites, VmWrites, PruneWrites):
    """Thread-safe; one instance per process."""

    @io_point("catalog.get")
    def get(self, cls: type[N], name: str) -> N | None:
        """The resource of that full name; a job with its ledger."""
        with self._reader() as session:
            row: N | None = session.scalars(_BY_NAME[cls], {"name": name}).unique().one_or_none()
            return row

    @io_point("catalog.get")
    def job(self, name: str) -> JobRecord | None:
        """The clone job of that full name, as clients see it."""
        return job_records.job_of(job_records.BY_NAME.rows(self.engine, name=name))

    @io_point("catalog.get_many")
    def jobs(self, names: Collection[str]) -> dict[str, JobRecord]:
        """Those of the clone jobs that exist, by name, as clients see them, in one statement."""
        return job_records.jobs_in(job_records.BY_NAMES.rows(self.engine, names))

    def job_polls(self) -> JobPolls:
        """``jobs`` for the running event loop."""
        return JobPolls(self.engine, point="catalog.get_many")

    @io_point("catalog.clone_ground")
    def clone_ground(self, vm_name: str) -> CloneGround | None:
        """What a new clone job of the VM is planned from; None if there is no such VM."""
        return clone_ground.ground_of(clone_ground.OF_VM.rows(self.engine, vm=vm_name))

    @io_point("catalog.get_many")
    def get_many(self, cls: type[N], names: Collection[str]) -> dict[str, N]:
        """Those of the resources that exist, by name, in one query; jobs without their ledger."""
        query = _without_ledger(cls, sa.select(cls).where(cls.name.in_(names)))
        with self._reader() as session:
            return {row.name: row for row in session.scalars(query)}

    @io_point("catalog.list")
    def list_page(
        self, cls: type[L], parent: str, *, limit: int, filter_text: str = "", order_by: str = "",
        after: Keys | None = None,
    ) -> list[Listed[L]]:  # fmt: skip
        """A page of the parent's resources, newest first unless ``order_by`` says otherwise; ``-`` as a collection id in
        the parent means all of them; jobs come without their ledger. ``after``: the keys of the last page's last row.
        Raises: FilterError, OrderError."""
        table: type[Named] = CloneJob if issubclass(cls, JobRecord) else cast(type[Named], cls)
        query = listing.statement(
            table, self.engine.dialect.name, _below(table, parent), limit=limit, filter_text=filter_text,
            order_by=order_by, after=after,
        )  # fmt: skip
        with self._reader() as session:
            rows: Any = (
                job_records.page(session.connection(), query)
                if table is not cls
                else ((row, tuple(keys)) for row, *keys in session.execute(_without_ledger(cls, query)))
            )
            return [Listed(row, keys) for row, keys in rows]

    @io_point("catalog.last_cycle")
    def last_cycle(self, vm_name: str) -> ReplicationCycle | None:
        """The latest successfully uploaded cycle of the VM: what a new clone job pins."""
        with self._reader() as session:
            return session.scalars(_LAST_CYCLE, {"vm": vm_name}).unique().one_or_none()

    @io_point("catalog.syncs")
    def syncs(self, vm_names: Sequence[str]) -> dict[str, Sync]:
        """Of each VM: its cycle that runs, the last that has ended, and the last that has succeeded."""
        cls = ReplicationCycle
        wanted = [_last(lambda c: c.end_time.is_(None)), _last(lambda c: c.end_time.is_not(None)),
                  _last(lambda c: c.state == CycleState.SUCCEEDED)]  # fmt: skip
        query = sa.select(cls).where(cls.parent.in_(vm_names), sa.or_(*[cls.cycle_number == each for each in wanted]))
        found = {name: Sync() for name in vm_names}
        with self._reader() as session:
            for cycle in session.scalars(query.order_by(cls.cycle_number)):
                found[cycle.parent] = found[cycle.parent].with_cycle(cycle)
        return found

    @io_point("catalog.recent_jobs")
    def recent_jobs(self, vm_names: Sequence[str]) -> dict[str, list[CloneJob]]:
        """Of each VM: its running clone job and its last completed one (MigratingVm.recent_clone_jobs)."""
        other = aliased(CloneJob)
        last = (
            sa.select(other.id).where(other.parent == CloneJob.parent, other.end_time.is_not(None))
            .order_by(other.end_time.desc(), other.id.desc()).limit(1).correlate(CloneJob).scalar_subquery()
        )  # fmt: skip
        query = sa.select(CloneJob).where(
            CloneJob.parent.in_(vm_names), sa.or_(CloneJob.end_time.is_(None), CloneJob.id == last)
        )
        found: dict[str, list[CloneJob]] = {name: [] for name in vm_names}
        with self._reader() as session:
            for job in session.scalars(_without_ledger(CloneJob, query.order_by(CloneJob.end_time.is_not(None)))):
                found[job.parent].append(job)
        return found

    @io_point("catalog.boot_proofs")
    def boot_proofs(self, vm_name: str, limit: int) -> list[Proof]:
        """What the VM's clones have shown of its snapshots, newest first."""
        with self._reader() as session:
            return [Proof(*row) for row in session.execute(boot_proofs.OF_VM.limit(limit), {"vm": vm_name})]

    @io_point("catalog.locations")
    def locations(self, project: str) -> list[str]:
        """The locations in which the project, ``projects/P``, has a source, in order."""
        below = Source.parent.startswith(f"{project}/locations/", autoescape=True)
        with self._reader() as session:
            parents = session.scalars(sa.select(Source.parent).where(below).distinct()).all()
        return sorted(parent.rpartition("/")[2] for parent in parents)

    @io_point("catalog.events")
    def events(self, job_id: str, *, after: int = 0) -> Sequence[JobEvent]:
        """What happened to the job after the event of that id, oldest first. Ids grow: events are written under the job's lock."""
        events = sa.select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.id > after).order_by(JobEvent.id)
        with self._reader() as session:
            return session.scalars(events).all()


def _without_ledger(cls: type[Any], query: sa.Select[Any]) -> sa.Select[Any]:
    return query.options(lazyload(CloneJob.ledger)) if cls is CloneJob else query


def _by_name(cls: type[Any]) -> sa.Select[Any]:
    query = sa.select(cls).where(cls.name == sa.bindparam("name"))
    if cls is CloneJob:
        query = query.options(joinedload(CloneJob.steps))  # a job and its steps come in one answer
    return query


# Made once: making a statement costs as much as running it.
_BY_NAME: dict[Any, sa.Select[Any]] = {
    cls: _by_name(cls) for cls in (Source, TargetProject, MigratingVm, ReplicationCycle, CloneJob, Operation)
}


def _last(which: Callable[[type[ReplicationCycle]], sa.ColumnElement[bool]]) -> sa.ScalarSelect[int]:
    """The number of the last cycle of that kind, of the VM whose cycles are looked through."""
    other = aliased(ReplicationCycle)
    numbers = sa.select(sa.func.max(other.cycle_number)).where(other.parent == ReplicationCycle.parent, which(other))
    return numbers.correlate(ReplicationCycle).scalar_subquery()


_LAST_CYCLE = (
    sa.select(ReplicationCycle)
    .where(
        ReplicationCycle.parent == sa.bindparam("vm"),
        ReplicationCycle.cycle_number == _last(lambda c: c.state == CycleState.SUCCEEDED),
    )
    .options(joinedload(ReplicationCycle.snapshots))
)


def _below(cls: type[Named], parent: str) -> sa.ColumnElement[bool]:
    """Children of the parent; a ``-`` stands for any one id (AIP-159), and never for the project.

    All parents of one type have the same shape, so that the pattern needs no look at slashes.
    """
    if "/-" not in parent:
        return cls.parent == parent
    pattern = "/".join("%" if part == "-" else _escaped(part) for part in parent.split("/"))
    return sa.and_(project_of(cls.parent) == parent.split("/")[1], cls.parent.like(pattern, escape="\\"))


def _escaped(part: str) -> str:
    return part.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
