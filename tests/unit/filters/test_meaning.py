"""A random filter over random rows means the same on SQLite, on PostgreSQL, and in the reference in Python."""

import pytest
import filter_rows as rows
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from models.filters import FIELDS, FilterError, condition, parse
from models.schema import CloneJob, MigratingVm

PARENTS = {CloneJob: rows.VM, MigratingVm: rows.SOURCE}
KINDS = {CloneJob: rows.jobs, MigratingVm: rows.vms}
quick = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("cls", [CloneJob, MigratingVm])
@quick
@given(data=st.data())
def test_both_databases_and_the_reference_agree(databases, cls, data):
    stored = data.draw(rows.some(KINDS[cls]))
    databases.fill(cls, stored)
    for text in data.draw(st.lists(rows.filters(cls), min_size=5, max_size=5)):
        tree = parse(text)
        expected = {row["name"] for row in stored if rows.holds(tree, cls, rows.resource(cls, row))}
        for catalog in databases.catalogs:
            found = catalog.list_page(cls, PARENTS[cls], limit=100, filter_text=text)
            assert {each.row.name for each in found} == expected, (catalog.engine.dialect.name, text)


_PIECES = [
    "AND",
    "OR",
    "NOT",
    "-",
    "(",
    ")",
    ".",
    ",",
    ":",
    "=",
    "!=",
    "<",
    ">=",
    "*",
    '"',
    "'",
    "\\",
    " ",
    "name",
    "state",
    "labels",
    "create_time",
    "compute_engine_target_details",
    "end_time",
    "null",
    "true",
    "1",
    "1e999",
    "20s",
    "2026-01-01T00:00:00Z",
    "ACTIVE",
    "é",
    "%",
    "_",
    "[",
    "f(",
    "\n",
    "error",
    "done",
    "0001-01-01T00:00:00+23:59",
]
_noise = st.lists(st.sampled_from(_PIECES), max_size=12).map("".join) | st.text(max_size=40) | st.text(
    st.characters(), max_size=20)  # fmt: skip


@settings(quick, max_examples=150)
@given(text=_noise, order=_noise | st.sampled_from(["", "name desc, state"]), cls=st.sampled_from(list(FIELDS)))
@example("\ud800", "", CloneJob)
@example("a\0b", "", CloneJob)
@example("-" * 2000, "", CloneJob)
@example("(" * 2000, "", CloneJob)
@example("NOT (" * 400, "", CloneJob)
@example("a OR " * 400 + "a", "", CloneJob)
@example("create_time < 9999-12-31T23:59:59-23:59", "", CloneJob)
@example("compute_engine_target_details.compute_scheduling.min_node_cpus > 99999999999999999999", "", CloneJob)
def test_noise_is_refused_or_answered(databases, text, order, cls):
    from models.listing import OrderError

    for catalog in databases.catalogs:
        try:
            catalog.list_page(cls, "p", limit=3, filter_text=text, order_by=order)
        except (FilterError, OrderError) as error:
            str(error).encode("utf-8", "backslashreplace")


@pytest.mark.parametrize("cls", list(FIELDS))
def test_every_field_can_be_asked_for_in_both_databases(databases, cls):
    for path, field in FIELDS[cls].table.items():
        for text in (f"{path}:*", f"NOT {path} = null", f"-{path}:*"):
            for catalog in databases.catalogs:
                catalog.list_page(cls, "p", limit=1, filter_text=text)
        sortable = path in FIELDS[cls].sortable().split(", ")
        assert sortable is (field.kind not in ("message", "map", "list"))
        for order in [path, f"{path} desc"] if sortable else []:
            for catalog in databases.catalogs:
                catalog.list_page(cls, "p", limit=1, order_by=order)


def test_values_are_bound_never_text():
    from sqlalchemy.dialects import postgresql, sqlite

    evil = "x' OR 1=1 --%_"
    for dialect in (sqlite.dialect(), postgresql.dialect()):
        tree = parse(f'name = "{evil}" labels."{evil}":"{evil}*" "{evil}"')
        sql = str(condition(tree, FIELDS[MigratingVm], dialect.name).compile(dialect=dialect))
        assert "1=1" not in sql
