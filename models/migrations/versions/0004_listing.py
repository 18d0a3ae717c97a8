"""Indexes of lists: any order by creation time, alone or with a state, breaks its ties by name.

On PostgreSQL the name stands in them with collation "C": lists sort text by code points, whatever the database's own
collation is, and only an index in that order saves the sort. Indexes only: older code runs on it unchanged.
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_NAMED = {
    "clone_jobs": (
        ("ix_clone_jobs_parent_create_time", "parent, create_time"),
        ("ix_clone_jobs_parent_state_create_time", "parent, state, create_time"),
    ),
    "operations": (("ix_operations_parent_create_time", "parent, create_time"),),
    "migrating_vms": (("ix_migrating_vms_parent_create_time", "parent, create_time"),),
}
_BEFORE = (
    ("ix_clone_jobs_parent_create_time", "clone_jobs", ["parent", "create_time", "id"]),
    ("ix_operations_parent_create_time", "operations", ["parent", "create_time", "name"]),
    ("ix_migrating_vms_parent", "migrating_vms", ["parent"]),
)


def upgrade() -> None:
    for index, table, _ in _BEFORE:
        op.drop_index(index, table_name=table)
    collation = ' COLLATE "C"' if op.get_bind().dialect.name == "postgresql" else ""
    for table, indexes in _NAMED.items():
        for index, columns in indexes:
            op.execute(f"CREATE INDEX {index} ON {table} ({columns}, name{collation})")


def downgrade() -> None:
    for table, indexes in _NAMED.items():
        for index, _ in indexes:
            op.drop_index(index, table_name=table)
    for index, table, columns in _BEFORE:
        op.create_index(index, table, columns)
