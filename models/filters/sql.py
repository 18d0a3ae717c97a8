"""A filter's tree to one SQL condition, the same in meaning on SQLite and PostgreSQL.

Rules (AIP-160; what it leaves open is ours):

- Text is compared case-sensitively, by code points. ``*`` is a wildcard with ``=``, ``!=`` and ``:``, nowhere else.
- ``:`` on a scalar is ``=``. ``field:*`` is presence: a scalar is present if it differs from its default.
- A comparison with what is not set is false, ``!=`` too: a time, a duration, a map key, a field of an unset message.
  A scalar that is not set is its default, as in proto3. ``= null`` means not present. ``NOT`` negates whatever it gets.
- No condition is ever NULL, so that NOT means the same everywhere. Values are bound parameters, never SQL text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from models.filters import values
from models.filters.fields import PRIMITIVE, Field, Fields, Kind
from models.filters.syntax import And, Comparison, FilterError, Node, Not, Or, shown
from models.filters.syntax import Literal as Value

Dialect = Literal["sqlite", "postgresql"]
Condition = sa.ColumnElement[bool]
_ORDERING = ("<", "<=", ">", ">=")
_TYPES: dict[Kind, sa.types.TypeEngine[Any]] = {Kind.DURATION: sa.Double(), Kind.ENUM: sa.String()}


def condition(node: Node, fields: Fields, dialect: str) -> Condition:
    """The condition that selects what the filter selects. Raises: FilterError for what the resource cannot answer."""
    return _Compiler(fields, dialect).condition(node)


def bytewise(value: sa.ColumnElement[Any], dialect: str) -> sa.ColumnElement[Any]:
    """Text in the order of its code points, whatever the database's collation; SQLite has no other by default."""
    return sa.collate(value, "C") if dialect == "postgresql" else value


