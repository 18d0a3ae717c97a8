"""First and later pages of clone jobs, of one VM and of every VM, by number of jobs and by database. Prints JSON.

    python benchmarks/listing.py --sizes 1000 1000000 --database sqlite --database postgresql

Every database is a fresh one and is dropped afterwards. ``ratio`` is the largest size's median over the smallest's.
"""

# ruff: noqa: S608 - the statements are made of constants
from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
from sqlalchemy.engine import Engine

sys.path.insert(0, str(Path(__file__).parents[1]))

from models import migrate
from models.catalog import Catalog
from models.db import make_engine
from models.schema import CloneJob

SOURCE = "projects/p/locations/l/sources/s"
VM = f"{SOURCE}/migratingVms/v"
CYCLE = f"{VM}/replicationCycles/cycle-1"
EVERY_VM = "projects/p/locations/l/sources/-/migratingVms/-"
QUERIES = {  # parent, filter, order
    "all, newest first": (VM, "", ""),
    "state, ordered by time": (VM, "state=FAILED", "create_time desc"),
    "state, ordered by time, oldest first": (VM, "state=FAILED", "create_time"),
    "two states, ordered by time": (VM, "state=(FAILED OR CANCELLED)", "create_time desc"),
    "state and label": (VM, "state=FAILED compute_engine_target_details.labels.env=prod", "create_time desc"),
    "every VM, newest first": (EVERY_VM, "", ""),
    "every VM, state, ordered by time": (EVERY_VM, "state=FAILED", "create_time desc"),
}
# One job a second; of ten, seven succeeded, two failed, one was cancelled.
_STATE = "CASE WHEN i % 10 < 7 THEN '{}' WHEN i % 10 < 9 THEN '{}' ELSE '{}' END"
_ROWS = {
    "sqlite": (
        "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < :size - 1)",
        "n",
        "strftime('%Y-%m-%d %H:%M:%S.000000', 1767225600 + i, 'unixepoch')",
        "'{\"vmName\": \"clone-' || i || '\", \"labels\": {\"env\": \"' || CASE i % 2 WHEN 0 THEN 'prod' ELSE 'test' END || '\"}}'",
    ),
    "postgresql": (
        "",
        "generate_series(0, CAST(:size AS INTEGER) - 1) AS n(i)",
        "timestamptz '2026-01-01 00:00:00+00' + i * interval '1 second'",
        "jsonb_build_object('vmName', 'clone-' || i, 'labels', jsonb_build_object('env', CASE i % 2 WHEN 0 THEN 'prod' ELSE 'test' END))",
    ),
}


@contextlib.contextmanager
def database(kind: str, postgres: str) -> Iterator[Engine]:
    """A fresh database, dropped afterwards."""
    if kind == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            engine = make_engine(f"sqlite:///{folder}/db.sqlite3")
            yield engine
            engine.dispose()
        return
    name = f"clonejob_bench_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
        engine = make_engine(f"{postgres.rpartition('/')[0]}/{name}")
        try:
            yield engine
        finally:
            engine.dispose()
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def fill(engine: Engine, size: int) -> None:
    """``size`` ended jobs of one VM."""
    migrate.upgrade(engine)
    with_, rows, moment, details = _ROWS[engine.dialect.name]
    now = "'2026-01-01 00:00:00.000000'"
    statements = (
        f"INSERT INTO sources (name, parent, body, create_time, update_time) VALUES ('{SOURCE}', 'projects/p/locations/l', '{{}}', {now}, {now})",
        f"INSERT INTO migrating_vms (name, parent, body, state, state_time, create_time, update_time) VALUES ('{VM}', '{SOURCE}', '{{}}', 'ACTIVE', {now}, {now}, {now})",
        f"INSERT INTO replication_cycles (name, parent, cycle_number, state, start_time, end_time) VALUES ('{CYCLE}', '{VM}', 1, 'SUCCEEDED', {now}, {now})",
        f"""INSERT INTO clone_jobs (id, name, parent, state, state_time, create_time, end_time, verdict, verdict_time, cycle,
                target, target_details, epoch, current_step, attempts, dispatches, stale_writes, cleanup_attempts)
            {with_} SELECT 'id-' || i, '{VM}/cloneJobs/job-' || i, '{VM}',
                {_STATE.format("SUCCEEDED", "FAILED", "CANCELLED")}, {moment}, {moment}, {moment},
                {_STATE.format("SUCCEED", "FAIL", "CANCEL")}, {moment}, '{CYCLE}', 'simulated', {details}, 1, 2, 0, 0, 0, 0
            FROM {rows}""",
    )
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(sa.text(statement), {"size": size} if ":size" in statement else {})
        connection.execute(sa.text("ANALYZE"))


def measure(
    catalog: Catalog, parent: str, filter_text: str, order_by: str, *, page_size: int, repeats: int
) -> dict[str, float | None]:
    """Median milliseconds of the first page, and of the page after twenty."""

    def page(after: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        found = catalog.list_page(
            CloneJob, parent, limit=page_size + 1, filter_text=filter_text, order_by=order_by, after=after
        )
        return found[page_size - 1].keys if len(found) > page_size else None

    def median_ms(after: tuple[Any, ...] | None) -> float:
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            page(after)
            times.append(time.perf_counter() - start)
        return round(statistics.median(times) * 1000, 2)

    after = page(None)
    first = median_ms(None)
    for _ in range(20):
        after = page(after) if after else None
    return {"first_page_ms": first, "page_22_ms": median_ms(after) if after else None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 1_000_000])
    parser.add_argument("--database", action="append", choices=["sqlite", "postgresql"])
    parser.add_argument("--postgres", default="postgresql://127.0.0.1:5432/postgres")
    parser.add_argument("--page-size", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=30)
    arguments = parser.parse_args()
    figures: dict[str, dict[Any, Any]] = {}
    for kind in arguments.database or ["sqlite", "postgresql"]:
        by_size: dict[int, dict[str, Any]] = {}
        for size in sorted(arguments.sizes):
            with database(kind, arguments.postgres) as engine:
                fill(engine, size)
                catalog = Catalog(engine)
                by_size[size] = {
                    name: measure(catalog, *query, page_size=arguments.page_size, repeats=arguments.repeats)
                    for name, query in QUERIES.items()
                }
        least, most = min(by_size), max(by_size)
        ratios = {
            name: round(by_size[most][name]["first_page_ms"] / by_size[least][name]["first_page_ms"], 2)
            for name in QUERIES
        }
        figures[kind] = {"by_size": by_size, "ratio": ratios}
    print(json.dumps({"page_size": arguments.page_size, "repeats": arguments.repeats, **figures}, indent=2))


if __name__ == "__main__":
    main()
