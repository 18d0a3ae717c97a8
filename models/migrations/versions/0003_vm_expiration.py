"""How often a MigratingVm's life was extended. Additions only: code of revision 0002 runs on it unchanged."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("migrating_vms", sa.Column("extension_count", sa.Integer(), server_default="0", nullable=False))
    op.create_index("ix_migrating_vms_state_create_time", "migrating_vms", ["state", "create_time"])


def downgrade() -> None:
    op.drop_index("ix_migrating_vms_state_create_time", table_name="migrating_vms")
    op.drop_column("migrating_vms", "extension_count")
