"""Replication cycles: begin, finish, abort."""

from __future__ import annotations

import re
from typing import Any

from google.protobuf import json_format

from api import translate
from api.additions.uploads import snapshot_json
from api.names import MIGRATING_VM, REPLICATION_CYCLE, check_name
from models import schema
from tasks.errors import InvalidArgument
from tasks.services import Services

Json = dict[str, Any]
DISK_FIELDS = frozenset({"diskNumber", "reference", "sizeBytes"})
_SIZE = re.compile(r"[0-9]{1,18}")


def begin(services: Services, name: str, body: Json) -> Json:
    """Start a cycle. ``adaptation`` tells what its disks are adapted for already."""
    check_name("name", name, MIGRATING_VM)
    adaptation = body.get("adaptation")
    if adaptation is not None and not isinstance(adaptation, dict):
        raise InvalidArgument("adaptation", "must be a JSON object")
    return _cycle(services.cycles.begin(name, adaptation))


def register_disk(services: Services, name: str, body: Json) -> Json:
    """Register a disk that lies at the provider already, in place of an upload; the same words again change nothing."""
    check_name("name", name, REPLICATION_CYCLE)
    number, reference, size = body.get("diskNumber", 0), body.get("reference", ""), body.get("sizeBytes", "")
    if not isinstance(number, int) or isinstance(number, bool):
        raise InvalidArgument("diskNumber", "must be a number")
    if not isinstance(reference, str):
        raise InvalidArgument("reference", "must be a string")
    if isinstance(size, bool) or not _SIZE.fullmatch(str(size)):
        raise InvalidArgument("sizeBytes", "must be the size of the disk in bytes")
    return snapshot_json(services.cycles.put_reference(name, number, reference, int(size)))


def finish(services: Services, name: str, _body: Json) -> Json:
    """End a cycle as SUCCEEDED; clones use it from now on."""
    return _cycle(services.cycles.finish(check_name("name", name, REPLICATION_CYCLE)))


def abort(services: Services, name: str, body: Json) -> Json:
    """End a cycle as FAILED and forget its disks; ``message`` says why."""
    message = body.get("message", "")
    if not isinstance(message, str):
        raise InvalidArgument("message", "must be a string")
    return _cycle(services.cycles.abort(check_name("name", name, REPLICATION_CYCLE), message))


def _cycle(row: schema.ReplicationCycle) -> Json:
    message: Json = json_format.MessageToDict(translate.replication_cycle(row))
    return message
