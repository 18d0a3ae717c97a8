"""The same clones as a good engineer builds them on Celery in a day: the other side of ``benchmarks/guarantee.py``.

A chain of tasks with what the documentation recommends: late acknowledgement, ``task_reject_on_worker_lost``, retries
with backoff on transient errors, deterministic names so that a repeated create finds what is there, each resource
recorded in a table, ``link_error`` and the ``task_revoked`` signal both leading to a clean-up task that deletes what was
recorded and waits until it is gone, and a cancel that revokes with terminate. Nothing is left out on purpose.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import time
from typing import Any

import sqlalchemy as sa
from celery import Celery, chain, signals
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from models.db import make_engine
from targets.base import DiskSpec, InstanceSpec, Owner, ResourceKind, ResourceRef, Snapshot, Status
from targets.errors import TransientError
from targets.simulated import SimulatedTarget

BROKER_VARIABLE = "PLAIN_CHAIN_BROKER_URL"
DATABASE_VARIABLE = "PLAIN_CHAIN_DATABASE_URL"
TARGET_VARIABLE = "PLAIN_CHAIN_TARGET"
QUEUE = "plain"
# Generous to the chain: by default the message of a killed worker comes back after an hour, and kombu looks for such
# messages every 100 s.
VISIBILITY_TIMEOUT_S = 20
_SNAPSHOT = Snapshot("snapshot", "raw", 512, "0" * 64)
_TASK = {"typing": False}  # its check of arguments does not know bound methods
_RETRIES: dict[str, Any] = _TASK | {
    "autoretry_for": (TransientError,),
    "max_retries": 5,
    "retry_backoff": 1,
    "retry_jitter": False,
}


class Base(DeclarativeBase):
    """The tables."""


class Job(Base):
    """One clone."""

    __tablename__ = "jobs"
    id: Mapped[str] = mapped_column(primary_key=True)
    vm: Mapped[str]
    state: Mapped[str] = mapped_column(default="RUNNING")
    task_ids: Mapped[list[str]] = mapped_column(sa.JSON, default=list)
    end_time: Mapped[float | None]


class Resource(Base):
    """What a job has created."""

    __tablename__ = "resources"
    job_id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    uid: Mapped[str]


class Plain:
    """The chain's code, for its worker and for its client."""

    def __init__(self, broker_url: str, database_url: str, target_root: str) -> None:
        engine = make_engine(database_url)
        Base.metadata.create_all(engine)
        self.engine = engine
        self.sessions = sessionmaker(engine, expire_on_commit=False)
        self.target = SimulatedTarget(target_root)
        self.app = Celery("plain", broker=broker_url, set_as_current=False)
        self.app.conf.update(
            task_ignore_result=True,
            result_backend=None,
            task_acks_late=True,
            task_reject_on_worker_lost=True,
            worker_prefetch_multiplier=1,
            task_default_queue=QUEUE,
            broker_connection_retry_on_startup=True,
            broker_transport_options={"visibility_timeout": VISIBILITY_TIMEOUT_S, "unacked_restore_throttle": 1},
        )
        self._tasks()

    def submit(self, vm: str) -> str:
        """Store a job and send its chain; the job's id."""
        job_id = hashlib.sha256(f"{vm}{time.time_ns()}".encode()).hexdigest()[:10]
        with self.sessions.begin() as session:
            session.add(Job(id=job_id, vm=vm))
        steps = chain(*(self.app.signature(f"plain.{step}", args=(job_id,), immutable=True)
                        for step in ("disk", "instance", "finish")))  # fmt: skip
        cleanup = self.app.signature("plain.cleanup", args=(job_id,), immutable=True)
        result: Any = steps.apply_async(link_error=cleanup)
        ids = []
        while result is not None:
            ids.append(result.id)
            result = result.parent
        with self.sessions.begin() as session:
            session.execute(sa.update(Job).where(Job.id == job_id).values(task_ids=ids))
        return job_id

    def cancel(self, job_id: str) -> None:
        """Say that the job is being cancelled, and revoke its tasks."""
        with self.sessions.begin() as session:
            job = session.get_one(Job, job_id)
            if job.state != "RUNNING":
                return
            job.state = "CANCELLING"
        self.app.control.revoke(job.task_ids, terminate=True)

    def _tasks(self) -> None:
        task: Any = self.app.task
        task(name="plain.disk", **_RETRIES)(self.disk)
        task(name="plain.instance", **_RETRIES)(self.instance)
        task(name="plain.finish", **_TASK)(self.finish)
        cleanup = task(name="plain.cleanup", **_RETRIES)(self.cleanup)

        def revoked(request: Any = None, **_: Any) -> None:
            cleanup.delay(request.args[0])

        signals.task_revoked.connect(revoked, weak=False)

    def disk(self, job_id: str) -> None:
        """Create the disk."""
        if vm := self._running(job_id):
            ref = ResourceRef(ResourceKind.DISK, f"{vm}-{job_id}-disk0")
            self._make(job_id, DiskSpec(ref, Owner(job_id, 1), 0, _SNAPSHOT))

    def instance(self, job_id: str) -> None:
        """Create the instance."""
        if vm := self._running(job_id):
            ref = ResourceRef(ResourceKind.INSTANCE, f"{vm}-{job_id}")
            self._make(job_id, InstanceSpec(ref, Owner(job_id, 1), (f"{ref.name}-disk0",), ref.name))

    def finish(self, job_id: str) -> None:
        """Say that the job has succeeded."""
        if self._running(job_id):
            self._end(job_id, "SUCCEEDED")

    def cleanup(self, job_id: str) -> None:
        """Delete what was recorded, and see it gone."""
        with self.sessions() as session:
            rows = session.scalars(sa.select(Resource).where(Resource.job_id == job_id)).all()
            state = session.get_one(Job, job_id).state
        for row in sorted(rows, key=lambda row: row.kind, reverse=True):  # the instance before its disk
            ref = ResourceRef(ResourceKind(row.kind), row.name)
            self.target.delete(ref, job_id=job_id, uid=row.uid)
            while (seen := self.target.find(ref)) is not None and seen.uid == row.uid:
                time.sleep(0.05)
        self._end(job_id, "CANCELLED" if state == "CANCELLING" else "FAILED")

    def _running(self, job_id: str) -> str | None:
        with self.sessions() as session:
            job = session.get_one(Job, job_id)
            return job.vm if job.state == "RUNNING" else None

    def _make(self, job_id: str, spec: DiskSpec | InstanceSpec) -> None:
        seen = self.target.create(spec)
        with self.sessions.begin() as session:
            session.merge(Resource(job_id=job_id, kind=spec.ref.kind, name=spec.ref.name, uid=seen.uid))
        while seen.status is Status.CREATING:
            time.sleep(0.05)
            found = self.target.find(spec.ref)
            if found is None:
                raise TransientError(f"{spec.ref} vanished")
            seen = found
        if seen.status is not Status.READY:
            raise RuntimeError(f"{spec.ref} is {seen.status}: {seen.detail}")

    def _end(self, job_id: str, state: str) -> None:
        with self.sessions.begin() as session:
            session.execute(
                sa.update(Job).where(Job.id == job_id).values(state=state, end_time=dt.datetime.now(dt.UTC).timestamp())
            )

    def jobs(self) -> list[Job]:
        """All jobs, as committed now."""
        with Session(self.engine) as session:
            return list(session.scalars(sa.select(Job)))


if url := os.environ.get(BROKER_VARIABLE):
    app = Plain(url, os.environ[DATABASE_VARIABLE], os.environ[TARGET_VARIABLE]).app
