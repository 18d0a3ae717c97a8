"""When a cycle's snapshots were pruned: no job pins it any more. An addition only: code of revision 0008 runs on it."""

import sqlalchemy as sa
from alembic import op

from models.db import UtcDateTime

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("replication_cycles", sa.Column("pruned_time", UtcDateTime(), nullable=True))


def downgrade() -> None:
    op.drop_column("replication_cycles", "pruned_time")
