"""Statements that many calls begin with: compiled once, run on the driver's own cursor.

SQLAlchemy's compiled cache, execution context and ORM cost five times what the driver does for a row by its name. Here
the statement is still SQLAlchemy's, and so are its types and its pool; only what it does anew for each execution is left
out. There is no BEGIN and no COMMIT around it: one statement is a transaction by itself on both databases.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Engine

Row = Sequence[Any]
_Processors = list[tuple[int, Callable[[Any], Any]]]


class Prepared:
    """A statement with parameters that the driver takes as they are: texts, numbers, times in UTC on PostgreSQL."""

    def __init__(self, statement: sa.Select[Any]) -> None:
        self._statement = statement
        self._compiled: weakref.WeakKeyDictionary[sa.Dialect, _Compiled] = weakref.WeakKeyDictionary()

    def compiled(self, dialect: sa.Dialect) -> _Compiled:
        """The statement as this dialect writes it."""
        compiled = self._compiled.get(dialect)
        if compiled is None:
            compiled = self._compiled[dialect] = _Compiled(self._statement, dialect)
        return compiled

    def rows(self, engine: Engine, **parameters: Any) -> list[Row]:
        """The rows, each a sequence of the columns' Python values. Raises what SQLAlchemy raises."""
        compiled = self.compiled(engine.dialect)
        connection = engine.raw_connection()
        try:
            driver = connection.driver_connection
            assert driver is not None
            try:
                return compiled.run(driver, parameters)
            except compiled.error as error:
                lost = engine.dialect.is_disconnect(error, driver, None)  # type: ignore[arg-type]
                if lost:
                    connection.invalidate(error)
                    engine.dispose()  # what else lies there was lost with it, most likely
                raise sa.exc.DBAPIError.instance(
                    compiled.text, None, error, compiled.error, connection_invalidated=lost, dialect=engine.dialect
                ) from error
        finally:
            connection.close()


class PreparedIn:
    """A statement for the rows whose column has one of several values, with one text for any number of them.

    SQLAlchemy's expanding IN makes another text for each number of values, which the server would plan each time.
    """

    def __init__(self, statement: sa.Select[Any], column: Any) -> None:
        array = sa.bindparam("values", type_=postgresql.ARRAY(sa.String()))
        each = sa.func.json_each(sa.bindparam("values", type_=sa.String())).table_valued("value")
        self._array = Prepared(statement.where(column == sa.any_(array)))
        self._json = Prepared(statement.where(column.in_(sa.select(each.c.value))))

    def rows(self, engine: Engine, values: Collection[str]) -> list[Row]:
        """As ``Prepared.rows``."""
        if engine.dialect.name == "postgresql":
            return self._array.rows(engine, values=list(values))
        return self._json.rows(engine, values=json.dumps(list(values)))

    def numbered(self, engine: Engine) -> tuple[str, Callable[[Row], Row]]:
        """For PostgreSQL: the text with ``$1`` for the array of values, as libpq takes it, and what makes a row of
        Python's values of what psycopg reads."""
        dialect = type(engine.dialect)(dbapi=engine.dialect.dbapi, paramstyle="numeric_dollar")  # type: ignore[call-arg]
        compiled = self._array.compiled(dialect)
        return compiled.text, compiled.converted


class _Compiled:
    def __init__(self, statement: sa.Select[Any], dialect: sa.Dialect) -> None:
        compiled = statement.compile(dialect=dialect)
        self.text = str(compiled)
        self.error: type[Exception] = dialect.loaded_dbapi.Error
        self._order: Sequence[str] | None = compiled.positiontup if compiled.positional else None
        self._constants = {name: _bound(compiled.binds[name], dialect) for name, value in compiled.params.items()
                           if value is not None}  # fmt: skip
        self._autocommit = dialect.name == "postgresql"
        types = [column.type.dialect_impl(dialect) for column in statement.selected_columns]
        found = ((at, each.result_processor(dialect, None)) for at, each in enumerate(types))
        self._processors: _Processors = [(at, process) for at, process in found if process is not None]

    def run(self, driver: Any, parameters: dict[str, Any]) -> list[Row]:
        if self._constants:
            parameters = self._constants | parameters
        values: Any = parameters if self._order is None else [parameters[name] for name in self._order]
        if self._autocommit:
            driver.autocommit = True
        cursor = driver.cursor()
        try:
            cursor.execute(self.text, values)
            rows = cursor.fetchall()
        finally:
            cursor.close()
            if self._autocommit and not driver.closed:
                driver.autocommit = False
        return [self.converted(row) for row in rows]

    def converted(self, row: Row) -> Row:
        """The row with Python's values where the driver has others."""
        values = list(row)
        for at, process in self._processors:
            values[at] = process(values[at])
        return values


def _bound(constant: sa.BindParameter[Any], dialect: sa.Dialect) -> Any:
    """A constant of the statement as the driver takes it."""
    process = constant.type.dialect_impl(dialect).bind_processor(dialect)
    return constant.value if process is None else process(constant.value)
