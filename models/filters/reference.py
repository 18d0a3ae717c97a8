"""The reference page of lists, ``docs/lists.md``, made from the tables of fields (``python -m models.filters.reference``)."""

from __future__ import annotations

from models.filters.fields import PRIMITIVE, SORTABLE, Field, Fields, Kind
from models.filters.resources import FIELDS
from models.filters.syntax import MOST_CHARACTERS, MOST_DEPTH, MOST_TERMS, MOST_WILDCARDS

_INTRODUCTION = f"""# Lists: filter, order_by, pages

Made from `models/filters` by `python -m models.filters.reference > docs/lists.md`; a test holds the two equal.

## filter (AIP-160)

| example | what it selects |
|---|---|
| `state = FAILED` | comparisons: `=` `!=` `<` `<=` `>` `>=`; enums and booleans take `=` `!=` `:` only |
| `state = (FAILED OR CANCELLED)` | a value in parentheses distributes; `!=` means none of them |
| `a AND b OR c` | `a AND (b OR c)`: OR binds tighter than AND |
| `a b` | both: white space is AND; nothing is ranked |
| `NOT a`, `-a` | whatever `a` does not select |
| `create_time > 2026-01-31T12:00:00Z` | RFC 3339 times, to the nanosecond; rows have microseconds |
| `policy.idle_duration >= 90s` | durations, compared as double-precision numbers |
| `name = "*/cloneJobs/web-*"` | `*` is a wildcard with `=`, `!=` and `:`; `\\*` in quotes is a star |
| `labels:env`, `labels.env:*`, `labels.env = prod` | a map has the key; has the key; has the value |
| `labels."a.b" = x` | a key with points is quoted; keys are never converted |
| `network_tags:web`, `network_interfaces.network:net-1` | a list has the element; has one with the field |
| `end_time:*`, `end_time = null` | present; not present |
| `web-1` | a bare literal: contained in the resource's id, or in a field marked *searched* |

- Text is compared case-sensitively, by code points. In quotes, `\\\\`, `\\"`, `\\'` and `\\*` are the escapes.
- What is not set: a comparison with an unset time, duration or map key, or below an unset message, is false, `!=` too. A
  scalar that is not set has its default (proto3), so `description = ""` selects resources without one, and
  `description:*` those with one. `NOT` negates whatever stands behind it.
- `:` on a scalar means `=`. Fields are written as in the contract (`create_time`) or in its JSON (`createTime`).
- Functions are refused: there are none. A filter has at most {MOST_CHARACTERS} characters, {MOST_TERMS} terms, parentheses
  {MOST_DEPTH} deep, and {MOST_WILDCARDS} wildcards in a value. Whatever cannot be applied is INVALID_ARGUMENT and says where.

## order_by (AIP-132)

`state, create_time desc`: ascending unless `desc` follows. What is not set comes first in ascending order; enums are ordered
by name; ties are broken by `name`, in the direction of the last field. Without `order_by`: newest first.
ListOperations has no `order_by`.

## Pages (AIP-158)

500 by default, 1000 at most. A page token is encrypted, signed, good for three days, and bound to resource type, parent,
filter and order_by; page_size may change. Rows that come or go between two pages neither repeat nor hide others; a row moves
only if the value that the list is ordered by changes. `unreachable` stays empty: a list is whole, or an error.
"""


def page() -> str:
    """The whole page."""
    return "\n".join([_INTRODUCTION, *(_section(fields) for fields in FIELDS.values())])


def _section(fields: Fields) -> str:
    rows = [f"| `{path}` | {_type(field)} | {_notes(field)} |" for path, field in sorted(fields.table.items())]
    return "\n".join([f"## {fields.resource}", "", "| field | type | |", "|---|---|---|", *rows, ""])


def _type(field: Field) -> str:
    if field.kind is Kind.ENUM:
        return "enum: " + ", ".join(field.names)
    if field.kind is Kind.LIST:
        return f"list of messages with {', '.join(field.inner)}" if field.inner else "list of string"
    return {Kind.MAP: "map of string"}.get(field.kind, str(field.kind))


def _notes(field: Field) -> str:
    notes = ["searched"] if field.searched else []
    if field.kind in SORTABLE:
        notes.append("sortable")
    if field.kind not in PRIMITIVE and field.exists is not None:
        notes.append("may be unset")
    return ", ".join(notes)


if __name__ == "__main__":
    import sys

    sys.stdout.write(page())
