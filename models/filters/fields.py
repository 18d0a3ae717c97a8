"""What of a resource can be filtered and ordered by: a path of the contract, its type, and where it lies in the row.

A path is looked up by the contract's field names (``create_time``), or their JSON names (``createTime``). Presence is
that of proto3: a scalar that is not set has its default value; a message, a time, a duration or a map key can be unset.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

_CAMEL = re.compile(r"(?<!^)(?=[A-Z])")


class Kind(enum.StrEnum):
    """The type of a field; it decides which values and comparators it takes."""

    TEXT = "string"
    NUMBER = "number"
    BOOL = "boolean"
    ENUM = "enum"
    TIME = "time"
    DURATION = "duration"
    MESSAGE = "message"
    MAP = "map"
    LIST = "list"


PRIMITIVE = (Kind.TEXT, Kind.NUMBER, Kind.BOOL, Kind.ENUM)
SORTABLE = (*PRIMITIVE, Kind.TIME, Kind.DURATION)
_DEFAULTS: dict[Kind, Any] = {Kind.TEXT: "", Kind.NUMBER: 0, Kind.BOOL: False}
_JSON_TYPES: dict[Kind, sa.types.TypeEngine[Any]] = {Kind.BOOL: sa.Boolean(), Kind.NUMBER: sa.Integer()}


@dataclass(frozen=True, eq=False)
class Field:
    """One path. Without ``keys`` it is ``column`` itself; with them, what lies under these keys of that JSON column.

    ``names`` of an enum, its default first. ``inner`` are the text fields of a list's messages. A bare literal in a
    filter is looked for in the fields that are ``searched``.
    """

    kind: Kind
    column: sa.ColumnElement[Any]
    keys: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    inner: tuple[str, ...] = ()
    searched: bool = False
    optional: bool = False  # the column may be NULL

    @property
    def value(self) -> sa.ColumnElement[Any]:
        """The SQL value; NULL only for a time or a duration that is not set."""
        if not self.keys:
            if self.kind is Kind.ENUM:
                return sa.type_coerce(self.column, sa.String())
            return self.column
        if self.kind in _JSON_TYPES:
            found = _json(self.column, self.keys)
            typed: sa.ColumnElement[Any] = found.as_boolean() if self.kind is Kind.BOOL else found.as_integer()
        else:
            typed = _json(self.column, self.keys).as_string()
        if self.kind is Kind.DURATION:  # "1.5s"; as a double on both databases
            return sa.cast(sa.func.rtrim(typed, "s"), sa.Double())
        if self.kind in PRIMITIVE:
            coalesced: sa.ColumnElement[Any] = sa.func.coalesce(
                typed, sa.literal(self.default, typed.type), type_=typed.type
            )
            return coalesced
        return typed

    @property
    def default(self) -> Any:
        """What an unset primitive is (proto3)."""
        return self.names[0] if self.kind is Kind.ENUM else _DEFAULTS[self.kind]

    @property
    def exists(self) -> sa.ColumnElement[bool] | None:
        """Whether every message on the path is set, and the field itself if it is no primitive; None if always."""
        if self.kind in PRIMITIVE:
            return _exists(self.column, self.keys[:-1], optional=self.optional)
        return _exists(self.column, self.keys, optional=self.optional)


@dataclass(frozen=True)
class Fields:
    """The fields of one resource; ``start`` is the time that its list is ordered by, newest first."""

    resource: str
    table: Mapping[str, Field]
    start: str
    searched_id: sa.ColumnElement[Any]  # the last segment of the name, which bare literals are looked for in as well
    _maps: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_maps", frozenset(k for k, v in self.table.items() if v.kind is Kind.MAP))

    def find(self, path: tuple[str, ...]) -> tuple[str, Field, tuple[str, ...]] | None:
        """The field's own path, the field, and what of the path is left: a map's key, or a field of a list's messages."""
        snake = tuple(_snake(part) for part in path)
        for length in range(len(path), 0, -1):
            name = ".".join(snake[:length])
            found = self.table.get(name)
            if found is not None:
                rest = path[length:]
                if found.kind is Kind.LIST:
                    rest = snake[length:]
                fits = not rest or (len(rest) == 1 and (found.kind is Kind.MAP or rest[0] in found.inner))
                return (name, found, rest) if fits else None
        return None

    def described(self) -> str:
        """All fields, for a message."""
        return ", ".join(f"{name}.KEY" if name in self._maps else name for name in sorted(self.table))

    def sortable(self) -> str:
        """The fields that order_by takes, for a message."""
        return ", ".join(name for name in sorted(self.table) if self.table[name].kind in SORTABLE)


def json_fields(column: Any, prefix: str, fields: Mapping[str, Any]) -> dict[str, Field]:
    """Fields below a JSON column that holds the contract's JSON. ``fields``: path to kind, enum names, or arguments."""
    made = {}
    for path, what in fields.items():
        keys = tuple(_camel(part) for part in path.split("."))
        if isinstance(what, Kind):
            arguments: dict[str, Any] = {"kind": what}
        elif isinstance(what, tuple):
            arguments = {"kind": Kind.ENUM, "names": what}
        else:
            arguments = what
        made[prefix + path] = Field(column=column, keys=keys, **arguments)
    return made


def _json(column: sa.ColumnElement[Any], keys: tuple[str, ...]) -> Any:
    return column[keys]


def _exists(column: sa.ColumnElement[Any], keys: tuple[str, ...], *, optional: bool) -> sa.ColumnElement[bool] | None:
    if keys:
        # As text: SQLite's JSON_QUOTE turns what is missing into the JSON null, which is no NULL.
        found: sa.ColumnElement[bool] = _json(column, keys).as_string().is_not(None)
        return found
    return column.is_not(None) if optional else None


def _snake(name: str) -> str:
    return _CAMEL.sub("_", name).lower() if not name.islower() else name


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.title() for part in rest)
