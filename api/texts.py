"""Texts of requests: NUL is legal in JSON and protobuf, and PostgreSQL cannot store it."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message

from tasks.errors import InvalidArgument


def check_texts(message: Message) -> None:
    """Raises: InvalidArgument, which names the first field with a NUL character."""
    if 0 in message.SerializeToString():  # most have none, and need no walk
        _walk(message, "")


def check_json(value: Any, field: str = "") -> None:
    """The same of plain JSON."""
    if isinstance(value, str):
        _check(value, field)
    elif isinstance(value, dict):
        for key, each in value.items():
            _check(key, field or "body")
            check_json(each, f"{field}.{key}" if field else key)
    elif isinstance(value, list):
        for each in value:
            check_json(each, field)


def _walk(message: Message, prefix: str) -> None:
    for field, value in message.ListFields():
        path = prefix + field.name
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            for key in value:
                _check(key, path)
                _check_any(value[key], path)
        elif field.is_repeated:
            for each in value:
                _check_any(each, path)
        else:
            _check_any(value, path)


def _check_any(value: Any, path: str) -> None:
    if isinstance(value, Message):
        _walk(value, path + ".")
    else:
        _check(value, path)


def _check(value: Any, path: str) -> None:
    if isinstance(value, str) and "\0" in value:
        raise InvalidArgument(path, "must not have NUL characters", reason="INVALID_ENCODING")
