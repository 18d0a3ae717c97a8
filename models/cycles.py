"""Writes of replication cycles and their snapshots."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from models.catalog_base import CatalogBase, CycleChanged, CycleClosed, CycleRunning, ResourceExists, WrongState
from models.expiry import expired_state
from models.io_points import io_point
from models.schema import CloneJob, MigratingVm, ReplicationCycle, Snapshot
from models.states import REPLICATING, CycleState, Verdict, VmState, check_vm_transition
from models.store.base import changed
from models.store.graveyard import alive

_MICROSECOND = dt.timedelta(microseconds=1)
OPEN = (CycleState.RUNNING, CycleState.PAUSED)


def open_cycle(session: Session, vm_name: str) -> ReplicationCycle | None:
    """The VM's cycle that has not ended: there is one at most."""
    return session.scalar(
        sa.select(ReplicationCycle).where(ReplicationCycle.parent == vm_name, ReplicationCycle.state.in_(OPEN))
    )


def move(vm: MigratingVm, state: VmState, now: Any) -> None:
    """Write the VM's new state; staying in a state leaves ``state_time`` alone. Raises: IllegalTransition."""
    check_vm_transition(vm.state, state)
    if state is not vm.state:
        vm.state, vm.state_time = state, now


def turn(cycle: ReplicationCycle, state: CycleState, now: dt.datetime) -> None:
    """Write the cycle's new state, and count the pause that ends or begins with it."""
    cycle.paused_us = round(paused_for(cycle, now) / _MICROSECOND)
    cycle.state, cycle.pause_time = state, now if state is CycleState.PAUSED else None


def paused_for(cycle: ReplicationCycle, now: dt.datetime) -> dt.timedelta:
    """How long the cycle was paused until now, all pauses together."""
    paused = (cycle.paused_us or 0) * _MICROSECOND
    if cycle.state is CycleState.PAUSED and cycle.pause_time is not None:  # none: paused by code of an older revision
        paused += max(now - cycle.pause_time, dt.timedelta())  # clocks of two machines
    return paused


class CycleWrites(CatalogBase):
    """A cycle is RUNNING while its disks arrive, or PAUSED with its VM, and then ends once."""

    @io_point("catalog.begin_cycle")
    def begin_cycle(self, vm_name: str, adaptation: dict[str, Any] | None) -> ReplicationCycle | None:
        """Start the VM's next cycle; None if the VM does not exist. Raises: CycleRunning, WrongState."""
        now = self.clock()
        with self._sessions.begin() as session:
            vm = session.get(MigratingVm, vm_name, with_for_update=True)
            if vm is None:
                return None
            if (state := expired_state(vm, now)) not in REPLICATING:
                raise WrongState(state)
            if (running := open_cycle(session, vm_name)) is not None:
                raise CycleRunning(running.name)
            number = 1 + (session.scalar(sa.select(sa.func.max(ReplicationCycle.cycle_number))
                                         .where(ReplicationCycle.parent == vm_name)) or 0)  # fmt: skip
            cycle = ReplicationCycle(
                name=f"{vm_name}/replicationCycles/cycle-{number}", parent=vm_name, cycle_number=number,
                state=CycleState.RUNNING, adaptation=adaptation, error=None, start_time=now, end_time=None, snapshots=[],
            )  # fmt: skip
            session.add(cycle)
            if vm.state is VmState.READY:
                move(vm, VmState.FIRST_SYNC, now)
            return cycle

    @io_point("catalog.add_snapshot")
    def add_snapshot(self, snapshot: Snapshot) -> None:
        """Record an uploaded disk. Raises: CycleClosed, ResourceExists."""
        try:
            with self._sessions.begin() as session:
                self._open(session, snapshot.cycle, (CycleState.RUNNING,))
                session.add(snapshot)
        except sa.exc.IntegrityError as error:
            raise ResourceExists(f"disk {snapshot.disk_number} of {snapshot.cycle}") from error

    @io_point("catalog.end_cycle")
    def end_cycle(
        self, name: str, state: CycleState, error: dict[str, Any] | None = None, *, disks: Sequence[int] | None = None
    ) -> ReplicationCycle:
        """SUCCEEDED makes the cycle the one that the next clone pins; a PAUSED cycle can only fail.

        ``disks``: the disk numbers that the caller has seen and found complete. Raises: CycleClosed; CycleChanged when
        another disk was recorded since.
        """
        now = self.clock()
        with self._sessions.begin() as session:
            # The VM first, as in every write that locks both: pausing and ending at once must not wait for each other.
            vm = session.get(MigratingVm, name.rsplit("/replicationCycles/", 1)[0], with_for_update=True)
            cycle = self._open(session, name, (CycleState.RUNNING,) if state is CycleState.SUCCEEDED else OPEN)
            if disks is not None and [snapshot.disk_number for snapshot in cycle.snapshots] != list(disks):
                raise CycleChanged(name)
            turn(cycle, state, now)
            cycle.end_time, cycle.error = now, error
            if vm is not None and vm.state is VmState.FIRST_SYNC:
                move(vm, VmState.ACTIVE if state is CycleState.SUCCEEDED else VmState.READY, now)
            return cycle

    def _open(self, session: Session, name: str, states: Sequence[CycleState]) -> ReplicationCycle:
        cycle = session.get(ReplicationCycle, name, with_for_update=True)
        if cycle is None or cycle.state not in states:
            raise CycleClosed(cycle.state if cycle else "unknown")
        return cycle

    @io_point("catalog.unused_snapshots")
    def unused_snapshots(self, vm_name: str = "") -> Sequence[Snapshot]:
        """The snapshots of the VM, or with no name those of deleted VMs, that no kept clone depends on.

        The disks of a kept clone are overlays of its cycle's snapshots, so what a job pinned that has succeeded stays
        for ever. Only to be asked for a VM that cannot be cloned any more.
        """
        pinned = sa.select(CloneJob.cycle).where(CloneJob.verdict == Verdict.SUCCEED)
        of_vm = Snapshot.cycle == ReplicationCycle.name
        whose = ReplicationCycle.parent == vm_name if vm_name else ~alive(ReplicationCycle.parent)
        with self._reader() as session:
            return session.scalars(
                sa.select(Snapshot).join(ReplicationCycle, of_vm).where(whose, Snapshot.cycle.not_in(pinned))
            ).all()

    @io_point("catalog.forget_snapshot")
    def forget_snapshot(self, snapshot: Snapshot) -> bool:
        """Drop the row of a deleted VM's snapshot whose file is gone: rows that are left are files to remove."""
        gone = sa.delete(Snapshot).where(
            Snapshot.cycle == snapshot.cycle, Snapshot.disk_number == snapshot.disk_number, ~alive(Snapshot.cycle)
        )
        with self._sessions.begin() as session:
            return changed(session.execute(gone)) == 1
