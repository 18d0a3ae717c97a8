"""The write that accepts a job: job, steps, ledger, operation and the first event, in one transaction (R7).

The rows go in by statements that are made once. On PostgreSQL they are one statement, which locks the VM, looks whether
it can be cloned and inserts everything or nothing: one journey there and back instead of nine.
"""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session

from models import operations
from models.expiry import LIFE, expired_state
from models.io_points import io_point
from models.operations import NewOperation
from models.prepared import Prepared
from models.schema import Base, CloneJob, CloneStep, JobEvent, LedgerRow, MigratingVm, Operation, ReplicationCycle
from models.states import CLONEABLE, VmState
from models.store.base import ActiveJobExists, CyclePruned, JobExists, StoreBase, VmNotCloneable

_Rows = dict[str, list[dict[str, Any]]]
_TABLES = (CloneJob, CloneStep, LedgerRow, Operation, JobEvent)  # in the order of their foreign keys
_TRIES = 3  # of an insert whose obstacle, a running job, has ended before it could be named
_LOOKS = 3  # at a VM that can be cloned after all, each time that it is looked why not


class CreateWrites(StoreBase):
    """Accepting a job."""

    @io_point("store.create_job")
    def create_job(self, job: CloneJob, operation: NewOperation, *, ends_with_job: bool) -> Operation:
        """Insert job, steps, ledger and operation in one transaction (R7).

        Raises: JobExists, ActiveJobExists, VmNotCloneable, CyclePruned, operations.RequestIdReused. A replay of the same request returns the
        operation that it started the first time and inserts nothing.
        """
        job.wake_at = self._after(self.timing.dispatch_grace_s)
        # With the plan in place, so that whoever sees the job sees all of it.
        row = operations.made(operation, self.clock(), done=not ends_with_job, job_id=job.id)
        rows = _rows(job, row, JobEvent(job_id=job.id, time=self.clock(), epoch=job.epoch, kind="created",
                                        message=f"pinned {job.cycle}"))  # fmt: skip
        insert = self._insert_at_once if self.engine.dialect.name == "postgresql" else self._insert_in_turn
        for _ in range(_TRIES):
            try:
                return insert(job, operation, rows) or row
            except sa.exc.IntegrityError as error:
                conflict = error
                if earlier := self._explain_conflict(job, operation, error):
                    return earlier
        raise conflict

    def _insert_in_turn(self, job: CloneJob, operation: NewOperation, rows: _Rows) -> Operation | None:
        """The operation of an earlier request, or None once everything is inserted."""
        with self._sessions.begin() as session:
            if earlier := operations.replayed(session, operation):
                return earlier
            # Nobody finalizes or deletes the VM between the plan and this row: on SQLite there is one writer.
            self._check_vm(session, job.parent)
            self._check_cycle(session, job.cycle)
            for cls in _TABLES:
                session.execute(_INSERTS[cls], rows[cls.__tablename__])
        return None

    def _insert_at_once(self, job: CloneJob, operation: NewOperation, rows: _Rows) -> Operation | None:
        """The same in one statement, which is a transaction of its own."""
        parameters: dict[str, Any] = {table: json.dumps(values, default=_text) for table, values in rows.items()}
        parameters |= {"parent": job.parent, "cycle": job.cycle, "now": self.clock()}
        for _ in range(_LOOKS):
            if _INSERT_ALL.rows(self.engine, **parameters):
                return None
            with self._reader() as session:
                if earlier := operations.replayed(session, operation):
                    return earlier
                state = self._check_vm(session, job.parent)
                self._check_cycle(session, job.cycle)
        raise VmNotCloneable(state)

    def _check_vm(self, session: Session, name: str) -> VmState:
        vm = session.get(MigratingVm, name)
        state = expired_state(vm, self.clock()) if vm is not None else None
        if state not in CLONEABLE:
            raise VmNotCloneable(state)
        return state

    @staticmethod
    def _check_cycle(session: Session, name: str) -> None:
        cycle = session.get(ReplicationCycle, name)
        if cycle is not None and cycle.pruned_time is not None:
            raise CyclePruned(name)

    def _explain_conflict(self, job: CloneJob, operation: NewOperation, error: Exception) -> Operation | None:
        """The operation of the same request, or None when what stood in the way is gone by now."""
        with self._sessions() as session:
            if earlier := operations.replayed(session, operation):
                return earlier
            if session.scalar(sa.select(CloneJob.id).where(CloneJob.name == job.name)):
                raise JobExists(job.name) from error
            active = session.scalar(
                sa.select(CloneJob.name).where(CloneJob.parent == job.parent, CloneJob.end_time.is_(None))
            )
            if active:
                raise ActiveJobExists(active) from error
        return None


