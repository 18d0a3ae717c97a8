"""Migrating VMs: what users set, the states of their migration, and their end."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Sequence
from typing import Any, Unpack

from models.catalog import CycleRunning, JobRunning, NotExtendable, Sync, WrongState
from models.schema import MigratingVm, Operation, ReplicationCycle, Source
from models.states import VM_METHODS, VmState
from models.target_defaults import DISKS_DEFAULTS, VM_DEFAULTS
from targets.snapshot_store import SnapshotStoreError
from tasks.errors import FailedPrecondition, InvalidArgument, NotFound
from tasks.names import check_id
from tasks.services.bounds import check_attached
from tasks.services.common import Page, Paging, Request, list_page, must_get, new_operation
from tasks.services.disks_target import check_disks_defaults
from tasks.services.references import remove_file
from tasks.services.resources import Change, ResourceService

logger = logging.getLogger(__name__)


class MigratingVmService(ResourceService):
    """Migrating VMs."""

    def create(
        self, parent: str, migrating_vm_id: str, body: dict[str, Any], request: Request
    ) -> tuple[Operation, MigratingVm | None]:
        """Raises: InvalidArgument, NotFound (source), AlreadyExists, FailedPrecondition (no such target project)."""
        name = f"{parent}/migratingVms/{check_id('migrating_vm_id', migrating_vm_id)}"
        must_get(self._catalog, Source, parent)
        _check_body(body)
        now = self._runtime.clock()
        row = MigratingVm(name=name, parent=parent, body=body, state=VmState.READY, state_time=now,
                          create_time=now, update_time=now, extension_count=0)  # fmt: skip
        return self._insert(row, new_operation("create", "CreateMigratingVm", name, request))

    def update(self, name: str, change: Change, request: Request) -> tuple[Operation, MigratingVm | None]:
        """A running clone job keeps the target details that it copied when it was created.

        Raises: InvalidArgument, NotFound, FailedPrecondition (no such target project).
        """

        def write(row: MigratingVm) -> None:
            body = change(row.body)
            _check_body(body)
            row.body = body

        return self._update(MigratingVm, name, write, new_operation("update", "UpdateMigratingVm", name, request))

    def change_state(self, name: str, method: str) -> Operation:
        """StartMigration, PauseMigration, ResumeMigration, FinalizeMigration or ExtendMigration.

        Raises: NotFound; FailedPrecondition, which says in which states it is allowed or what is in the way.
        """
        verb = method.removesuffix("Migration").lower()
        try:
            done = self._catalog.change_vm(name, new_operation(verb, method, name, Request()))
        except WrongState as error:
            work, repeat = VM_METHODS[method]
            allowed = ", ".join(state for state in VmState if state in work | repeat)
            raise FailedPrecondition(
                name,
                f"{name} is {error.args[0]}; {method} is allowed in: {allowed}",
                reason="VM_STATE_NOT_ALLOWED",
            ) from None
        except NotExtendable as error:
            raise FailedPrecondition(
                name,
                f"the life of {name} can be extended from {error.opens:%Y-%m-%d %H:%M} until"
                f" {error.closes:%Y-%m-%d %H:%M} UTC only",
                reason="VM_NOT_EXTENDABLE",
            ) from None
        except (JobRunning, CycleRunning) as error:
            raise _busy(name, error, "finalized") from None
        if done is None:
            raise NotFound("MigratingVm", name)
        if method == "FinalizeMigration":
            self._remove_unused(name)
        return done

    def delete(self, name: str) -> Operation:
        """The VM and its cycles are gone from every read; the record of its clone jobs stays out of reach
        (``models/store/graveyard.py``), and so do the snapshots that kept clones depend on.

        Raises: NotFound; FailedPrecondition, which names the clone job or cycle that has not ended.
        """
        try:
            done = self._catalog.delete_vm(name, new_operation("delete", "DeleteMigratingVm", name, Request()))
        except (JobRunning, CycleRunning) as error:
            raise _busy(name, error, "deleted") from None
        if done is None:
            raise NotFound("MigratingVm", name)
        self._remove_unused("")
        return done

    def _remove_unused(self, vm_name: str) -> None:
        """Remove the snapshots that nothing can need any more. What cannot be removed now is tried again: after the next
        deletion, or when FinalizeMigration is called again."""
        for snapshot in self._catalog.unused_snapshots(vm_name):
            try:
                remove_file(self._runtime, snapshot)
            except SnapshotStoreError:
                logger.exception("snapshot %s of %s stays for now", snapshot.store_key, snapshot.cycle)
            else:
                self._catalog.forget_snapshot(snapshot)

    def get(self, name: str) -> MigratingVm:
        """Raises: NotFound."""
        return must_get(self._catalog, MigratingVm, name)

    def list(self, parent: str, **paging: Unpack[Paging]) -> Page[MigratingVm]:
        """Raises: InvalidArgument, NotFound (source)."""
        if "/-" not in parent:
            must_get(self._catalog, Source, parent)
        return list_page(self._runtime, MigratingVm, parent, paging)

    def now(self) -> dt.datetime:
        """The time by which VMs expire."""
        return self._runtime.clock()

    def last_cycle(self, vm_name: str) -> ReplicationCycle | None:
        """The latest successfully uploaded cycle."""
        return self._catalog.last_cycle(vm_name)

    def syncs(self, vm_names: Sequence[str]) -> dict[str, Sync]:
        """Where the replication of each VM stands."""
        return self._catalog.syncs(vm_names)


def _busy(name: str, error: Exception, what: str) -> FailedPrecondition:
    if isinstance(error, JobRunning):
        return FailedPrecondition(
            error.args[0],
            f"{name} cannot be {what} while its clone job {error.args[0]} runs; wait for it or cancel it",
            reason="CLONE_JOB_RUNNING",
        )
    return FailedPrecondition(
        error.args[0],
        f"{name} cannot be {what} while its replication cycle {error.args[0]} has not ended; finish or abort it",
        reason="CYCLE_RUNNING",
    )


def _check_body(body: dict[str, Any]) -> None:
    check_attached("migrating_vm", body)
    field, defaults = "migrating_vm.compute_engine_target_defaults", body.get(VM_DEFAULTS) or {}
    vm_field, vm = field, defaults
    if (disks := body.get(DISKS_DEFAULTS)) is not None:
        check_disks_defaults(disks)
        field, defaults = "migrating_vm.compute_engine_disks_target_defaults", disks
        vm_field, vm = f"{field}.vm_target_defaults", disks.get("vmTargetDefaults") or {}
    if vm.get("vmName"):
        check_id(f"{vm_field}.vm_name", vm["vmName"])
    if (hostname := vm.get("hostname")) and not _is_hostname(hostname):
        raise InvalidArgument(f"{vm_field}.hostname", f"{hostname[:80]!r} is not a host name (RFC 1123, at most 253)")
    project = defaults.get("targetProject", "")
    if project and ("/targetProjects/" not in project or "/locations/global/" not in project):
        raise InvalidArgument(f"{field}.target_project", "must be projects/P/locations/global/targetProjects/T")


def _is_hostname(value: str) -> bool:
    labels = value.split(".")
    return len(value) <= 253 and all(
        0 < len(label) <= 63 and label.isascii() and label.replace("-", "a").isalnum() and label[0] != "-" != label[-1]
        for label in labels
    )
