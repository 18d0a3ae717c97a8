"""Alembic's environment: always online, always on the engine that ``models.migrate`` hands over."""

import sqlalchemy as sa
from alembic import context

import models.boot_proofs
import models.orphans  # noqa: F401 - all tables: with access, these import them
from models.access import Base
from models.db import UtcDateTime

_ADVISORY_LOCK = 0x636C6F6E  # "clon": two processes that upgrade at once take turns


def _render_item(kind: str, item: object, _context: object) -> str | bool:
    return "UtcDateTime()" if kind == "type" and isinstance(item, UtcDateTime) else False


def _include_name(name: str | None, kind: str, _parents: object) -> bool:
    """Indexes on expressions stand in migrations alone: SQLite does not tell about them."""
    return not (kind == "index" and (name or "").endswith("_project_create_time"))


engine = context.config.attributes["engine"]
with engine.connect() as connection:
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT pg_advisory_lock(:key)"), {"key": _ADVISORY_LOCK})
        connection.commit()
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        compare_server_default=True,
        user_module_prefix="",
        render_item=_render_item,
        include_name=_include_name,
    )
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT pg_advisory_unlock(:key)"), {"key": _ADVISORY_LOCK})
        connection.commit()
