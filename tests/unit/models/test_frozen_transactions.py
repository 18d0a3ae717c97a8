"""A process that is frozen in the middle of a transaction keeps nobody waiting for longer than the server allows."""

import pytest
import sqlalchemy as sa
from conftest import postgres_database
from sqlalchemy.exc import DBAPIError, OperationalError

from api.errors import from_exception
from models.db import make_engine

BACKGROUND = "-c idle_in_transaction_session_timeout={idle} -c lock_timeout={lock}"


@pytest.fixture
def engines(postgres_template):
    """Two processes' engines on one PostgreSQL, whose times the test sets in the URL, as an operator may."""
    made = []

    def two(**times):
        url = sa.make_url(next(databases)).update_query_dict({"options": BACKGROUND.format(**times)})
        made.extend(make_engine(url.render_as_string(hide_password=False)) for _ in range(2))
        return made

    databases = postgres_database(postgres_template)
    yield two
    for engine in made:
        engine.dispose()
    databases.close()


WRITE = sa.text("UPDATE reconciler_lease SET owner = :owner")


def test_the_server_ends_a_session_that_stands_still(engines):
    frozen, other = engines(idle="300ms", lock="60s")
    with frozen.connect() as held:
        held.execute(WRITE, {"owner": "frozen"})
        with other.begin() as connection:  # waits until the lock is gone
            connection.execute(WRITE, {"owner": "other"})
        with pytest.raises(DBAPIError) as error:
            held.commit()
            held.execute(sa.text("SELECT 1"))
    assert "DATABASE_UNAVAILABLE" in str(from_exception(error.value))
    with other.connect() as connection:
        assert connection.scalar(sa.text("SELECT owner FROM reconciler_lease")) == "other"


def test_who_waits_for_a_lock_gets_an_answer(engines):
    frozen, other = engines(idle="60s", lock="300ms")
    with frozen.connect() as held:
        held.execute(WRITE, {"owner": "frozen"})
        with pytest.raises(OperationalError) as error, other.begin() as connection:
            connection.execute(WRITE, {"owner": "other"})
    assert "DATABASE_UNAVAILABLE" in str(from_exception(error.value))


def test_the_defaults_are_set(engines):
    engine = make_engine(
        str(engines(idle="1s", lock="1s")[0].url.update_query_dict({}).difference_update_query(["options"]))
    )
    with engine.connect() as connection:
        shown = [
            connection.scalar(sa.text(f"SHOW {name}"))
            for name in ("idle_in_transaction_session_timeout", "lock_timeout")
        ]
    engine.dispose()
    assert shown == ["10s", "20s"]
