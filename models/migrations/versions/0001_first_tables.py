"""First tables, and the guards that stand in the database itself."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from models.db import UtcDateTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


# What no code can be trusted with alone: nothing of a succeeded job may be deleted or modified, a
# verdict is never taken back, a terminal job never changes.
_RULES = {
    "ledger": (
        ("OLD.state = 'KEPT' AND NEW.state != 'KEPT'", "a kept resource belongs to the user"),
        (
            "NEW.state != OLD.state AND NEW.state != 'KEPT' AND EXISTS"
            " (SELECT 1 FROM clone_jobs WHERE id = NEW.job_id AND verdict = 'SUCCEED')",
            "the ledger of a succeeded job is closed",
        ),
        (
            "NEW.state = 'KEPT' AND OLD.state != 'KEPT' AND NOT EXISTS"
            " (SELECT 1 FROM clone_jobs WHERE id = NEW.job_id AND verdict = 'SUCCEED')",
            "only a succeeded job keeps resources",
        ),
        (
            "NEW.state = 'DELETING' AND NEW.role = 'product' AND EXISTS"
            " (SELECT 1 FROM clone_jobs WHERE id = NEW.job_id AND verdict IS NULL)",
            "a product is deleted only after the verdict FAIL or CANCEL",
        ),
    ),
    "clone_jobs": (
        ("OLD.verdict IS NOT NULL AND (NEW.verdict IS NULL OR NEW.verdict != OLD.verdict)", "a verdict is set once"),
        ("OLD.end_time IS NOT NULL AND (NEW.end_time IS NULL OR NEW.state != OLD.state)", "a terminal job has ended"),
        ("NEW.epoch < OLD.epoch", "an epoch never goes back"),
    ),
}


def _create_guards() -> None:
    dialect = op.get_bind().dialect.name
    for table, rules in _RULES.items():
        if dialect == "sqlite":
            for number, (condition, message) in enumerate(rules):
                op.execute(
                    f"CREATE TRIGGER guard_{table}_{number} BEFORE UPDATE ON {table} WHEN {condition}"
                    f" BEGIN SELECT RAISE(ABORT, 'clonejob guard: {message}'); END"
                )
            continue
        checks = "".join(
            f" IF {condition} THEN RAISE EXCEPTION 'clonejob guard: {message}' USING ERRCODE = 'check_violation';"
            " END IF;"
            for condition, message in rules
        )
        op.execute(
            f"CREATE FUNCTION guard_{table}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN{checks} RETURN NEW; END $$"
        )
        op.execute(
            f"CREATE TRIGGER guard_{table} BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION guard_{table}()"
        )


def _drop_guards() -> None:
    dialect = op.get_bind().dialect.name
    for table, rules in _RULES.items():
        if dialect == "sqlite":
            for number in range(len(rules)):
                op.execute(f"DROP TRIGGER guard_{table}_{number}")
        else:
            op.execute(f"DROP TRIGGER guard_{table} ON {table}")
            op.execute(f"DROP FUNCTION guard_{table}()")


def upgrade() -> None:
    op.create_table(
        "reconciler_lease",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("owner", sa.String(), nullable=True),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reconciler_lease")),
    )
    op.create_table(
        "sources",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("parent", sa.String(), nullable=False),
        sa.Column(
            "body",
            sa.JSON(none_as_null=True).with_variant(
                postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), "postgresql"
            ),
            nullable=False,
        ),
        sa.Column("create_time", UtcDateTime(), nullable=False),
        sa.Column("update_time", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_sources")),
    )
    op.create_index(op.f("ix_sources_parent"), "sources", ["parent"], unique=False)
    op.create_table(
        "target_projects",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("parent", sa.String(), nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("description", sa.String(), nullable=False),
        sa.Column("create_time", UtcDateTime(), nullable=False),
        sa.Column("update_time", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_target_projects")),
    )
    op.create_index(op.f("ix_target_projects_parent"), "target_projects", ["parent"], unique=False)
    op.create_table(
        "migrating_vms",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("parent", sa.String(), nullable=False),
        sa.Column(
            "body",
            sa.JSON(none_as_null=True).with_variant(
                postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), "postgresql"
            ),
            nullable=False,
        ),
        sa.Column(
            "state",
            sa.Enum(
                "READY", "FIRST_SYNC", "ACTIVE", "PAUSED", "FINALIZED", name="VmState", native_enum=False, length=32
            ),
            nullable=False,
        ),
        sa.Column("state_time", UtcDateTime(), nullable=False),
        sa.Column("create_time", UtcDateTime(), nullable=False),
        sa.Column("update_time", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["parent"], ["sources.name"], name=op.f("fk_migrating_vms_parent")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_migrating_vms")),
    )
    op.create_index(op.f("ix_migrating_vms_parent"), "migrating_vms", ["parent"], unique=False)
    op.create_table(
        "replication_cycles",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("parent", sa.String(), nullable=False),
        sa.Column("cycle_number", sa.Integer(), nullable=False),
        sa.Column(
            "state",
            sa.Enum("RUNNING", "PAUSED", "FAILED", "SUCCEEDED", name="CycleState", native_enum=False, length=32),
            nullable=False,
        ),
        sa.Column(
            "adaptation",
            sa.JSON(none_as_null=True).with_variant(
                postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), "postgresql"
            ),
            nullable=True,
        ),
        sa.Column(
            "error",
            sa.JSON(none_as_null=True).with_variant(
                postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), "postgresql"
            ),
            nullable=True,
        ),
        sa.Column("start_time", UtcDateTime(), nullable=False),
        sa.Column("end_time", UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(["parent"], ["migrating_vms.name"], name=op.f("fk_replication_cycles_parent")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_replication_cycles")),
        sa.UniqueConstraint("parent", "cycle_number", name=op.f("uq_replication_cycles_parent_cycle_number")),
    )
    op.create_index(op.f("ix_replication_cycles_parent"), "replication_cycles", ["parent"], unique=False)
    op.create_table(
        "clone_jobs",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("parent", sa.String(), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "PENDING",
                "ACTIVE",
                "ADAPTING_OS",
                "CANCELLING",
                "SUCCEEDED",
                "FAILED",
                "CANCELLED",
                name="JobState",
                native_enum=False,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("state_time", UtcDateTime(), nullable=False),
        sa.Column("create_time", UtcDateTime(), nullable=False),
        sa.Column("end_time", UtcDateTime(), nullable=True),
        sa.Column(
            "verdict", sa.Enum("SUCCEED", "FAIL", "CANCEL", name="Verdict", native_enum=False, length=32), nullable=True
        ),
        sa.Column("verdict_time", UtcDateTime(), nullable=True),
        sa.Column(
            "error",
            sa.JSON(none_as_null=True).with_variant(
                postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), "postgresql"
            ),
            nullable=True,
        ),
        sa.Column("cycle", sa.String(), nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column(
            "target_details",
            sa.JSON(none_as_null=True).with_variant(
                postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), "postgresql"
            ),
            nullable=False,
        ),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("current_step", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("lease_owner", sa.String(), nullable=True),
        sa.Column("lease_expires_at", UtcDateTime(), nullable=True),
        sa.Column("fence_until", UtcDateTime(), nullable=True),
        sa.Column("next_check_at", UtcDateTime(), nullable=True),
        sa.Column("wake_at", UtcDateTime(), nullable=True),
        sa.Column("dispatches", sa.Integer(), nullable=False),
        sa.Column("stale_writes", sa.Integer(), nullable=False),
        sa.Column("cleanup_start_time", UtcDateTime(), nullable=True),
        sa.Column("cleanup_attempts", sa.Integer(), nullable=False),
        sa.Column("cleanup_detail", sa.String(), nullable=True),
        sa.CheckConstraint(
            "(end_time IS NOT NULL) = (state IN ('SUCCEEDED', 'FAILED', 'CANCELLED'))",
            name=op.f("ck_clone_jobs_end_time_iff_terminal"),
        ),
        sa.CheckConstraint(
            "(state != 'SUCCEEDED' OR COALESCE(verdict, '') = 'SUCCEED') AND (state != 'FAILED' OR COALESCE(verdict, '') = 'FAIL') AND (state NOT IN ('CANCELLING', 'CANCELLED') OR COALESCE(verdict, '') = 'CANCEL')",
            name=op.f("ck_clone_jobs_state_follows_verdict"),
        ),
        sa.CheckConstraint(
            "(wake_at IS NULL) = (end_time IS NOT NULL)", name=op.f("ck_clone_jobs_wake_at_iff_running")
        ),
        sa.ForeignKeyConstraint(["cycle"], ["replication_cycles.name"], name=op.f("fk_clone_jobs_cycle")),
        sa.ForeignKeyConstraint(["parent"], ["migrating_vms.name"], name=op.f("fk_clone_jobs_parent")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_clone_jobs")),
        sa.UniqueConstraint("name", name=op.f("uq_clone_jobs_name")),
    )
    op.create_index("ix_clone_jobs_parent_create_time", "clone_jobs", ["parent", "create_time", "id"], unique=False)
    op.create_index(
        "ix_clone_jobs_wake_at",
        "clone_jobs",
        ["wake_at"],
        unique=False,
        sqlite_where=sa.text("wake_at IS NOT NULL"),
        postgresql_where=sa.text("wake_at IS NOT NULL"),
    )
    op.create_index(
        "uq_clone_jobs_one_running_per_vm",
        "clone_jobs",
        ["parent"],
        unique=True,
        sqlite_where=sa.text("end_time IS NULL"),
        postgresql_where=sa.text("end_time IS NULL"),
    )
    op.create_table(
        "snapshots",
        sa.Column("cycle", sa.String(), nullable=False),
        sa.Column("disk_number", sa.Integer(), nullable=False),
        sa.Column("store_key", sa.String(), nullable=False),
        sa.Column("format", sa.String(), nullable=False),
        sa.Column("virtual_size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("stored_size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("create_time", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["cycle"], ["replication_cycles.name"], name=op.f("fk_snapshots_cycle")),
        sa.PrimaryKeyConstraint("cycle", "disk_number", name=op.f("pk_snapshots")),
        sa.UniqueConstraint("store_key", name=op.f("uq_snapshots_store_key")),
    )
    op.create_table(
        "clone_steps",
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column(
            "kind",
            sa.Enum(
                "adapting_os",
                "preparing_vm_disks",
                "instantiating_migrated_vm",
                name="StepKind",
                native_enum=False,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("start_time", UtcDateTime(), nullable=True),
        sa.Column("end_time", UtcDateTime(), nullable=True),
        sa.Column(
            "progress",
            sa.JSON(none_as_null=True).with_variant(
                postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), "postgresql"
            ),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(["job_id"], ["clone_jobs.id"], name=op.f("fk_clone_steps_job_id")),
        sa.PrimaryKeyConstraint("job_id", "position", name=op.f("pk_clone_steps")),
    )
    op.create_table(
        "job_events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("time", UtcDateTime(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("message", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["clone_jobs.id"], name=op.f("fk_job_events_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job_events")),
    )
    op.create_index(op.f("ix_job_events_job_id"), "job_events", ["job_id"], unique=False)
    op.create_table(
        "ledger",
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column(
            "step",
            sa.Enum(
                "adapting_os",
                "preparing_vm_disks",
                "instantiating_migrated_vm",
                name="StepKind",
                native_enum=False,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("role", sa.Enum("product", "scaffold", name="Role", native_enum=False, length=32), nullable=False),
        sa.Column(
            "spec",
            sa.JSON(none_as_null=True).with_variant(
                postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), "postgresql"
            ),
            nullable=False,
        ),
        sa.Column(
            "state",
            sa.Enum(
                "PLANNED",
                "INTENDED",
                "CREATED",
                "KEPT",
                "DELETING",
                "ABSENT",
                name="LedgerState",
                native_enum=False,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("uid", sa.String(), nullable=True),
        sa.Column("detail", sa.String(), nullable=True),
        sa.Column("intended_time", UtcDateTime(), nullable=True),
        sa.Column("created_time", UtcDateTime(), nullable=True),
        sa.Column("deleting_time", UtcDateTime(), nullable=True),
        sa.Column("absent_time", UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["clone_jobs.id"], name=op.f("fk_ledger_job_id")),
        sa.PrimaryKeyConstraint("job_id", "position", name=op.f("pk_ledger")),
        sa.UniqueConstraint("job_id", "kind", "name", name=op.f("uq_ledger_job_id_kind_name")),
    )
    op.create_table(
        "operations",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("parent", sa.String(), nullable=False),
        sa.Column("verb", sa.String(), nullable=False),
        sa.Column("method", sa.String(), nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("job_id", sa.String(), nullable=True),
        sa.Column("create_time", UtcDateTime(), nullable=False),
        sa.Column("end_time", UtcDateTime(), nullable=True),
        sa.Column("requested_cancellation", sa.Boolean(), nullable=False),
        sa.Column(
            "error",
            sa.JSON(none_as_null=True).with_variant(
                postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), "postgresql"
            ),
            nullable=True,
        ),
        sa.Column("request_scope", sa.String(), nullable=False),
        sa.Column("request_id", sa.String(), nullable=True),
        sa.Column("request_hash", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["clone_jobs.id"], name=op.f("fk_operations_job_id")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_operations")),
    )
    op.create_index(op.f("ix_operations_job_id"), "operations", ["job_id"], unique=False)
    op.create_index("ix_operations_parent_create_time", "operations", ["parent", "create_time", "name"], unique=False)
    op.create_index(
        "uq_operations_request",
        "operations",
        ["request_scope", "request_id"],
        unique=True,
        sqlite_where=sa.text("request_id IS NOT NULL"),
        postgresql_where=sa.text("request_id IS NOT NULL"),
    )
    op.execute("INSERT INTO reconciler_lease (id, owner, expires_at) VALUES (1, NULL, '1970-01-01 00:00:00.000000')")
    _create_guards()


def downgrade() -> None:
    _drop_guards()
    op.drop_index(
        "uq_operations_request",
        table_name="operations",
        sqlite_where=sa.text("request_id IS NOT NULL"),
        postgresql_where=sa.text("request_id IS NOT NULL"),
    )
    op.drop_index("ix_operations_parent_create_time", table_name="operations")
    op.drop_index(op.f("ix_operations_job_id"), table_name="operations")
    op.drop_table("operations")
    op.drop_table("ledger")
    op.drop_index(op.f("ix_job_events_job_id"), table_name="job_events")
    op.drop_table("job_events")
    op.drop_table("clone_steps")
    op.drop_table("snapshots")
    op.drop_index(
        "uq_clone_jobs_one_running_per_vm",
        table_name="clone_jobs",
        sqlite_where=sa.text("end_time IS NULL"),
        postgresql_where=sa.text("end_time IS NULL"),
    )
    op.drop_index(
        "ix_clone_jobs_wake_at",
        table_name="clone_jobs",
        sqlite_where=sa.text("wake_at IS NOT NULL"),
        postgresql_where=sa.text("wake_at IS NOT NULL"),
    )
    op.drop_index("ix_clone_jobs_parent_create_time", table_name="clone_jobs")
    op.drop_table("clone_jobs")
    op.drop_index(op.f("ix_replication_cycles_parent"), table_name="replication_cycles")
    op.drop_table("replication_cycles")
    op.drop_index(op.f("ix_migrating_vms_parent"), table_name="migrating_vms")
    op.drop_table("migrating_vms")
    op.drop_index(op.f("ix_target_projects_parent"), table_name="target_projects")
    op.drop_table("target_projects")
    op.drop_index(op.f("ix_sources_parent"), table_name="sources")
    op.drop_table("sources")
    op.drop_table("reconciler_lease")
