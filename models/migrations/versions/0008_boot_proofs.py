"""What the clones of a VM have shown of its snapshots: whether they boot. Additions only: code of revision 0007 runs on it
unchanged, and its workers write no row.

A row is of a job and not of a cycle, so that it goes where its job goes (``models/store/graveyard.py`` renames cycles).
"""

import sqlalchemy as sa
from alembic import op

from models.db import UtcDateTime

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "boot_proofs",
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("verdict", sa.String(), nullable=False),
        sa.Column("time", UtcDateTime(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=True),
        sa.Column("console_sha256", sa.String(), nullable=True),
        sa.Column("screen_sha256", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_boot_proofs")),
        sa.ForeignKeyConstraint(["job_id"], ["clone_jobs.id"], name=op.f("fk_boot_proofs_job_id")),
    )


def downgrade() -> None:
    op.drop_table("boot_proofs")
