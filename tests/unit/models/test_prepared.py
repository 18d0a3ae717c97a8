"""Statements on the driver's own cursor: the same rows, and the same errors, as through SQLAlchemy."""

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, OperationalError, SQLAlchemyError

from models.prepared import Prepared
from models.schema import CloneJob, MigratingVm

_NAMES = Prepared(sa.select(MigratingVm.name).where(MigratingVm.name == sa.bindparam("name")))


def test_the_rows_are_those_that_sqlalchemy_reads(world):
    job = world.create()
    world.run()
    columns = tuple(CloneJob.__table__.columns)
    query = sa.select(*columns).where(CloneJob.id == sa.bindparam("id"))
    with world.engine.connect() as connection:
        expected = [list(row) for row in connection.execute(query, {"id": job.id})]
    assert Prepared(query).rows(world.engine, id=job.id) == expected
    assert [type(value) for value in expected[0]].count(type(job.state)) == 1  # enums and times are Python's


def test_nothing_is_left_open(world):
    for _ in range(3):
        assert _NAMES.rows(world.engine, name="nobody") == []
    with world.engine.begin() as connection:  # a transaction as ever, on the same connection
        connection.execute(sa.update(MigratingVm).values(extension_count=7))
        connection.rollback()
    with world.engine.connect() as connection:
        assert connection.scalars(sa.select(MigratingVm.extension_count)).all() == [0]
    assert world.engine.pool.checkedout() == 0


def test_an_error_is_sqlalchemys_and_the_connection_is_good_again(world):
    broken = Prepared(sa.select(sa.column("nobody_has_it")).select_from(sa.table("migrating_vms")))
    with pytest.raises(SQLAlchemyError, match="nobody_has_it"):
        broken.rows(world.engine)
    assert len(_NAMES.rows(world.engine, name=world.job(world.create().id).parent)) == 1
    assert world.engine.pool.checkedout() == 0


@pytest.fixture
def postgres(world):
    if world.engine.dialect.name != "postgresql":
        pytest.skip("a server that ends connections")
    return world


def test_connections_that_the_server_has_ended_cost_one_error(postgres):
    engine = postgres.engine
    held = [engine.connect() for _ in range(3)]
    for connection in held:
        connection.close()
    other = sa.create_engine(engine.url, isolation_level="AUTOCOMMIT")
    with other.connect() as connection:
        connection.execute(
            sa.text(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid != pg_backend_pid()"
            )
        ).all()
    other.dispose()
    with pytest.raises(OperationalError) as error:
        _NAMES.rows(engine, name="nobody")
    assert error.value.connection_invalidated
    assert _NAMES.rows(engine, name="nobody") == []


def test_a_conflict_is_an_integrity_error(postgres):
    vm = postgres.create().parent
    copy = sa.text("INSERT INTO migrating_vms SELECT * FROM migrating_vms WHERE name = :name RETURNING name")
    inserted = copy.columns(MigratingVm.name).cte("inserted")
    with pytest.raises(IntegrityError):
        Prepared(sa.select(inserted.c.name)).rows(postgres.engine, name=vm)
