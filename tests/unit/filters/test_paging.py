"""Keyset paging over any order, on both databases at once (AIP-158, AIP-132)."""

import filter_rows as rows
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.filters import FIELDS
from models.listing import OrderError, parse_order
from models.schema import CloneJob, MigratingVm

PARENTS = {CloneJob: rows.VM, MigratingVm: rows.SOURCE}
KINDS = {CloneJob: rows.jobs, MigratingVm: rows.vms}


def orders(cls):
    one = st.tuples(st.sampled_from(FIELDS[cls].sortable().split(", ")), st.sampled_from(["", " desc"]))
    return st.lists(one, max_size=3, unique_by=lambda x: x[0]).map(lambda xs: ", ".join(a + b for a, b in xs))


def key_of(cls, order_by, row):
    """What Python sorts by: unset first in ascending order; each with its direction."""
    shown = rows.resource(cls, row)
    keys = []
    for order in parse_order(cls, order_by):
        value, _ = rows._get(shown, order.path.split("."))
        if value is None and not order.nullable:
            value = order.field.default
        if order.field.kind == "duration" and value is not None:
            value = float(value[:-1])
        keys.append((order.descending, (value is not None, value)))
    return keys


def in_order(cls, order_by, stored):
    found = list(stored)
    for index in reversed(range(len(parse_order(cls, order_by)))):
        found.sort(
            key=lambda row: key_of(cls, order_by, row)[index][1], reverse=parse_order(cls, order_by)[index].descending
        )
    return [row["name"] for row in found]


@pytest.mark.parametrize("cls", [CloneJob, MigratingVm])
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_row_comes_once_and_in_order(databases, cls, data):
    everything = [data.draw(KINDS[cls](number)) for number in range(1, data.draw(st.integers(2, 9)))]
    late = [row for row in everything if data.draw(st.booleans())]
    stored = [row for row in everything if row not in late]
    order_by, sizes = data.draw(orders(cls)), data.draw(st.lists(st.integers(1, 3), min_size=20, max_size=20))
    removed = data.draw(st.sets(st.sampled_from([row["name"] for row in stored]))) if stored else set()
    pages_before = data.draw(st.integers(0, 3))
    databases.fill(cls, stored)
    seen = {catalog: [] for catalog in databases.catalogs}
    after = dict.fromkeys(databases.catalogs)
    for number, size in enumerate(sizes):
        if number == pages_before:
            databases.insert(cls, late)
            databases.delete(cls, removed)
        for catalog in databases.catalogs:
            if number and after[catalog] is None:
                continue
            page = catalog.list_page(cls, PARENTS[cls], limit=size + 1, order_by=order_by, after=after[catalog])
            seen[catalog] += [each.row.name for each in page[:size]]
            after[catalog] = page[size - 1].keys if len(page) > size else None
    one, other = seen.values()
    assert one == other
    assert len(set(one)) == len(one)
    stayed = {row["name"] for row in stored} - removed
    assert stayed <= set(one)
    assert one == [name for name in in_order(cls, order_by, everything) if name in one]


@pytest.mark.parametrize(("order_by", "order"), [
    ("", [("create_time", True), ("name", True)]),
    ("  create_time   desc , name ", [("create_time", True), ("name", False)]),
    ("state", [("state", False), ("name", False)]),
    ("endTime desc", [("end_time", True), ("name", True)]),
    ("compute_engine_target_details.vm_name asc", [("compute_engine_target_details.vm_name", False), ("name", False)]),
])  # fmt: skip
def test_orders(order_by, order):
    assert [(each.path, each.descending) for each in parse_order(CloneJob, order_by)] == order


@pytest.mark.parametrize("order_by", [
    "nope", "state desc desc", "state DESC", ",", "state,", "state state", "state desc, state", "steps", "x" * 501,
    "compute_engine_target_details", "compute_engine_target_details.labels.env", "compute_engine_target_details.network_tags",
    "state; DROP TABLE clone_jobs", "-state", "é", "\0", "1",
])  # fmt: skip
def test_orders_that_are_refused(order_by):
    with pytest.raises(OrderError) as caught:
        parse_order(CloneJob, order_by)
    if order_by in ("nope", "steps"):
        assert "it can by compute_engine_target_details.applied_license.os_license, " in str(caught.value)
