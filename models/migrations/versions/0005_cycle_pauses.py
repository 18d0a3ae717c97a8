"""How long a replication cycle was paused. Additions only: code of revision 0004 runs on it unchanged."""

import sqlalchemy as sa
from alembic import op

from models.db import UtcDateTime

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("replication_cycles", sa.Column("pause_time", UtcDateTime(), nullable=True))
    op.add_column("replication_cycles", sa.Column("paused_us", sa.BigInteger(), server_default="0", nullable=False))


def downgrade() -> None:
    op.drop_column("replication_cycles", "paused_us")
    op.drop_column("replication_cycles", "pause_time")
