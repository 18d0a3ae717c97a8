"""Writes of a MigratingVm's state and life: start, pause, resume, finalize, extend, expire, delete."""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa
from sqlalchemy.orm import Session

from models import operations
from models.catalog_base import CatalogBase, CycleRunning, JobRunning, NotExtendable, WrongState
from models.cycles import move, open_cycle, turn
from models.expiry import EXPIRING, LIFE, expire_time, expired_state, extendable, extension_window
from models.io_points import io_point
from models.operations import NewOperation
from models.schema import CloneJob, MigratingVm, Operation, ReplicationCycle
from models.states import VM_METHODS, CycleState, VmState
from models.store.graveyard import alive, bury


class VmWrites(CatalogBase):
    """Every write locks the VM's row first; creating a clone job and beginning a cycle take the same lock."""

    @io_point("catalog.change_vm")
    def change_vm(self, name: str, operation: NewOperation) -> Operation | None:
        """What the operation's method, one of ``VM_METHODS``, does to the VM; None if the VM does not exist.

        Raises: WrongState; NotExtendable; JobRunning and CycleRunning when it cannot be finalized yet.
        """
        now = self.clock()
        with self._sessions.begin() as session:
            vm = session.get(MigratingVm, name, with_for_update=True)
            if vm is None:
                return None
            move(vm, expired_state(vm, now), now)
            work, done = VM_METHODS[operation.method]
            if vm.state in work:
                self._change(session, vm, operation.method, now)
                vm.update_time = now
            elif vm.state not in done:
                raise WrongState(vm.state)
            return operations.insert(session, operation, now, done=True)

    def _change(self, session: Session, vm: MigratingVm, method: str, now: dt.datetime) -> None:
        match method:
            case "StartMigration":
                move(vm, VmState.FIRST_SYNC, now)
            case "PauseMigration":
                self._turn_cycle(session, vm, CycleState.PAUSED, now)
                move(vm, VmState.PAUSED, now)
            case "ResumeMigration":
                self._turn_cycle(session, vm, CycleState.RUNNING, now)
                move(vm, VmState.ACTIVE if self._has_synced(session, vm) else VmState.FIRST_SYNC, now)
            case "FinalizeMigration":
                self._check_idle(session, vm)
                move(vm, VmState.FINALIZED, now)
            case "ExtendMigration":
                self._extend(session, vm, now)

    def _extend(self, session: Session, vm: MigratingVm, now: dt.datetime) -> None:
        if not extendable(vm, now):
            raise NotExtendable(*extension_window(vm))
        vm.extension_count += 1
        if vm.state is not VmState.EXPIRED:
            return
        if self._has_synced(session, vm):
            move(vm, VmState.ACTIVE, now)
        else:
            move(vm, VmState.FIRST_SYNC if open_cycle(session, vm.name) else VmState.READY, now)
        self._turn_cycle(session, vm, CycleState.RUNNING, now)

    def _turn_cycle(self, session: Session, vm: MigratingVm, state: CycleState, now: dt.datetime) -> None:
        """Pause or resume the cycle that has not ended, if there is one; its disks stay as they are."""
        if (cycle := open_cycle(session, vm.name)) is not None:
            turn(cycle, state, now)

    def _has_synced(self, session: Session, vm: MigratingVm) -> bool:
        cycles = sa.select(ReplicationCycle.name).where(ReplicationCycle.parent == vm.name)
        return session.scalar(cycles.where(ReplicationCycle.state == CycleState.SUCCEEDED).limit(1)) is not None

    def _check_idle(self, session: Session, vm: MigratingVm) -> None:
        jobs = sa.select(CloneJob.name).where(CloneJob.parent == vm.name, CloneJob.end_time.is_(None))
        if job := session.scalar(jobs):
            raise JobRunning(job)
        if (cycle := open_cycle(session, vm.name)) is not None:
            raise CycleRunning(cycle.name)

    @io_point("catalog.expire_vms")
    def expire_vms(self) -> int:
        """Make every VM whose time is over EXPIRED (or FINALIZED_EXPIRED); how many that were."""
        now = self.clock()
        old = sa.select(MigratingVm).where(
            MigratingVm.state.in_(EXPIRING), MigratingVm.create_time <= now - LIFE, alive(MigratingVm.name)
        )
        with self._reader() as session:
            due = [vm.name for vm in session.scalars(old) if expire_time(vm) <= now]
        for name in due:
            with self._sessions.begin() as session:
                vm = session.get(MigratingVm, name, with_for_update=True)
                if vm is not None:
                    move(vm, expired_state(vm, now), now)
        return len(due)

    @io_point("catalog.delete_vm")
    def delete_vm(self, name: str, operation: NewOperation) -> Operation | None:
        """Bury the VM with its cycles and jobs (``models/store/graveyard.py``); None if it does not exist.

        Raises: JobRunning, CycleRunning.
        """
        now = self.clock()
        with self._sessions.begin() as session:
            vm = session.get(MigratingVm, name, with_for_update=True)
            if vm is None:
                return None
            self._check_idle(session, vm)
            bury(session, name, now)
            return operations.insert(session, operation, now, done=True)
