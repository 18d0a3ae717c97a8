"""Reads in the event loop's own thread, for the one call that everybody polls.

A read that is handed to a thread and back costs a process of two cores more than the read itself: the threads hand the
interpreter over four times. Here libpq's non-blocking calls do it in the loop: a prepared statement goes out, and the
loop is told when the answer is there. This is a short cut and no more: whenever it cannot answer at once, it says so,
and the caller goes the ordinary way, which knows what to make of every error.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import adapt, pq
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

from models import io_points
from models.prepared import PreparedIn, Row

_HANGS_S = 1.0  # then the connection is given up; the ordinary way has its own patience
_AGAIN_S = 1.0  # between two attempts to connect


@dataclass(frozen=True, slots=True)
class Answer:
    """``connection``: the number of the connection that it came by, of this process."""

    rows: list[Row]
    connection: int


class LoopReads:
    """A few statements on one PostgreSQL connection; on SQLite it never answers. Belongs to the loop it is made in.

    While a hook is installed at the I/O points it does not answer either: a hook may block, and must not block a loop.
    """

    def __init__(self, engine: Engine, statements: Sequence[PreparedIn], *, point: str) -> None:
        self._engine = engine
        self._statements = statements
        self._point = point
        self._loop = asyncio.get_running_loop()
        self._usable = engine.dialect.name == "postgresql"
        self._held: _Held | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._next_attempt = 0.0
        self._waiting: asyncio.Future[list[Row] | None] | None = None
        self._connection = 0

    async def answer(self, values: Collection[str], statement: int = 0) -> Answer | None:
        """That statement's rows for these values; None if that is not possible now."""
        if not self._usable or io_points.has_hook() or self._waiting is not None:
            return None
        if self._held is None:
            self._connect()
            return None
        connection = self._connection
        waiting = self._waiting = self._loop.create_future()
        timer = self._loop.call_later(_HANGS_S, self._drop)
        try:
            self._held.send(list(values), statement)
        except psycopg.Error:
            self._drop()
        try:
            rows = await waiting
            return None if rows is None else Answer(rows, connection)
        finally:
            timer.cancel()
            self._waiting = None

    async def close(self) -> None:
        """Give the connection up; it never answers again."""
        self._usable = False
        self._drop()
        if self._connecting is not None:
            await asyncio.wait([self._connecting])
        self._drop()

    def _connect(self) -> None:
        if self._connecting is None and time.monotonic() >= self._next_attempt:
            self._next_attempt = time.monotonic() + _AGAIN_S
            self._connecting = self._loop.create_task(self._connected())

    async def _connected(self) -> None:
        try:
            held = await asyncio.to_thread(io_points.call, self._point, _Held, self._engine, self._statements)
        except (SQLAlchemyError, psycopg.Error, OSError):
            return  # the ordinary way meets the same error, and tells of it
        finally:
            self._connecting = None
        if not self._usable:
            held.close()
            return
        self._held = held
        self._connection += 1
        self._loop.add_reader(held.fileno, self._readable)

    def _readable(self) -> None:
        assert self._held is not None
        try:
            rows = self._held.receive()
        except psycopg.Error:
            self._drop()
            return
        if rows is not None and self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(rows)

    def _drop(self) -> None:
        """The connection has failed, hangs, or is not needed any more: whoever waits goes the ordinary way."""
        held, self._held = self._held, None
        if held is not None:
            self._loop.remove_reader(held.fileno)
            held.close()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


class _Held:
    """A connection that has left the pool, with the statements prepared on it."""

    def __init__(self, engine: Engine, statements: Sequence[PreparedIn]) -> None:
        numbered = [statement.numbered(engine) for statement in statements]
        pooled = engine.raw_connection()
        driver: Any = pooled.driver_connection
        pooled.detach()
        self._driver = driver
        self._pgconn: pq.abc.PGconn = driver.pgconn
        self._adapt = adapt.Transformer(driver)
        # A statement is planned once for the life of the connection. Planned while the tables are small it would read
        # them whole, and go on to until they are analysed again: at 2,000 jobs that took longer than all else of a call.
        self._pgconn.exec_(b"SET enable_seqscan = off")
        for number, (text, _) in enumerate(numbered):
            prepared = self._pgconn.prepare(_name(number), text.encode())  # without a transaction around it
            if prepared.status != pq.ExecStatus.COMMAND_OK:
                self.close()
                raise psycopg.OperationalError("the statement could not be prepared")
        self._converters = [convert for _, convert in numbered]
        self._convert = self._converters[0]
        self._pgconn.nonblocking = 1
        self.fileno = self._pgconn.socket
        self._result: pq.abc.PGresult | None = None

    def send(self, values: list[str], statement: int) -> None:
        """Raises: psycopg.Error."""
        self._convert = self._converters[statement]
        [array] = self._adapt.dump_sequence([values], [adapt.PyFormat.TEXT])
        self._pgconn.send_query_prepared(_name(statement), [array])
        if self._pgconn.flush():
            raise psycopg.OperationalError("the question does not fit into the socket")

    def receive(self) -> list[Row] | None:
        """The rows, once they are all there. Raises: psycopg.Error."""
        self._pgconn.consume_input()
        while not self._pgconn.is_busy():
            result = self._pgconn.get_result()
            if result is not None:
                self._result = result
                continue
            whole, self._result = self._result, None
            if whole is None:
                return None  # a notice, or nothing
            if whole.status != pq.ExecStatus.TUPLES_OK:
                raise psycopg.OperationalError("the statement failed")
            self._adapt.set_pgresult(whole)
            return [self._convert(row) for row in self._adapt.load_rows(0, whole.ntuples, tuple)]
        return None

    def close(self) -> None:
        """The server is told if it can be; nothing is waited for."""
        self._driver.close()


def _name(statement: int) -> bytes:
    return b"loop_read_%d" % statement
