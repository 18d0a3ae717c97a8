"""The contract's JSON that we stored, back as arguments of the messages it was made from.

``json_format.ParseDict`` checks what a stranger sent and costs as much as reading the row. What is stored here was
written by ``json_format`` itself, so its keys are renamed and the rest is left to the message's own constructor.
Whatever is not plain (well-known types, bytes, 64-bit integers, values of another type than expected) goes to ParseDict.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, TypeAlias

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor

_F = FieldDescriptor
_PLAIN: dict[int, type] = {_F.TYPE_STRING: str, _F.TYPE_BOOL: bool, _F.TYPE_INT32: int, _F.TYPE_UINT32: int}


_Item: TypeAlias = type | frozenset[str] | Descriptor | None
_Shape: TypeAlias = type | None


class _NotPlainError(Exception):
    pass


def arguments(cls: Any, body: Mapping[str, Any]) -> Any:
    """What a constructor takes for a field of this class: a message of it, or its fields. Unknown fields are left out."""
    try:
        return _arguments(cls.DESCRIPTOR, body)
    except _NotPlainError:
        return json_format.ParseDict(dict(body), cls(), ignore_unknown_fields=True)


def _arguments(descriptor: Descriptor, body: Mapping[str, Any]) -> dict[str, Any]:
    fields = _fields(descriptor)
    found: dict[str, Any] = {}
    for key, value in body.items():
        field = fields.get(key)
        if field is None or value is None:
            continue
        name, shape, item = field
        if shape is None:
            found[name] = _value(value, item)
        elif shape is list and isinstance(value, list):
            found[name] = [_value(each, item) for each in value]
        elif shape is dict and isinstance(value, dict):
            found[name] = {each: _value(value[each], item) for each in value}
        else:
            raise _NotPlainError
    return found


def _value(value: Any, item: _Item) -> Any:
    if type(value) is item:
        return value
    if isinstance(item, frozenset) and value in item:
        return value
    if isinstance(item, Descriptor) and type(value) is dict:
        return _arguments(item, value)
    raise _NotPlainError


@functools.cache
def _fields(descriptor: Descriptor) -> dict[str, tuple[str, _Shape, _Item]]:
    """By both names that JSON may use: the field's name, whether it is a list or a map, and what its items are."""
    fields: dict[str, tuple[str, _Shape, _Item]] = {}
    for field in descriptor.fields:
        shape: _Shape = list if field.is_repeated else None
        item = _item(field)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            parts = field.message_type.fields_by_name
            plain = parts["key"].type == _F.TYPE_STRING and parts["value"].message_type is None
            shape, item = dict, _item(parts["value"]) if plain else None
        fields[field.name] = fields[field.json_name] = (field.name, shape, item)
    return fields


def _item(field: FieldDescriptor) -> _Item:
    """The Python type of a plain value, the names of an enum, the type of a message; None for what is not plain."""
    if field.enum_type is not None:
        return frozenset(field.enum_type.values_by_name)
    inner = field.message_type
    if inner is not None:
        return None if inner.full_name.startswith("google.protobuf.") else inner
    return _PLAIN.get(field.type)
