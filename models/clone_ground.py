"""What a new clone job is planned from, in one read: the VM, its latest successful cycle, its target project."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import aliased

from models.prepared import Prepared, Row
from models.schema import Base, MigratingVm, ReplicationCycle, Snapshot, TargetProject
from models.states import CycleState
from models.target_defaults import target_project

T = TypeVar("T", bound=Base)


@dataclass(frozen=True, slots=True)
class CloneGround:
    """``project`` is what the VM's target defaults name, if that exists. The rows are of no session."""

    vm: MigratingVm
    cycle: ReplicationCycle | None
    project: TargetProject | None


def _columns(cls: type[Base]) -> list[Any]:
    return [getattr(cls, column.key) for column in cls.__table__.columns]


_VM, _CYCLE, _PROJECT, _SNAPSHOT = (_columns(each) for each in (MigratingVm, ReplicationCycle, TargetProject, Snapshot))
_ALL = [*_VM, *_CYCLE, *_PROJECT, *_SNAPSHOT]
_other = aliased(ReplicationCycle)
_LAST = (
    sa.select(sa.func.max(_other.cycle_number))
    .where(_other.parent == MigratingVm.name, _other.state == CycleState.SUCCEEDED)
    .correlate(MigratingVm)
    .scalar_subquery()
)
OF_VM = Prepared(
    sa.select(*_ALL)
    .select_from(MigratingVm)
    .outerjoin(
        ReplicationCycle, sa.and_(ReplicationCycle.parent == MigratingVm.name, ReplicationCycle.cycle_number == _LAST)
    )
    .outerjoin(TargetProject, TargetProject.name == target_project())
    .outerjoin(Snapshot, Snapshot.cycle == ReplicationCycle.name)
    .where(MigratingVm.name == sa.bindparam("vm", type_=sa.String()))
    .order_by(Snapshot.disk_number)
)


def ground_of(rows: Sequence[Row]) -> CloneGround | None:
    """What ``OF_VM``'s rows say, of which there is one per snapshot."""
    if not rows:
        return None
    at = iter(rows[0])
    vm, cycle, project = ([next(at) for _ in columns] for columns in (_VM, _CYCLE, _PROJECT))
    return CloneGround(
        _read(MigratingVm, _VM, vm),
        _read(ReplicationCycle, _CYCLE, cycle, snapshots=_snapshots(rows)) if cycle[0] is not None else None,
        _read(TargetProject, _PROJECT, project) if project[0] is not None else None,
    )


def _snapshots(rows: Sequence[Row]) -> list[Snapshot]:
    own = [row[-len(_SNAPSHOT) :] for row in rows]
    return [_read(Snapshot, _SNAPSHOT, values) for values in own if values[0] is not None]


def _read(cls: type[T], columns: Sequence[Any], values: Sequence[Any], **more: Any) -> T:
    return cls.of(**{column.key: value for column, value in zip(columns, values, strict=True)}, **more)