_KEYS: dict[type[Base], tuple[str, ...]] = {
    cls: tuple(column.key for column in cls.__table__.columns if (cls, column.key) != (JobEvent, "id"))
    for cls in _TABLES  # the number of an event is the database's to give
}
_INSERTS: dict[type[Base], sa.Insert] = {cls: sa.insert(Base.metadata.tables[cls.__tablename__]) for cls in _TABLES}


def _rows(job: CloneJob, operation: Operation, event: JobEvent) -> _Rows:
    """The values of every row, by table."""
    objects: dict[type[Base], list[Any]] = {
        CloneJob: [job], CloneStep: job.steps, LedgerRow: job.ledger, Operation: [operation], JobEvent: [event]
    }  # fmt: skip
    return {
        cls.__tablename__: [{key: getattr(each, key) for key in _KEYS[cls]} for each in found]
        for cls, found in objects.items()
    }


def _text(value: dt.datetime) -> str:
    return value.isoformat()


def _insert_all() -> sa.Select[Any]:
    """Locks the VM's row, so that nobody finalizes or deletes it meanwhile, and inserts if it can be cloned; and the
    cycle's, so that nobody prunes it: both are looked at again once they are locked.

    Its one row is the job's id; it has none if the VM cannot be cloned. The rows come as one JSON text per table, so that
    the statement is always the same, however many steps and disks a job has.
    """
    seconds = LIFE.total_seconds() * (1 + MigratingVm.extension_count)
    life = sa.func.make_interval(0, 0, 0, 0, 0, 0, seconds)  # days would follow the time zone's summer
    vm = (
        sa.select(MigratingVm.name)
        .join(ReplicationCycle, ReplicationCycle.parent == MigratingVm.name)
        .where(
            ReplicationCycle.name == sa.bindparam("cycle"),
            ReplicationCycle.pruned_time.is_(None),
            MigratingVm.name == sa.bindparam("parent"),
            sa.or_(*(MigratingVm.state == sa.literal_column(f"'{state}'") for state in sorted(CLONEABLE))),
            MigratingVm.create_time + life > sa.bindparam("now", type_=MigratingVm.create_time.type),
        )
        .with_for_update(read=True)
        .cte("vm")
    )
    inserted: list[sa.CTE] = []
    for cls in _TABLES:
        columns = [Base.metadata.tables[cls.__tablename__].columns[key] for key in _KEYS[cls]]
        document = sa.cast(sa.bindparam(cls.__tablename__, type_=sa.Text()), postgresql.JSONB)
        given = (
            sa.func.jsonb_to_recordset(document)
            .table_valued(*(sa.column(column.key, column.type) for column in columns))
            .render_derived(name="given", with_types=True)
        )
        behind = inserted[0] if inserted else vm
        values: sa.Select[Any] = sa.select(sa.literal_column(f"{given.name}.*")).select_from(
            sa.join(given, behind, sa.true())
        )
        insert = _INSERTS[cls].from_select(list(_KEYS[cls]), values)
        returned = columns[0]
        inserted.append(insert.returning(returned).cte(f"the_{cls.__tablename__}"))
    return sa.select(inserted[0].c.id).add_cte(*inserted[1:])


_INSERT_ALL = Prepared(_insert_all())
