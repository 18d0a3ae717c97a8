"""Fixtures that every test may use. A missing service skips on a laptop and fails in CI."""

from __future__ import annotations

import os
import uuid

import psycopg
import pytest
from hypothesis import settings
from harness import World, prepare

from models.db import make_engine

POSTGRES = os.environ.get("CLONEJOB_TEST_POSTGRES_URL", "postgresql://127.0.0.1:5432/postgres")

# The same examples at every run in CI, so that a change is judged by itself; a laptop looks at new ones each time.
settings.register_profile("fixed", derandomize=True, database=None)
if os.environ.get("CI") == "true":
    settings.load_profile("fixed")


def missing(what: str) -> None:
    """Skip on a laptop, fail in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what}: needed in CI")
    pytest.skip(what)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request, tmp_path):
    """A fresh database of each kind; the PostgreSQL one is dropped again."""
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
