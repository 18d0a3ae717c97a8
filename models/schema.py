"""The tables. Rows are read through these classes; who may write what stands in ``store.py`` and ``catalog.py``.

Resources of the contract are kept by their full resource name; what the contract lets users set is kept as the
contract's own JSON (proto3 JSON, lowerCamelCase), so that no field is lost on its way through the database.
Every ``*_time`` is UTC; every id of ours is a UUID in hex, which is a legal label value on every target.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from models.db import UtcDateTime
from models.states import CycleState, JobState, LedgerState, Role, StepKind, Verdict, VmState

# none_as_null: an absent error is SQL NULL, not the JSON text "null".
Json = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")


def _enum(cls: type) -> sa.Enum:
    """Enums as plain text, the same on both databases, so that a new value needs no migration of old rows."""
    return sa.Enum(cls, native_enum=False, length=32, values_callable=lambda e: [m.value for m in e], name=cls.__name__)


class Base(DeclarativeBase):
    """Common base; constraint names are fixed so that migrations can speak of them."""

    metadata = sa.MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {
        dt.datetime: UtcDateTime(),
        dict[str, Any]: Json,
        list[Any]: Json,
        JobState: _enum(JobState),
        Verdict: _enum(Verdict),
        LedgerState: _enum(LedgerState),
        Role: _enum(Role),
        StepKind: _enum(StepKind),
        CycleState: _enum(CycleState),
        VmState: _enum(VmState),
    }

    @classmethod
    def of(cls, **values: Any) -> Self:
        """An object that has these values of columns, as if it had been loaded: setting them one by one would have each
        watched for changes, which costs more than all else that is done to a row which is only made and stored."""
        row = cls()
        row.__dict__.update(values)
        return row


class Source(Base):
    """Where VMs migrate from. ``body`` holds the user's fields of the contract's Source."""

    __tablename__ = "sources"
    name: Mapped[str] = mapped_column(primary_key=True)
    parent: Mapped[str] = mapped_column(index=True)  # projects/*/locations/*
    body: Mapped[dict[str, Any]]
    create_time: Mapped[dt.datetime]
    update_time: Mapped[dt.datetime]


class TargetProject(Base):
    """Maps the contract's TargetProject to a configured target: ``target`` is its name in the settings."""

    __tablename__ = "target_projects"
    name: Mapped[str] = mapped_column(primary_key=True)
    parent: Mapped[str] = mapped_column(index=True)  # projects/*/locations/global
    target: Mapped[str]
    description: Mapped[str] = mapped_column(default="")
    clone_mode: Mapped[str | None]  # None: as the target is configured
    create_time: Mapped[dt.datetime]
    update_time: Mapped[dt.datetime]


class MigratingVm(Base):
    """A VM that replicates. ``body`` holds the user's fields of the contract's MigratingVm, target defaults included."""

    __tablename__ = "migrating_vms"
    __table_args__ = (
        sa.Index("ix_migrating_vms_state_create_time", "state", "create_time"),  # whose time is over
        sa.Index("ix_migrating_vms_parent_create_time", "parent", "create_time", "name"),
    )
    name: Mapped[str] = mapped_column(primary_key=True)
    parent: Mapped[str] = mapped_column(sa.ForeignKey("sources.name"))
    body: Mapped[dict[str, Any]]
    state: Mapped[VmState]
    state_time: Mapped[dt.datetime]
    create_time: Mapped[dt.datetime]
    update_time: Mapped[dt.datetime]
    extension_count: Mapped[int] = mapped_column(default=0, server_default="0")  # of its life, 100 days each


class ReplicationCycle(Base):
    """One upload of the VM's disks. ``adaptation`` tells what its snapshots are already adapted for, if anything."""

    __tablename__ = "replication_cycles"
    __table_args__ = (sa.UniqueConstraint("parent", "cycle_number"),)
    name: Mapped[str] = mapped_column(primary_key=True)
    parent: Mapped[str] = mapped_column(sa.ForeignKey("migrating_vms.name"), index=True)
    cycle_number: Mapped[int]
    state: Mapped[CycleState]
    adaptation: Mapped[dict[str, Any] | None]
    error: Mapped[dict[str, Any] | None]
    start_time: Mapped[dt.datetime]
    end_time: Mapped[dt.datetime | None]
    pause_time: Mapped[dt.datetime | None]  # when the pause began that goes on while it is PAUSED
    paused_us: Mapped[int] = mapped_column(sa.BigInteger, default=0, server_default="0")  # of the pauses before that
    pruned_time: Mapped[dt.datetime | None]  # since then no job pins it; rows of snapshots left are files to remove
    snapshots: Mapped[list[Snapshot]] = relationship(order_by="Snapshot.disk_number", lazy="selectin")


