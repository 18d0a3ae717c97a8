"""Lists over several parents (``-``) come from an index that has their order already; asked of the databases themselves."""

import pytest
import sqlalchemy as sa
from benchmarks.listing import fill

from models.catalog import Catalog
from models.db import make_engine
from models.schema import CloneJob, MigratingVm

SOURCES = "projects/p/locations/l/sources"
EVERY_VM = f"{SOURCES}/-/migratingVms/-"


@pytest.fixture
def filled(database_url_of_its_own):
    engine = make_engine(database_url_of_its_own)
    fill(engine, 3000)
    yield engine
    engine.dispose()


def plan(engine, cls, parent, **how):
    """How the database finds the page: the statement that the catalog sends, explained."""
    sent = []
    with engine.connect() as connection:
        listen = (engine, "before_cursor_execute", lambda *event: sent.append(event[2:4]))
        sa.event.listen(*listen)
        Catalog(engine).list_page(cls, parent, limit=51, **how)
        sa.event.remove(*listen)
        statement, values = next(each for each in sent if "LIMIT" in each[0])
        explain = "EXPLAIN " if engine.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN "
        return "\n".join(str(row[-1]) for row in connection.exec_driver_sql(explain + statement, values))


@pytest.mark.parametrize(("cls", "parent"), [
    (CloneJob, EVERY_VM), (CloneJob, "projects/p/locations/-/sources/-/migratingVms/-"),
    (CloneJob, f"{SOURCES}/s/migratingVms/-"), (MigratingVm, f"{SOURCES}/-"),
])  # fmt: skip
def test_wildcard_parents_are_read_in_order(filled, cls, parent):
    if cls is MigratingVm:  # one row: the planner is right to look at it
        with filled.begin() as connection:
            table = MigratingVm.__table__
            columns = [column.name for column in table.columns]
            names = [f"{SOURCES}/s/migratingVms/x{number}" for number in range(3000)]
            (row,) = connection.execute(sa.select(table)).mappings()
            connection.execute(
                sa.insert(table), [{**{key: row[key] for key in columns}, "name": name} for name in names]
            )
        with filled.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("ANALYZE"))
    state = "state=FAILED" if cls is CloneJob else "state=ACTIVE"
    for how in ({}, {"order_by": "create_time"}, {"filter_text": state}):
        found = plan(filled, cls, parent, **how)
        assert f"ix_{cls.__tablename__}_project_create_time" in found, found
        assert "Sort" not in found and "TEMP B-TREE" not in found, found


def test_they_find_what_is_below_and_nothing_else(filled):
    catalog = Catalog(filled)
    pages = [catalog.list_page(CloneJob, parent, limit=5) for parent in (
        EVERY_VM, f"{SOURCES}/s/migratingVms/v", f"{SOURCES}/-/migratingVms/other", "projects/q/locations/-/sources/-/migratingVms/-")]  # fmt: skip
    found = [[each.row.name.rpartition("/")[2] for each in page] for page in pages]
    assert found == [[f"job-{number}" for number in range(2999, 2994, -1)]] * 2 + [[], []]
