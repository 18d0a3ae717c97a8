"""One database of each kind for all tests of this folder: a property test puts rows in and takes them out again."""

import contextlib

import pytest
import sqlalchemy as sa
from conftest import postgres_database
from filter_rows import CYCLE, SOURCE, START, VM

from models import migrate
from models.catalog import Catalog
from models.db import make_engine
from models.schema import CloneJob, MigratingVm, ReplicationCycle, Source
from models.states import CycleState, VmState


class Databases:
    """The same rows in both."""

    def __init__(self, urls):
        self.catalogs = []
        for url in urls:
            engine = make_engine(url)
            migrate.upgrade(engine)
            self.catalogs.append(Catalog(engine))

    def fill(self, cls, rows):
        for catalog in self.catalogs:
            with catalog.engine.begin() as connection:
                for each in (CloneJob, ReplicationCycle, MigratingVm, Source):
                    connection.execute(sa.delete(each))
                times = {"create_time": START, "update_time": START}
                connection.execute(sa.insert(Source).values(name=SOURCE, parent="p", body={}, **times))
                if cls is CloneJob:
                    connection.execute(sa.insert(MigratingVm).values(
                        name=VM, parent=SOURCE, body={}, state=VmState.ACTIVE, state_time=START, **times))  # fmt: skip
                    connection.execute(sa.insert(ReplicationCycle).values(
                        name=CYCLE, parent=VM, cycle_number=1, state=CycleState.SUCCEEDED, start_time=START))  # fmt: skip
        self.insert(cls, rows)

    def insert(self, cls, rows):
        for catalog in self.catalogs:
            with catalog.engine.begin() as connection:
                for row in rows:
                    connection.execute(sa.insert(cls).values(**row))

    def delete(self, cls, names):
        for catalog in self.catalogs:
            with catalog.engine.begin() as connection:
                connection.execute(sa.delete(cls).where(cls.name.in_(names)))


@pytest.fixture(scope="module")
def databases(tmp_path_factory):
    """SQLite and PostgreSQL."""
    with contextlib.contextmanager(postgres_database)() as postgres:
        both = Databases([f"sqlite:///{tmp_path_factory.mktemp('db')}/db.sqlite3", postgres])
        yield both
        for catalog in both.catalogs:
            catalog.engine.dispose()
