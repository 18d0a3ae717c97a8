"""Writes of sources, target projects and what users set of migrating VMs; each with its operation, in one transaction."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import Session

from models import operations
from models.catalog_base import CatalogBase, InUse, ParentGone, ResourceExists, TargetGone
from models.io_points import io_point
from models.operations import NewOperation
from models.schema import MigratingVm, Operation, Source, TargetProject
from models.store.graveyard import alive
from models.target_defaults import target_project, target_project_of

Settable = Source | TargetProject | MigratingVm
S = TypeVar("S", Source, TargetProject, MigratingVm)


class ResourceWrites(CatalogBase):
    """Insert, update, delete. A request that was answered before gets the same operation and changes nothing."""

    @io_point("catalog.insert")
    def insert(self, row: Settable, operation: NewOperation) -> Operation:
        """Add a resource and its operation.

        Raises: ResourceExists, ParentGone, TargetGone (in this order), operations.RequestIdReused.
        """
        try:
            with self._sessions.begin() as session:
                if earlier := operations.replayed(session, operation):
                    return earlier
                session.add(row)
                session.flush()
                _hold_target(session, _target_project(row))
                return operations.insert(session, operation, self.clock(), done=True)
        except sa.exc.IntegrityError as error:
            if earlier := self.replayed(operation):
                return earlier
            if self._exists(type(row), row.name):
                raise ResourceExists(row.name) from error
            if isinstance(row, MigratingVm) and not self._exists(Source, row.parent):
                raise ParentGone(row.parent) from error
            raise

    def _exists(self, cls: type[Settable], name: str) -> bool:
        with self._reader() as session:
            return session.scalar(sa.select(sa.literal(1)).where(cls.name == name)) is not None

    @io_point("catalog.update")
    def update(self, cls: type[S], name: str, change: Callable[[S], None], operation: NewOperation) -> Operation | None:
        """Let ``change`` write on the row, which is locked; None if it does not exist.

        Raises: TargetGone, operations.RequestIdReused, and what ``change`` raises, after which nothing is written.
        """
        with self._sessions.begin() as session:
            if earlier := operations.replayed(session, operation):
                return earlier
            row = session.get(cls, name, with_for_update=True)
            if row is None:
                return None
            before = _target_project(row)
            change(row)
            if (wanted := _target_project(row)) != before:
                _hold_target(session, wanted)
            row.update_time = self.clock()
            return operations.insert(session, operation, self.clock(), done=True)

    @io_point("catalog.delete_source")
    def delete_source(self, name: str, operation: NewOperation) -> Operation | None:
        """None if it does not exist. Raises: InUse with the number of its VMs, operations.RequestIdReused."""
        with self._sessions.begin() as session:
            if earlier := operations.replayed(session, operation):
                return earlier
            # The lock waits for whoever adds a VM, and a VM that is added later finds no source.
            source = session.get(Source, name, with_for_update=True)
            if source is None:
                return None
            vms = sa.select(sa.func.count()).select_from(MigratingVm).where(MigratingVm.parent == name)
            if count := session.scalar(vms):
                raise InUse(count)
            session.delete(source)
            return operations.insert(session, operation, self.clock(), done=True)

    @io_point("catalog.delete_target_project")
    def delete_target_project(self, name: str, operation: NewOperation) -> Operation | None:
        """None if it does not exist. Raises: InUse with the name of a VM that clones into it,
        operations.RequestIdReused."""
        with self._sessions.begin() as session:
            if earlier := operations.replayed(session, operation):
                return earlier
            project = session.get(TargetProject, name, with_for_update=True)
            if project is None:
                return None
            used = target_project() == name
            # Of its own project first, because that one may be named to whoever asks.
            own = MigratingVm.name.startswith(f"{name.partition('/locations/')[0]}/", autoescape=True)
            vms = sa.select(MigratingVm.name).where(used, alive(MigratingVm.name))
            if vm := session.scalar(vms.order_by(own.desc(), MigratingVm.name).limit(1)):
                raise InUse(vm)
            session.delete(project)
            return operations.insert(session, operation, self.clock(), done=True)

    @io_point("catalog.forget_operation")
    def forget_operation(self, name: str) -> bool:
        """Make the operation unknown to every read; False if it was. Its request id stays known, as the contract demands
        for an hour at least."""
        with self._sessions.begin() as session:
            return operations.forget(session, name)

    @io_point("catalog.request_cancellation")
    def request_cancellation(self, name: str) -> None:
        """Note on an operation that is not done that its cancellation was asked for."""
        asked = sa.update(Operation).where(Operation.name == name, Operation.end_time.is_(None))
        with self._sessions.begin() as session:
            session.execute(asked.values(requested_cancellation=True))


def _target_project(row: Settable) -> str:
    """The name of the target project in a VM's target defaults, if there is one."""
    return target_project_of(row.body) if isinstance(row, MigratingVm) else ""


def _hold_target(session: Session, name: str) -> None:
    """Nobody deletes the target project until this transaction has ended. Raises: TargetGone."""
    if name and session.get(TargetProject, name, with_for_update={"read": True}) is None:
        raise TargetGone(name)
