"""The project of a resource name as the databases compute it: what lists over several parents are indexed by."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import GenericFunction

# They must stand in statements as in the index of migration 0006, constants included: a bound value would hide it.
_SQL = {"postgresql": "split_part({0}, '/', 2)", "sqlite": "substr({0}, 10, instr(substr({0}, 10), '/') - 1)"}


class project_of(GenericFunction[str]):  # noqa: N801  (in statements it reads as a function)
    """``p`` of a column of names such as ``projects/p/locations/l``."""

    type = sa.String()
    inherit_cache = True


@compiles(project_of)
def _compile(element: project_of, compiler: SQLCompiler, **options: Any) -> str:
    (name,) = element.clauses
    return project_sql(compiler.dialect.name, compiler.process(name, **options))


def project_sql(dialect: str, name: str) -> str:
    """The same for a column that is given as SQL."""
    return _SQL[dialect].format(name)