class Snapshot(Base):
    """One disk of a cycle, as it lies in the snapshot store under ``store_key``; by reference, at a provider under its name."""

    __tablename__ = "snapshots"
    __table_args__ = (sa.Index("uq_snapshots_file", "store_key", unique=True, sqlite_where=sa.text("format != 'reference'"),
                               postgresql_where=sa.text("format != 'reference'")),)  # fmt: skip
    cycle: Mapped[str] = mapped_column(sa.ForeignKey("replication_cycles.name"), primary_key=True)
    disk_number: Mapped[int] = mapped_column(primary_key=True)
    store_key: Mapped[str]
    format: Mapped[str]
    virtual_size_bytes: Mapped[int] = mapped_column(sa.BigInteger)
    stored_size_bytes: Mapped[int] = mapped_column(sa.BigInteger)
    sha256: Mapped[str]
    create_time: Mapped[dt.datetime]


class CloneJob(Base):
    """A clone job. The row is the truth: what runs, who may write, how it ends, when somebody must look again.

    ``wake_at`` is the row's own alarm clock: the time at which the reconciler looks at the job if nothing has moved it
    before. Every write that changes who acts next also moves ``wake_at``; it is null exactly when the job is terminal.
    """

    __tablename__ = "clone_jobs"
    __table_args__ = (
        sa.CheckConstraint(
            "(end_time IS NOT NULL) = (state IN ('SUCCEEDED', 'FAILED', 'CANCELLED'))", name="end_time_iff_terminal"
        ),
        sa.CheckConstraint("(wake_at IS NULL) = (end_time IS NOT NULL)", name="wake_at_iff_running"),
        sa.CheckConstraint(
            "(state != 'SUCCEEDED' OR COALESCE(verdict, '') = 'SUCCEED') AND (state != 'FAILED' OR COALESCE(verdict, '') = 'FAIL')"
            " AND (state NOT IN ('CANCELLING', 'CANCELLED') OR COALESCE(verdict, '') = 'CANCEL')",
            name="state_follows_verdict",
        ),
        # One running clone job per MigratingVm.
        sa.Index(
            "uq_clone_jobs_one_running_per_vm",
            "parent",
            unique=True,
            sqlite_where=sa.text("end_time IS NULL"),
            postgresql_where=sa.text("end_time IS NULL"),
        ),
        sa.Index(
            "ix_clone_jobs_wake_at",
            "wake_at",
            sqlite_where=sa.text("wake_at IS NOT NULL"),
            postgresql_where=sa.text("wake_at IS NOT NULL"),
        ),
        # Lists, by themselves and by state. On PostgreSQL the migration gives name the collation "C", by which lists sort.
        sa.Index("ix_clone_jobs_parent_create_time", "parent", "create_time", "name"),
        sa.Index("ix_clone_jobs_parent_state_create_time", "parent", "state", "create_time", "name"),
    )
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    parent: Mapped[str] = mapped_column(sa.ForeignKey("migrating_vms.name"))
    state: Mapped[JobState]
    state_time: Mapped[dt.datetime]
    create_time: Mapped[dt.datetime]
    end_time: Mapped[dt.datetime | None]

    verdict: Mapped[Verdict | None]
    verdict_time: Mapped[dt.datetime | None]
    error: Mapped[dict[str, Any] | None]  # {"code": MigrationError.ErrorCode name, "message": str, "action": str}

    # Fixed at creation.
    cycle: Mapped[str] = mapped_column(sa.ForeignKey("replication_cycles.name"))  # the pin
    target: Mapped[str]  # name of the configured target
    target_details: Mapped[dict[str, Any]]  # contract JSON of ComputeEngineTargetDetails, or models/target_defaults.py

    # Who may write.
    epoch: Mapped[int]
    current_step: Mapped[int]  # index into steps; len(steps) is ``finish``
    attempts: Mapped[int]  # claims of the current step that have not come back cleanly
    lease_owner: Mapped[str | None]
    lease_expires_at: Mapped[dt.datetime | None]
    fence_until: Mapped[dt.datetime | None]  # until then a provider call of a lost worker may still land
    next_check_at: Mapped[
        dt.datetime | None
    ]  # set while nobody holds the lease on purpose: claims before it are refused
    wake_at: Mapped[dt.datetime | None]
    dispatches: Mapped[int]  # messages sent since the job last moved; sets the pause before the next one
    stale_writes: Mapped[int]  # writes refused because of an old epoch or lease (R8)

    cleanup_start_time: Mapped[dt.datetime | None]  # from then on every lease is clean-up's: its holder creates nothing
    cleanup_attempts: Mapped[int]  # since anything moved; sets the pause before the next one
    cleanup_detail: Mapped[str | None]  # why clean-up is not finished

    steps: Mapped[list[CloneStep]] = relationship(order_by="CloneStep.position", lazy="selectin")
    ledger: Mapped[list[LedgerRow]] = relationship(order_by="LedgerRow.position", lazy="selectin")


