"""Values of a filter, as AIP-160 converts them by the type of the field that they are compared with."""

from __future__ import annotations

import datetime as dt
import re
from typing import Any

import sqlalchemy as sa

from models.db import UtcDateTime
from models.filters.fields import Field, Kind
from models.filters.syntax import FilterError, Literal, shown

_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?", re.ASCII)
_DURATION = re.compile(r"-?\d+(\.\d{1,9})?s", re.ASCII)
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[-+]\d\d:\d\d)", re.ASCII)
_INT64 = 2**63


def typed(name: str, field: Field, value: Literal) -> Any:
    """The value for a number, boolean, enum or duration field. Raises: FilterError."""
    text = value.text
    if field.kind is Kind.NUMBER and _NUMBER.fullmatch(text):
        number = float(text)
        return int(number) if number.is_integer() and abs(number) < _INT64 / 2 else number
    if field.kind is Kind.DURATION and _DURATION.fullmatch(text):
        return float(text[:-1])
    if field.kind is Kind.BOOL and text in ("true", "false"):
        return text == "true"
    if field.kind is Kind.ENUM and text in field.names:
        return text
    wanted = {
        Kind.NUMBER: "a number such as 42 or 2.5",
        Kind.DURATION: "a duration in seconds such as 20s or 1.5s",
        Kind.BOOL: "true or false",
        Kind.ENUM: f"one of {', '.join(field.names)}",
    }[field.kind]
    raise FilterError(f"{name} is compared with {wanted}, not with {shown(text)}", value.position)


def time_condition(name: str, column: sa.ColumnElement[Any], comparator: str, value: Literal) -> sa.ColumnElement[bool]:
    """The comparison with an RFC 3339 time. Times are kept to the microsecond; finer values fall between two of them.

    Raises: FilterError.
    """
    moment, finer = _time(name, value)
    bound = sa.literal(moment, UtcDateTime())
    if finer:
        if comparator in ("=", ":", "!="):
            return sa.true() if comparator == "!=" else sa.false()
        comparator = "<=" if comparator in ("<", "<=") else ">"
    return compared(column, comparator, bound)


def compared(left: sa.ColumnElement[Any], comparator: str, right: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    """``left comparator right``."""
    match comparator:
        case "<":
            return left < right
        case "<=":
            return left <= right
        case ">":
            return left > right
        case ">=":
            return left >= right
        case "!=":
            return left != right
    return left == right


def _time(name: str, value: Literal) -> tuple[dt.datetime, bool]:
    found = _TIME.fullmatch(value.text)
    if found is not None:
        day, clock, fraction, zone = found.groups("")
        try:
            moment = dt.datetime.fromisoformat(f"{day}T{clock}.{fraction[:6]:0<6}{zone.upper()}")
            return moment.astimezone(dt.UTC), bool(fraction[6:].strip("0"))
        except (ValueError, OverflowError):
            pass
    raise FilterError(
        f"{name} is compared with an RFC 3339 time such as 2026-01-31T12:00:00Z, not with {shown(value.text)}",
        value.position,
    )
