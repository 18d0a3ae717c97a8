"""Field masks of updates: AIP-134 and AIP-161, and where they differ, the contract.

- An empty mask, like ``*``, overwrites all fields that a user may set: "If the user does not provide a mask then all
  fields will be overwritten" (public proto). AIP-134 would spare what the request leaves out.
- A path is a field in proto names, nested with dots (``type`` stands for the types' ``type_``), or a key of a map of
  plain values (``labels.env``, ``labels.`a.b` ``). It ends at a list: list elements have no names of their own.
- What the path names becomes what the request has there; if the request has nothing there, it is cleared.
- Output-only fields are left out; a mask of nothing else is refused, because an empty mask would mean something else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from api.fields import OUTPUT_ONLY, clear_unsettable
from api.names import shown
from tasks.errors import InvalidArgument

_PART = re.compile(r"`([^`]+)`|([^.`]+)")
Path = tuple[str, ...]
Json = dict[str, Any]


def change_by(mask: Sequence[str], resource: Any) -> Callable[[Json], Json]:
    """What an update does to the stored JSON of the resource.

    Raises: InvalidArgument for a path that the resource does not have, or that a user cannot set.
    """
    paths = _paths(mask, resource.DESCRIPTOR)
    given = type(resource)()
    given.CopyFrom(resource)
    clear_unsettable(given)

    def change(old: Json) -> Json:
        merged = type(resource)()
        json_format.ParseDict(old, merged, ignore_unknown_fields=True)
        for path in paths:
            _merge(given, merged, path)
        clear_unsettable(merged)
        body: Json = json_format.MessageToDict(merged)
        return body

    return change


def _paths(mask: Sequence[str], descriptor: Descriptor) -> list[Path]:
    unsettable = [tuple(path.split(".")) for path in OUTPUT_ONLY[descriptor.name]]
    if not mask or list(mask) == ["*"]:
        return [(field.name,) for field in descriptor.fields if (field.name,) not in unsettable]
    paths = [_checked(path, descriptor) for path in dict.fromkeys(mask)]
    left = [path for path in paths if not any(path[: len(field)] == field for field in unsettable)]
    if not left:
        raise InvalidArgument("update_mask", "names output-only fields only; nothing to update")
    return left


def _checked(path: str, descriptor: Descriptor) -> Path:
    found = _PART.findall(path)
    if not found or _PART.sub("p", path) != ".".join("p" * len(found)):
        raise _unknown(path, descriptor)
    names: list[str] = []
    parts = [quoted or plain for quoted, plain in found]
    fields = [plain for _, plain in found]  # only a key may be quoted: a field has one spelling
    current: Descriptor | None = descriptor
    while parts:
        parts.pop(0)
        name = fields.pop(0)
        field = _field(current, name) if current is not None and name else None
        if field is None:
            raise _unknown(path, descriptor)
        names.append(field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            if len(parts) > 1 or field.message_type.fields_by_name["value"].message_type is not None:
                raise _unknown(path, descriptor)
            names += parts  # the key, if the path goes on to one
            break
        current = None if field.is_repeated else field.message_type
    return tuple(names)


def _unknown(path: str, descriptor: Descriptor) -> InvalidArgument:
    return InvalidArgument("update_mask", f"{descriptor.name} has no field {shown(path)}", reason="UNKNOWN_FIELD")


def _field(descriptor: Descriptor, name: str) -> FieldDescriptor | None:
    fields = descriptor.fields_by_name
    return fields.get(name) or fields.get(name + "_")


def _merge(given: Any, merged: Any, path: Path) -> None:
    """Make ``merged`` equal ``given`` at the path; a member of a oneof takes the place of the others."""
    field = given.DESCRIPTOR.fields_by_name[path[0]]
    name = field.name
    if field.is_repeated and len(path) == 2:  # a key of a map
        _merge_key(getattr(given, name), getattr(merged, name), path[1])
    elif len(path) > 1:
        if given.HasField(name) or merged.HasField(name):
            target = getattr(merged, name)
            if given.HasField(name):
                target.SetInParent()
            _merge(getattr(given, name), target, path[1:])
    elif field.is_repeated or not (field.has_presence and not given.HasField(name)):
        merged.ClearField(name)
        if field.is_repeated:
            getattr(merged, name).MergeFrom(getattr(given, name))
        elif field.message_type is not None:
            getattr(merged, name).CopyFrom(getattr(given, name))
        else:
            setattr(merged, name, getattr(given, name))
    else:
        merged.ClearField(name)


def _merge_key(given: Any, merged: Any, key: str) -> None:
    if key in given:
        merged[key] = given[key]
    else:
        merged.pop(key, None)