class CloneStep(Base):
    """One step of a job's plan, in order of ``position``."""

    __tablename__ = "clone_steps"
    job_id: Mapped[str] = mapped_column(sa.ForeignKey("clone_jobs.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[StepKind]
    start_time: Mapped[dt.datetime | None]
    end_time: Mapped[dt.datetime | None]
    progress: Mapped[dict[str, Any]]  # {"percent": int, "detail": str, "boot": {...}}: what an operator may see


class LedgerRow(Base):
    """One resource that a job may create, committed before the provider is called."""

    __tablename__ = "ledger"
    __table_args__ = (sa.UniqueConstraint("job_id", "kind", "name"),)
    job_id: Mapped[str] = mapped_column(sa.ForeignKey("clone_jobs.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)  # creation order; clean-up walks it backwards
    step: Mapped[StepKind]  # the step that creates it
    kind: Mapped[str]  # targets.base.ResourceKind
    name: Mapped[str]  # deterministic; how it is found when a reply was lost
    role: Mapped[Role]
    spec: Mapped[dict[str, Any]]  # what the step needs to create it
    state: Mapped[LedgerState]
    uid: Mapped[str | None]  # the target's own id of what was seen; null while unknown
    detail: Mapped[str | None]
    intended_time: Mapped[dt.datetime | None]
    created_time: Mapped[dt.datetime | None]
    deleting_time: Mapped[dt.datetime | None]
    absent_time: Mapped[dt.datetime | None]  # when its absence was observed


class JobEvent(Base):
    """What happened to a job, append only."""

    __tablename__ = "job_events"
    id: Mapped[int] = mapped_column(sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True)
    job_id: Mapped[str] = mapped_column(sa.ForeignKey("clone_jobs.id"), index=True)
    time: Mapped[dt.datetime]
    epoch: Mapped[int]
    kind: Mapped[str]
    message: Mapped[str]


class Operation(Base):
    """A google.longrunning.Operation. With ``job_id`` and not done, it ends when the job ends."""

    __tablename__ = "operations"
    __table_args__ = (
        sa.Index(
            "uq_operations_request",
            "request_scope",
            "request_id",
            unique=True,
            sqlite_where=sa.text("request_id IS NOT NULL"),
            postgresql_where=sa.text("request_id IS NOT NULL"),
        ),
        sa.Index("ix_operations_parent_create_time", "parent", "create_time", "name"),
    )
    name: Mapped[str] = mapped_column(primary_key=True)
    parent: Mapped[str]  # projects/*/locations/*
    verb: Mapped[str]  # OperationMetadata.verb: create, cancel, update, delete
    method: Mapped[str]  # CreateCloneJob, …: decides the response's type
    target: Mapped[str]  # resource name
    job_id: Mapped[str | None] = mapped_column(sa.ForeignKey("clone_jobs.id"), index=True)
    create_time: Mapped[dt.datetime]
    end_time: Mapped[dt.datetime | None]  # set if and only if done
    requested_cancellation: Mapped[bool] = mapped_column(default=False)
    error: Mapped[dict[str, Any] | None]  # {"code": google.rpc.Code name, "reason": str, "message": str}
    request_scope: Mapped[str]  # parent + method
    request_id: Mapped[str | None]
    request_hash: Mapped[str]  # of the body, to refuse another request under the same id


class ReconcilerLease(Base):
    """One row: which worker's reconciler is the active one."""

    __tablename__ = "reconciler_lease"
    id: Mapped[int] = mapped_column(primary_key=True)
    owner: Mapped[str | None]
    expires_at: Mapped[dt.datetime]
