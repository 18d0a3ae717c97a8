"""Which permission a call needs on which resource, read from the table of methods and the request alone."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from api.methods import Method
from api.paths import compile_template
from tasks.services.access import USE_TARGET

BODY_WITH_REFERENCES = "migrating_vm"  # the body of the methods that may name a resource of another project
_TARGET = "target_project"
_DEFAULTS = ("compute_engine_target_defaults", "compute_engine_disks_target_defaults")


@functools.cache
def resource_field(method: Method) -> str:
    """The path of the request's field that names the resource: the variable of the method's HTTP path."""
    fields = compile_template(method.path)[1] if method.path else ()
    return fields[0] if fields else "name"


def resource_of(method: Method, request: Any) -> str:
    """The name of the resource, or of the parent, that the call is about."""
    for part in resource_field(method).split("."):
        request = getattr(request, part)
    return str(request)


def references(method: Method, request: Any) -> Iterator[tuple[str, str, str]]:
    """Resources that the body of a write refers to, as (field, permission, name).

    A VM's target defaults name a target project, perhaps of another project, in which its clones are created from then
    on: whoever sets them needs ``clonejob.targetProjects.use`` there. Whoever clones the VM later does not: the
    decision was made when the defaults were set.
    """
    if method.body != BODY_WITH_REFERENCES:
        return
    paths = list(request.update_mask.paths) if "update_mask" in request.DESCRIPTOR.fields_by_name else []
    if paths and not any(path == "*" or path.startswith(_DEFAULTS) for path in paths):
        return
    for field, name in _named(request.migrating_vm, "migrating_vm"):
        yield field, USE_TARGET, name


def _named(message: Message, path: str) -> Iterator[tuple[str, str]]:
    """Every string field ``target_project`` below, wherever the contract has put it."""
    for field, value in message.ListFields():
        here = f"{path}.{field.name}"
        if field.type == FieldDescriptor.TYPE_STRING:
            if field.name == _TARGET:
                yield here, value
        elif field.type == FieldDescriptor.TYPE_MESSAGE and not field.is_repeated:
            yield from _named(value, here)
