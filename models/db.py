"""Engines for the two databases that are supported, SQLite (embedded) and PostgreSQL (real).

SQLite runs in WAL mode with ``synchronous=FULL``: a committed intent must survive a power cut, as it does on
PostgreSQL with its defaults. A write transaction starts with BEGIN IMMEDIATE, so that it waits for the one writer at
its start instead of failing in the middle (SQLITE_BUSY cannot be waited out once a read lock is to be upgraded).
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.types import TypeDecorator

READ_ONLY = {"clonejob_read_only": True}
_POOL_SIZE = 24  # every thread of an API process; connections above it are opened and closed again for each call
_BUSY_TIMEOUT_MS = 30_000


class UtcDateTime(TypeDecorator[dt.datetime]):
    """A point in time: aware and in UTC in Python, ``timestamptz`` on PostgreSQL, naive UTC text on SQLite."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: dt.datetime | None, dialect: sa.Dialect) -> dt.datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a time zone cannot be stored")
        value = value.astimezone(dt.UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: dt.datetime | None, dialect: sa.Dialect) -> dt.datetime | None:
        if value is None or value.tzinfo is dt.UTC:  # as the session has it, unless the URL says otherwise
            return value
        return value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value.astimezone(dt.UTC)


# A server that is gone without a word is noticed in half a minute, not when TCP gives up. And a process that is frozen in
# the middle of a transaction holds its locks for 10 s at most, then the server ends its session: our transactions take
# milliseconds, and whoever waits for a lock gets an answer. The URL's own words go first.
_POSTGRES_TIMES: dict[str, Any] = {
    "connect_timeout": "10", "keepalives_idle": "10", "keepalives_interval": "5", "keepalives_count": "3",
    "tcp_user_timeout": "30000", "options": "-c idle_in_transaction_session_timeout=10s -c lock_timeout=20s -c timezone=UTC",
}  # fmt: skip


def make_engine(url: str, *, pool_size: int = _POOL_SIZE, echo: bool = False) -> Engine:
    """An engine for ``sqlite:///path`` or ``postgresql+psycopg://…``.

    Raises: ValueError for any other database.
    """
    parsed = sa.make_url(url)
    backend = parsed.get_backend_name()
    # use_lifo: a backend that has just worked has its plans made and its caches warm; in turns, all would be cold.
    if backend == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
        return sa.create_engine(
            parsed,
            pool_size=pool_size,
            max_overflow=10,
            pool_use_lifo=True,
            echo=echo,
            connect_args=_POSTGRES_TIMES | dict(parsed.query),
        )
    if backend != "sqlite":
        raise ValueError(f"database {backend!r} is not supported; use sqlite:///FILE or postgresql://…")
    engine = sa.create_engine(
        parsed, pool_size=pool_size, max_overflow=10, pool_use_lifo=True, echo=echo, connect_args={"timeout": 30}
    )
    sa.event.listen(engine, "connect", _sqlite_connect)
    sa.event.listen(engine, "begin", _sqlite_begin)
    return engine


def read_only(dialect: str) -> dict[str, Any]:
    """Execution options of a connection that only reads.

    On PostgreSQL without BEGIN and ROLLBACK, half of what a small read costs: at READ COMMITTED every statement has a
    snapshot of its own anyway. On SQLite in a transaction, whose statements all see the same.
    """
    return {"isolation_level": "AUTOCOMMIT", **READ_ONLY} if dialect == "postgresql" else READ_ONLY


def _sqlite_connect(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves, see _sqlite_begin
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _sqlite_begin(connection: Connection) -> None:
    read_only = connection.get_execution_options().get("clonejob_read_only", False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
