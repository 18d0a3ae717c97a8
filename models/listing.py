"""Lists: order_by (AIP-132) and keyset paging (AIP-158) over any order, the same on SQLite and PostgreSQL.

A page ends with the order's values of its last row, and the next one starts behind them: rows that come or go in
between neither repeat nor hide others. (Only a row whose own ordering value changes may move across the border.)
What is not set comes first in ascending order. Ties are broken by name, in the direction of the last field.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from models.filters import FIELDS, Field, Kind, condition, parse
from models.filters.fields import SORTABLE
from models.filters.sql import bytewise

_MOST_CHARACTERS, _MOST_FIELDS = 500, 10
_ENTRY = re.compile(r"\s*([A-Za-z_][\w.]*)(?:\s+(asc|desc))?\s*", re.ASCII)

Keys = tuple[Any, ...]
KEY_PREFIX = "key_"


class OrderError(ValueError):
    """The order cannot be applied; the message says what can be ordered by, and is safe to show."""


@dataclass(frozen=True, slots=True)
class Order:
    """One field of an order."""

    path: str
    field: Field
    descending: bool

    def value(self, dialect: str) -> sa.ColumnElement[Any]:
        """What the database sorts by."""
        value = self.field.value
        return bytewise(value, dialect) if self.field.kind in (Kind.TEXT, Kind.ENUM) else value

    @property
    def nullable(self) -> bool:
        """Whether the value may be NULL."""
        return (self.field.optional and not self.field.keys) or self.field.kind is Kind.DURATION


def parse_order(cls: type, order_by: str) -> tuple[Order, ...]:
    """The order, with its tie-break; newest first if ``order_by`` is empty. Raises: OrderError."""
    fields = FIELDS[cls]
    if len(order_by) > _MOST_CHARACTERS:
        raise OrderError(f"has at most {_MOST_CHARACTERS} characters")
    made: dict[str, Order] = {}
    for entry in order_by.split(",") if order_by.strip() else [f"{fields.start} desc"]:
        match = _ENTRY.fullmatch(entry)
        if match is None:
            raise OrderError(f"{entry.strip()[:60]!r} is not a field, optionally followed by desc")
        found = fields.find(tuple(match[1].split(".")))
        if found is None or found[1].kind not in SORTABLE:
            raise OrderError(f"{fields.resource} cannot be ordered by {match[1][:60]!r}; it can by {fields.sortable()}")
        path, field, _ = found
        if path in made:
            raise OrderError(f"names {path} twice")
        made[path] = Order(path, field, match[2] == "desc")
    if len(made) > _MOST_FIELDS:
        raise OrderError(f"names at most {_MOST_FIELDS} fields")
    last = list(made.values())[-1]
    made.setdefault("name", Order("name", fields.table["name"], last.descending))
    return tuple(made.values())


def statement(
    cls: type, dialect: str, within: sa.ColumnElement[bool], *, limit: int, filter_text: str = "", order_by: str = "",
    after: Keys | None = None,
) -> sa.Select[Any]:  # fmt: skip
    """Select the rows of one page, each followed by its keys: what ``after`` is for the page behind it.

    Raises: FilterError, OrderError; ValueError for keys that this order does not have.
    """
    order = parse_order(cls, order_by)
    node = parse(filter_text)
    values = [each.value(dialect) for each in order]
    query = sa.select(cls, *(value.label(f"{KEY_PREFIX}{number}") for number, value in enumerate(values))).where(within)
    if node is not None:
        query = query.where(condition(node, FIELDS[cls], dialect))
    if after is not None:
        if len(after) != len(order):
            raise ValueError("keys of another order")
        query = query.where(_behind(order, values, after))
    return query.order_by(*(_sorted(each, value) for each, value in zip(order, values, strict=True))).limit(limit)


def _sorted(order: Order, value: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    ordered = value.desc() if order.descending else value.asc()
    if not order.nullable:
        return ordered
    return ordered.nulls_last() if order.descending else ordered.nulls_first()


def _behind(order: Sequence[Order], values: Sequence[sa.ColumnElement[Any]], after: Keys) -> sa.ColumnElement[bool]:
    """The rows behind the keys: beyond the first, or equal to it and behind the rest.

    The first key bounds the rows once more by itself: that is the form in which both databases use an index for it.
    """
    result: sa.ColumnElement[bool] = sa.false()
    for each, value, key in reversed(list(zip(order, values, after, strict=True))):
        bound = sa.null() if key is None else sa.literal(key, each.field.value.type)
        equal = value.is_(None) if key is None else value == bound
        result = sa.or_(_beyond(each, value, key, bound), sa.and_(equal, result))
    first, value, key = order[0], values[0], after[0]
    if key is None or first.nullable:
        return result
    bound = sa.literal(key, first.field.value.type)
    return sa.and_(value <= bound if first.descending else value >= bound, result)


def _beyond(order: Order, value: sa.ColumnElement[Any], key: Any, bound: Any) -> sa.ColumnElement[bool]:
    if order.descending:
        if key is None:
            return sa.false()
        return sa.or_(value < bound, value.is_(None)) if order.nullable else value < bound
    return value.is_not(None) if key is None else value > bound
