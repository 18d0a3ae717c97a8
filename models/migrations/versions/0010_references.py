"""Disks by reference: several cycles may name one snapshot of a provider; files stay each their own.

Code of revision 0009 runs on it unchanged.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_FILES = sa.text("format != 'reference'")


def upgrade() -> None:
    with op.batch_alter_table("snapshots", reflect_kwargs={"resolve_fks": False}) as table:
        table.drop_constraint(op.f("uq_snapshots_store_key"), type_="unique")
    op.create_index(
        "uq_snapshots_file", "snapshots", ["store_key"], unique=True, sqlite_where=_FILES, postgresql_where=_FILES
    )


def downgrade() -> None:
    """Fails while two cycles name the same snapshot: which one should go is not for a migration to say."""
    op.drop_index("uq_snapshots_file", "snapshots")
    with op.batch_alter_table("snapshots", reflect_kwargs={"resolve_fks": False}) as table:
        table.create_unique_constraint(op.f("uq_snapshots_store_key"), ["store_key"])