class _Compiler:
    def __init__(self, fields: Fields, dialect: str) -> None:
        self.fields = fields
        self.dialect = dialect

    def condition(self, node: Node) -> Condition:
        match node:
            case And(nodes):
                return sa.and_(*map(self.condition, nodes))
            case Or(nodes):
                return sa.or_(*map(self.condition, nodes))
            case Not(inner):
                return sa.not_(self.condition(inner))
            case Comparison():
                return self.comparison(node)
        return self.anywhere(node)

    def anywhere(self, value: Value) -> Condition:
        """A bare literal: contained in the resource's id or in one of the searched fields."""
        parts = ("", *value.parts, "")
        searched = [field.value for field in self.fields.table.values() if field.searched]
        found = [self.matches(text, parts) for text in (self.fields.searched_id, *searched)]
        return sa.or_(*(sa.func.coalesce(each, sa.false()).is_(sa.true()) for each in found))

    def comparison(self, node: Comparison) -> Condition:
        found = self.fields.find(node.path)
        if found is None:
            raise FilterError(
                f"{self.fields.resource} has no field {shown('.'.join(node.path))} to filter by; "
                f"there are {self.fields.described()}; a map key with points is quoted",
                node.position,
            )
        name, field, rest = found
        if not node.value.quoted and node.value.text == "null":
            if node.comparator not in ("=", "!=", ":"):
                raise _not_for(node, name, "compared with null", "= and !=")
            present = self.present(name, field, rest)
            return present if node.comparator == "!=" else sa.not_(present)
        if node.comparator == ":" and node.value.parts == ("", ""):
            return self.present(name, field, rest)
        if field.kind is Kind.MAP and rest:
            return self.element(field, lambda item: sa.and_(item.c.key == rest[0], self.text(item.c.value, node)))
        if field.kind in (Kind.MAP, Kind.LIST, Kind.MESSAGE):
            if node.comparator != ":":
                raise _not_for(node, name, f"of type {field.kind}", "the has operator, :")
            return self.has(name, field, rest, node)
        return self.scalar(name, field, node)

    def scalar(self, name: str, field: Field, node: Comparison) -> Condition:
        if field.kind in (Kind.BOOL, Kind.ENUM) and node.comparator in _ORDERING:
            raise _not_for(node, name, f"of type {field.kind}", "=, != and :")
        if field.kind is Kind.TEXT:
            result = self.text(field.value, node)
        elif field.kind is Kind.TIME:
            result = values.time_condition(name, field.value, node.comparator, node.value)
        elif field.kind is Kind.BOOL:
            wanted = values.typed(name, field, node.value) is (node.comparator != "!=")
            result = field.value.is_(sa.true() if wanted else sa.false())
        else:
            value = values.typed(name, field, node.value)
            kind = _TYPES.get(field.kind) or (sa.BigInteger() if isinstance(value, int) else sa.Double())
            result = values.compared(field.value, node.comparator, sa.literal(value, kind))
        return result if field.exists is None else sa.and_(field.exists, result)

    def text(self, text: sa.ColumnElement[Any], node: Comparison) -> Condition:
        if node.comparator in _ORDERING:
            right = sa.literal(node.value.text, sa.String())
            return values.compared(bytewise(text, self.dialect), node.comparator, right)
        found = self.matches(text, node.value.parts)
        return sa.not_(found) if node.comparator == "!=" else found

    def has(self, name: str, field: Field, rest: tuple[str, ...], node: Comparison) -> Condition:
        parts = node.value.parts
        if field.kind is Kind.MAP:
            return self.element(field, lambda item: self.matches(item.c.key, parts))
        if field.kind is Kind.LIST:
            if field.inner and not rest:
                raise FilterError(f"{name} has messages: ask for {_inner(name, field)}", node.position)
            return self.element(field, lambda item: self.matches(self.item_text(item, rest), parts))
        inner = self.fields.find((*node.path, node.value.text))
        if inner is None or len(inner[0]) <= len(name):
            raise FilterError(f"{name} has no field {shown(node.value.text)}", node.value.position)
        return self.present(*inner)

    def present(self, name: str, field: Field, rest: tuple[str, ...]) -> Condition:
        if field.kind is Kind.MAP:
            return self.element(field, lambda item: item.c.key == rest[0] if rest else sa.true())
        if field.kind is Kind.LIST:
            return self.element(field, lambda item: self.item_text(item, rest) != "" if rest else sa.true())
        exists = sa.true() if field.exists is None else field.exists
        if field.kind is Kind.BOOL:
            return sa.and_(exists, field.value.is_(sa.true()))
        if field.kind in PRIMITIVE:
            return sa.and_(exists, field.value != sa.literal(field.default, field.value.type))
        return exists

    def matches(self, text: sa.ColumnElement[Any], parts: tuple[str, ...]) -> Condition:
        """Equality, or with wildcards between the parts: LIKE, or on SQLite GLOB, whose case counts as well."""
        if len(parts) == 1:
            return text == sa.literal(parts[0], sa.String())
        if self.dialect == "sqlite":
            pattern = "*".join(re.sub(r"([*?\[])", r"[\1]", part) for part in parts)
            return text.bool_op("GLOB")(sa.literal(pattern, sa.String()))
        pattern = "%".join(re.sub(r"([%_\\])", r"\\\1", part) for part in parts)
        return text.like(sa.literal(pattern, sa.String()), escape="\\")

    def element(self, field: Field, test: Callable[[Any], Condition]) -> Condition:
        """Whether a map or list has an element that passes the test."""
        columns = [sa.column("value", JSONB() if field.inner else sa.String())]
        if field.kind is Kind.MAP:
            columns.insert(0, sa.column("key", sa.String()))
        if self.dialect == "sqlite":
            path = "$" + "".join(f'."{key}"' for key in field.keys)
            rows = sa.func.json_each(field.column, path)
        else:
            function = "jsonb_each" if field.kind is Kind.MAP else "jsonb_array_elements"
            rows = getattr(sa.func, function if field.inner else f"{function}_text")(field.column[field.keys])
        item = rows.table_valued(*columns)
        return sa.exists(sa.select(sa.literal_column("1")).select_from(item).where(test(item)))

    def item_text(self, item: Any, rest: tuple[str, ...]) -> sa.ColumnElement[Any]:
        if not rest:
            found: sa.ColumnElement[Any] = item.c.value
            return found
        key = _json_name(rest[0])
        text = (
            sa.func.json_extract(item.c.value, f'$."{key}"') if self.dialect == "sqlite" else item.c.value[key].astext
        )
        return sa.func.coalesce(text, "")


def _json_name(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.title() for part in rest)


def _inner(name: str, field: Field) -> str:
    return ", ".join(f"{name}.{inner}:VALUE" for inner in field.inner)


def _not_for(node: Comparison, name: str, what: str, allowed: str) -> FilterError:
    return FilterError(f"{name} is {what}: {node.comparator} does not apply, {allowed} do", node.position)
