"""MigratingVms, the states of their migration, and their ReplicationCycles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from google.cloud import vmmigration_v1 as v1
from google.protobuf.message import Message

from api import translate
from api.fields import user_body
from api.handlers.common import idempotency, page_of, paging
from api.masks import change_by
from api.names import MIGRATING_VM, REPLICATION_CYCLE, SOURCE, check_id, check_name
from models import schema
from tasks.errors import InvalidArgument
from tasks.services import Services

FULL = int(v1.MigratingVmView.MIGRATING_VM_VIEW_FULL)
_VIEWS = {int(view): view.name for view in v1.MigratingVmView}


def create(services: Services, request: Any) -> Message:
    """The body holds the target defaults that clones copy."""
    parent = check_name("parent", request.parent, SOURCE)
    vm_id = check_id("migrating_vm_id", request.migrating_vm_id)
    body, once = user_body(request.migrating_vm), idempotency(request, "migrating_vm")
    return translate.operation(*services.migrating_vms.create(parent, vm_id, body, once))


def update(services: Services, request: Any) -> Message:
    """By field mask (``api/masks.py``)."""
    name = check_name("migrating_vm.name", request.migrating_vm.name, MIGRATING_VM)
    change = change_by(request.update_mask.paths, request.migrating_vm)
    # The name says which resource, so it counts although it is output only.
    return translate.operation(*services.migrating_vms.update(name, change, idempotency(request)))


def delete(services: Services, request: Any) -> Message:
    """Refused while a clone job runs or a replication cycle has not ended. The contract has no request id here."""
    return translate.operation(services.migrating_vms.delete(check_name("name", request.name, MIGRATING_VM)), None)


def get(services: Services, request: Any) -> Message:
    """One MigratingVm; its recent clone jobs only in view FULL."""
    name, view = check_name("name", request.name, MIGRATING_VM), _checked(request.view)
    return _messages(services, [services.migrating_vms.get(name)], view)[0]


def list_(services: Services, request: Any) -> Message:
    """The VMs of one Source; their recent clone jobs only in view FULL."""
    parent, view = check_name("parent", request.parent, SOURCE, wildcards=True), _checked(request.view)
    page = services.migrating_vms.list(parent, **paging(request))
    items = _messages(services, page.items, view)
    return page_of(v1.ListMigratingVmsResponse.pb(), "migrating_vms", page, items)


def change_state(method: str) -> Callable[[Services, Any], Message]:
    """The handler of StartMigration, PauseMigration, ResumeMigration, FinalizeMigration or ExtendMigration."""

    def handle(services: Services, request: Any) -> Message:
        name = check_name("migrating_vm", request.migrating_vm, MIGRATING_VM)
        return translate.operation(services.migrating_vms.change_state(name, method), None)

    return handle


def get_cycle(services: Services, request: Any) -> Message:
    """One ReplicationCycle."""
    row = services.cycles.get(check_name("name", request.name, REPLICATION_CYCLE))
    return translate.replication_cycle(row, services.migrating_vms.now())


def list_cycles(services: Services, request: Any) -> Message:
    """The ReplicationCycles of one VM."""
    page = services.cycles.list(check_name("parent", request.parent, MIGRATING_VM, wildcards=True), **paging(request))
    now = services.migrating_vms.now()
    items = [translate.replication_cycle(row, now) for row in page.items]
    return page_of(v1.ListReplicationCyclesResponse.pb(), "replication_cycles", page, items)


def _checked(view: int) -> int:
    """proto3 hands on any number as an enum. Raises: InvalidArgument for one that is no view."""
    if view not in _VIEWS:
        raise InvalidArgument("view", f"{view} is not one of {', '.join(_VIEWS.values())}")
    return view


def _messages(services: Services, rows: Sequence[schema.MigratingVm], view: int) -> list[Message]:
    """BASIC, which is the default, has all but the recent jobs; each kind of detail is one query for all rows."""
    names = [row.name for row in rows]
    syncs = services.migrating_vms.syncs(names)
    recent = services.clone_jobs.recent(names) if view == FULL else {}
    now = services.migrating_vms.now()
    return [translate.migrating_vm(row, syncs[row.name], recent.get(row.name, ()), now) for row in rows]
