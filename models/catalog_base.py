"""What the catalog's reads and writes share: sessions, the clock, and what a write may be refused for."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session, sessionmaker

from models import operations
from models.db import read_only
from models.io_points import io_point
from models.operations import NewOperation
from models.schema import Operation
from models.store import Clock, utc_now


class ResourceExists(Exception):
    """A resource of that name exists."""


class ParentGone(Exception):
    """The resource that a new one would be part of was deleted meanwhile; ``args[0]`` is its name."""


class TargetGone(Exception):
    """The target project that target defaults are to name does not exist; ``args[0]`` is its name."""


class InUse(Exception):
    """Something else needs the resource; ``args[0]`` is its name, or how many there are."""


class JobRunning(InUse):
    """The VM has a running clone job; ``args[0]`` is its name."""


class CycleChanged(Exception):
    """A disk was recorded since the caller looked."""


class CycleClosed(Exception):
    """The cycle is not RUNNING any more; ``args[0]`` is its state."""


class CycleRunning(InUse):
    """The VM has a replication cycle that has not ended; ``args[0]`` is its name."""


class WrongState(Exception):
    """The VM's state does not allow it; ``args[0]`` is that state."""


class NotExtendable(Exception):
    """The VM's life can be extended from ``opens`` until ``closes`` only."""

    def __init__(self, opens: dt.datetime, closes: dt.datetime) -> None:
        super().__init__(opens, closes)
        self.opens = opens
        self.closes = closes


class CatalogBase:
    """Thread-safe; one instance per process."""

    def __init__(self, engine: Engine, *, clock: Clock = utc_now) -> None:
        self.engine = engine
        self.clock = clock
        self._sessions = sessionmaker(engine, expire_on_commit=False)

    @io_point("catalog.replayed")
    def replayed(self, operation: NewOperation) -> Operation | None:
        """The operation that an earlier request with the same id started. Raises: operations.RequestIdReused."""
        if not operation.request_id:
            return None
        with self._reader() as session:
            return operations.replayed(session, operation)

    @contextmanager
    def _reader(self) -> Iterator[Session]:
        with self.engine.connect().execution_options(**read_only(self.engine.dialect.name)) as connection:
            with Session(connection, expire_on_commit=False) as session:
                yield session
