"""What the auditor remembers of orphans, and its lease. Additions only: code of revision 0006 runs on it unchanged."""

import sqlalchemy as sa
from alembic import op

from models.db import UtcDateTime

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# The last word before the auditor deletes anything, as the guards of revision 0001 have it for clean-up.
_REFUSED = (
    "NEW.deleting_time IS NOT NULL AND NOT EXISTS (SELECT 1 FROM clone_jobs JOIN ledger ON ledger.job_id = clone_jobs.id"
    " WHERE clone_jobs.id = NEW.job_id AND clone_jobs.target = NEW.target AND clone_jobs.verdict IN ('FAIL', 'CANCEL')"
    " AND clone_jobs.end_time IS NOT NULL AND ledger.kind = NEW.kind AND ledger.name = NEW.name"
    " AND ledger.state = 'ABSENT')"
)
_MESSAGE = "clonejob guard: only what a failed or cancelled job left behind is deleted"


def upgrade() -> None:
    op.create_table(
        "orphan_sightings",
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("uid", sa.String(), nullable=False),
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("first_seen", UtcDateTime(), nullable=False),
        sa.Column("last_seen", UtcDateTime(), nullable=False),
        sa.Column("good_inventories", sa.Integer(), nullable=False),
        sa.Column("deleting_time", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("target", "kind", "name", "uid", name=op.f("pk_orphan_sightings")),
    )
    op.execute("INSERT INTO reconciler_lease (id, owner, expires_at) VALUES (2, NULL, '1970-01-01 00:00:00.000000')")
    if op.get_bind().dialect.name == "sqlite":
        for event in ("INSERT", "UPDATE"):
            op.execute(
                f"CREATE TRIGGER guard_orphan_sightings_{event.lower()} BEFORE {event} ON orphan_sightings"
                f" WHEN {_REFUSED} BEGIN SELECT RAISE(ABORT, '{_MESSAGE}'); END"
            )
        return
    op.execute(
        "CREATE FUNCTION guard_orphan_sightings() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" IF {_REFUSED} THEN RAISE EXCEPTION '{_MESSAGE}' USING ERRCODE = 'check_violation'; END IF;"
        " RETURN NEW; END $$"
    )
    op.execute(
        "CREATE TRIGGER guard_orphan_sightings BEFORE INSERT OR UPDATE ON orphan_sightings"
        " FOR EACH ROW EXECUTE FUNCTION guard_orphan_sightings()"
    )


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TRIGGER guard_orphan_sightings_insert")
        op.execute("DROP TRIGGER guard_orphan_sightings_update")
    else:
        op.execute("DROP TRIGGER guard_orphan_sightings ON orphan_sightings")
        op.execute("DROP FUNCTION guard_orphan_sightings()")
    op.execute("DELETE FROM reconciler_lease WHERE id = 2")
    op.drop_table("orphan_sightings")
