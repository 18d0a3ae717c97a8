"""Fixtures that every test may use. A missing service skips on a laptop and fails in CI."""

from __future__ import annotations

import gc
import os
import pathlib
import uuid

import psycopg
import pytest
from harness import World, prepare
from hypothesis import settings
from psycopg.types.json import Json

from models.db import make_engine

POSTGRES = os.environ.get("CLONEJOB_TEST_POSTGRES_URL", "postgresql://127.0.0.1:5432/postgres")

# The same examples at every run in CI, so that a change is judged by itself; a laptop looks at new ones each time.
settings.register_profile("fixed", derandomize=True, database=None)
if os.environ.get("CI") == "true":
    settings.load_profile("fixed")

# The files that take longest, the longest first, by seconds: none of them may be what everybody waits for at the end.
LONG = (
    "process/test_worker_killed.py", "clients/test_scenarios.py", "contract/test_target.py", "unit/test_benchmarks.py",
    "guarantee/test_matrix.py", "process/test_broker_and_api_killed.py", "process/test_service_ends.py",
    "unit/tasks/test_io_points.py", "process/test_adding_a_target.py", "guarantee/test_chaos.py",
    "guarantee/test_model.py", "process/test_own_servers.py", "api/test_openapi.py", "api/test_fuzz.py",
    "unit/filters/test_meaning.py", "contract/test_ec2_jobs.py", "unit/tasks/test_execution.py",
    "unit/tasks/test_lists.py", "unit/tasks/test_vm_life.py", "guarantee/test_auditor_races.py",
)  # fmt: skip


@pytest.hookimpl(trylast=True)  # after pytest-randomly, whose order stays within a file and among the short ones
def pytest_collection_modifyitems(items):
    """Long files first."""
    here = pathlib.Path(__file__).parent
    ranks = {here / name: rank for rank, name in enumerate(LONG)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


def pytest_collection_finish():
    """Thousands of tests are in memory to the end: unless told so, the garbage collector walks through them again and
    again, which is a third of what the tests compute."""
    gc.collect()
    gc.freeze()


def missing(what: str) -> None:
    """Skip on a laptop, fail in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what}: needed in CI")
    pytest.skip(what)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request, tmp_path):
    """A migrated database of each kind without rows; the SQLite one is a file that is not there yet."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/db.sqlite3"
        return
    database = request.getfixturevalue("reused_postgres")
    yield database.url
    database.clear()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url_of_its_own(request, tmp_path):
    """The same for a test that changes the schema or the planner's statistics."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/db.sqlite3"
        return
    yield from postgres_database(request.getfixturevalue("postgres_template"))


@pytest.fixture(scope="session")
def postgres_template():
    """A migrated database that fresh ones are copied from."""
    for url in postgres_database():
        engine = make_engine(url)
        prepare(engine)
        engine.dispose()
        yield url.rpartition("/")[2]


@pytest.fixture(scope="session")
def reused_postgres(postgres_template):
    """One database for all tests of a process: emptying it takes 2 ms, making one and dropping it 40."""
    for url in postgres_database(postgres_template):
        yield ReusedDatabase(url)


class ReusedDatabase:
    """Rows go, what the migrations put in comes back; whoever is still connected is not any more."""

    def __init__(self, url: str) -> None:
        self.url = url
        with psycopg.connect(url, autocommit=True) as connection:
            # No test survives a power cut.
            connection.execute(f"ALTER DATABASE {url.rpartition('/')[2]} SET synchronous_commit = off")
            found = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
            self._tables = [name for (name,) in found]
            self._first = {table: rows for table in self._tables
                           if (rows := connection.execute(f"SELECT to_json(t) FROM {table} t").fetchall())}  # fmt: skip

    def clear(self) -> None:
        """Make it what it was."""
        with psycopg.connect(self.url) as connection:
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                               "WHERE datname = current_database() AND pid <> pg_backend_pid()")  # fmt: skip
            (is_superuser,) = connection.execute("SELECT usesuper FROM pg_user WHERE usename = current_user").fetchone()
            if is_superuser:  # without triggers and foreign keys: ours forbid to delete what a succeeded job keeps
                connection.execute("SET LOCAL session_replication_role = replica")
                for table in self._tables:
                    connection.execute(f"DELETE FROM {table}")
            else:  # asks no trigger either, and takes ten times as long
                connection.execute(f"TRUNCATE {', '.join(self._tables)} CASCADE")
            for table, found in self._first.items():
                rows = Json([row for (row,) in found])
                connection.execute(
                    f"INSERT INTO {table} SELECT * FROM json_populate_recordset(NULL::{table}, %s)", [rows]
                )


def postgres_database(template: str = "template1"):
    """The URL of a database of its own, dropped at the end."""
    name = f"clonejob_test_{uuid.uuid4().hex[:12]}"
    try:
        admin = psycopg.connect(POSTGRES, autocommit=True, connect_timeout=3)
    except psycopg.OperationalError as error:
        missing(f"no PostgreSQL at {POSTGRES} ({error}); name one with CLONEJOB_TEST_POSTGRES_URL")
    with admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield f"{POSTGRES.rpartition('/')[0]}/{name}"
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    admin.close()


@pytest.fixture
def world(tmp_path, database_url):
    """A service on both databases with one VM ``web-1`` that can be cloned."""
    world = World(tmp_path, database_url)
    world.set_up()
    yield world
    world.close()


@pytest.fixture
def light(tmp_path):
    """The same on SQLite alone, for what does not depend on the database."""
    world = World(tmp_path)
    world.set_up()
    yield world
    world.close()
