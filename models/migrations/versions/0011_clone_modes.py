"""How a target project's clones get their disks; null: as its target is configured.

Code of revision 0010 runs on it unchanged.
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("target_projects", sa.Column("clone_mode", sa.String(), nullable=True))


def downgrade() -> None:
    op.drop_column("target_projects", "clone_mode")
