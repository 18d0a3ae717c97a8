"""proto3 JSON of our answers. ``json_format`` works out every field anew each time, which costs more than reading the row.

Here that is done once per field. What our messages hardly use (floats, bytes, well-known types but Timestamp, maps of
other keys than texts) is left to ``json_format``.
"""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Callable
from typing import Any

from google.protobuf import json_format, symbol_database
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

Convert = Callable[[Any], Any]
_F = FieldDescriptor
_AS_IT_IS = frozenset({_F.TYPE_STRING, _F.TYPE_BOOL, _F.TYPE_INT32, _F.TYPE_UINT32})
_AS_TEXT = frozenset({_F.TYPE_INT64, _F.TYPE_UINT64})
_EPOCH = dt.datetime(1970, 1, 1)  # noqa: DTZ001  (an aware one would be written with +00:00)


class _NotPlainError(Exception):
    pass


def to_dict(message: Message) -> dict[str, Any]:
    """What ``json_format.MessageToDict`` makes of it."""
    try:
        return _object(message) if _is_ours(message.DESCRIPTOR.full_name) else _slowly(message)
    except _NotPlainError:
        return _slowly(message)


def _slowly(message: Message) -> dict[str, Any]:
    result: dict[str, Any] = json_format.MessageToDict(message)
    return result


def _is_ours(full_name: str) -> bool:
    return not full_name.startswith("google.protobuf.")


def _object(message: Message) -> dict[str, Any]:
    found = {}
    for field, value in message.ListFields():
        name, convert = _how(field)
        found[name] = value if convert is None else convert(value)
    return found


@functools.cache
def _how(field: FieldDescriptor) -> tuple[str, Convert | None]:
    """The field's name, and how its value becomes JSON; None if it is its own JSON."""
    inner = field.message_type
    if inner is not None and inner.GetOptions().map_entry:
        if inner.fields_by_name["key"].type != _F.TYPE_STRING:
            return field.json_name, _not_plain
        return field.json_name, _map(_item(inner.fields_by_name["value"]))
    one = _item(field)
    return field.json_name, _list(one) if field.is_repeated else one


def _map(one: Convert | None) -> Convert:
    return dict if one is None else lambda value: {key: one(value[key]) for key in value}


def _list(one: Convert | None) -> Convert:
    return list if one is None else lambda value: [one(each) for each in value]


def _item(field: FieldDescriptor) -> Convert | None:
    if field.type in _AS_IT_IS:
        return None
    if field.type in _AS_TEXT:
        return str
    if field.enum_type is not None:
        return _enum(field.enum_type)
    if field.message_type is None:
        return _not_plain
    name = field.message_type.full_name
    if _is_ours(name):
        return _object
    return {"google.protobuf.Timestamp": _timestamp, "google.protobuf.Any": _any}.get(name, _not_plain)


def _enum(enum: EnumDescriptor) -> Convert:
    names = {number: value.name for number, value in enum.values_by_number.items()}
    return lambda value: names.get(value, value)  # a number without a name stays one


def _timestamp(value: Any) -> str:
    try:
        text = (_EPOCH + dt.timedelta(seconds=value.seconds)).isoformat()
    except OverflowError:
        raise _NotPlainError from None
    if value.nanos == 0:
        return text + "Z"
    if value.nanos % 1_000:
        return f"{text}.{value.nanos:09}Z"
    micros = value.nanos // 1_000
    return f"{text}.{micros:06}Z" if micros % 1_000 else f"{text}.{micros // 1_000:03}Z"


def _any(value: Any) -> dict[str, Any]:
    made = _class_of(value.type_url)
    if made is None:
        raise _NotPlainError
    return {"@type": value.type_url, **_object(made.FromString(value.value))}


@functools.lru_cache(maxsize=256)
def _class_of(type_url: str) -> Any:
    name = type_url.rpartition("/")[2]
    try:
        return symbol_database.Default().GetSymbol(name) if _is_ours(name) else None
    except KeyError:
        return None


def _not_plain(_value: Any) -> Any:
    raise _NotPlainError
