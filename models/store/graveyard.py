"""Deleted MigratingVms: where the evidence of their clone jobs stays, out of reach of every name.

Job, ledger and events prove what a job made and what became of it, and a kept clone depends for ever on the snapshots
that its job pinned; the auditor finds both by the job's id. So nothing of it is deleted with the VM. In one transaction
the VM, its cycles and its jobs move to names below ``deleted/TIME-ID/``, together with a copy of their source, which
keeps every foreign key whole. No name of the contract starts so: no get, no list, no filter and no wildcard can show
them, and their old names are free. A mark on the row (``delete_time``) would have to be remembered in every query.
"""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from models.schema import CloneJob, JobEvent, MigratingVm, ReplicationCycle, Snapshot, Source

PREFIX = "deleted/"


def alive(name: Any) -> sa.ColumnElement[bool]:
    """Whether a column of resource names holds a name that can still be asked for."""
    living: sa.ColumnElement[bool] = ~name.startswith(PREFIX)
    return living


def bury(session: Session, vm_name: str, now: dt.datetime) -> None:
    """Move the VM, whose row is locked, and all that is below it. Its jobs must have ended, its cycles too."""
    grave = f"{PREFIX}{now:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:12]}/"

    def moved(column: Any) -> sa.ColumnElement[str]:
        name: sa.ColumnElement[str] = sa.literal(grave, sa.String()) + column
        return name

    source_name = vm_name.rsplit("/migratingVms/", 1)[0]
    _copy(session, Source, Source.name == source_name, name=moved(Source.name), parent=moved(Source.parent))
    _copy(session, MigratingVm, MigratingVm.name == vm_name,
          name=moved(MigratingVm.name), parent=moved(MigratingVm.parent))  # fmt: skip
    cycles = ReplicationCycle.parent == vm_name
    names = sa.select(ReplicationCycle.name).where(cycles).scalar_subquery()
    _copy(session, ReplicationCycle, cycles, name=moved(ReplicationCycle.name), parent=moved(ReplicationCycle.parent))
    _run(session, sa.update(Snapshot).where(Snapshot.cycle.in_(names)).values(cycle=moved(Snapshot.cycle)))
    told = [sa.literal(now, JobEvent.time.type), CloneJob.id, CloneJob.epoch, sa.literal("vm_deleted"),
            sa.literal("its MigratingVm was deleted; this record stays")]  # fmt: skip
    columns = ["time", "job_id", "epoch", "kind", "message"]
    _run(session, sa.insert(JobEvent).from_select(columns, sa.select(*told).where(CloneJob.parent == vm_name)))
    _run(session, sa.update(CloneJob).where(CloneJob.parent == vm_name).values(
        name=moved(CloneJob.name), parent=moved(CloneJob.parent), cycle=moved(CloneJob.cycle)))  # fmt: skip
    _run(session, sa.delete(ReplicationCycle).where(cycles))
    _run(session, sa.delete(MigratingVm).where(MigratingVm.name == vm_name))


def _copy(session: Session, cls: type[Any], where: sa.ColumnElement[bool], **changes: Any) -> None:
    columns = [column.name for column in sa.inspect(cls).columns]
    rows = sa.select(*[changes.get(name, getattr(cls, name)) for name in columns]).where(where)
    _run(session, sa.insert(cls).from_select(columns, rows))


def _run(session: Session, statement: sa.Executable) -> None:
    session.execute(statement, execution_options={"synchronize_session": False})
