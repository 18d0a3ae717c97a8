"""Indexes of lists over several parents (``sources/-/migratingVms/-``): newest first within a project, ties by name.

The project is an expression of the parent's name, and not a column, so that older code writes it unawares; for the same
reason the indexes stand here alone and not in the models. SQLite forgets them when Alembic copies a table
(``batch_alter_table``): a migration that does so has to create them again.
"""

from alembic import op

from models.projects import project_sql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_TABLES = ("clone_jobs", "migrating_vms")


def upgrade() -> None:
    dialect = op.get_bind().dialect.name
    collation = ' COLLATE "C"' if dialect == "postgresql" else ""
    for table in _TABLES:
        op.execute(
            f"CREATE INDEX ix_{table}_project_create_time ON {table}"
            f" (({project_sql(dialect, 'parent')}), create_time, name{collation})"
        )


def downgrade() -> None:
    for table in _TABLES:
        op.execute(f"DROP INDEX ix_{table}_project_create_time")
