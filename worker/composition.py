"""Puts the parts together: settings in, runtime and services out. Entry points and tests use the same functions."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from celery import Celery
from sqlalchemy.engine import Engine

from models import io_points, migrate
from models.catalog import Catalog
from models.db import make_engine
from models.store import Clock, JobStore, Timing, utc_now
from targets.base import Target
from targets.registry import Place
from targets.snapshot_store import FileSnapshotStore
from tasks.chain import CeleryPublisher
from tasks.errors import AlreadyExists
from tasks.evidence import EvidenceStore
from tasks.runtime import BootPolicy, Pacing, Publisher, Runtime
from tasks.services import Request, Services, TargetProjectService
from worker.faults import FaultPlan
from worker.page_token_key import page_token_key
from worker.settings import Settings, TargetSettings


def build_targets(settings: Settings, snapshots: FileSnapshotStore) -> dict[str, Target]:
    """The configured targets by name. Each keeps its files in a folder of its own below the data folder."""
    roots = settings.data_dir / "targets"
    return {
        name: each.options.make(Place(name, roots / name, snapshots, settings.provider_call_limit_s))
        for name, each in settings.targets.items()
    }


def build_runtime(
    settings: Settings, publisher: Publisher, *, engine: Engine | None = None, clock: Clock = utc_now,
    targets: Mapping[str, Target] | None = None,
) -> Runtime:  # fmt: skip
    """The runtime of this process; makes no connection yet."""
    if settings.fault_plan is not None:
        io_points.install_hook(FaultPlan(settings.fault_plan))
    engine = engine or make_engine(settings.database_url)
    snapshots = FileSnapshotStore(settings.data_dir / "snapshots")
    timing = Timing(settings.lease_s, settings.provider_call_limit_s, settings.dispatch_grace_s)
    return Runtime(
        store=JobStore(engine, timing=timing, clock=clock),
        catalog=Catalog(engine, clock=clock),
        snapshots=snapshots,
        evidence=EvidenceStore(settings.data_dir / "evidence"),
        targets=build_targets(settings, snapshots) if targets is None else targets,
        publisher=publisher,
        page_token_key=page_token_key(settings.page_token_key, settings.data_dir),
        pacing=_pacing(settings),
        boot_policies={name: _boot_policy(settings, each) for name, each in settings.targets.items()},
        clock=clock,
        worker_name=lambda: f"{socket.gethostname()}:{os.getpid()}",
        create_operation_ends_with_job=settings.create_operation == "finished",
        upload_idle_s=settings.upload_idle_s,
        location=settings.location,
    )


def _pacing(settings: Settings) -> Pacing:
    return Pacing(
        inline_wait_s=settings.inline_wait_s,
        poll_s=settings.poll_s,
        step_attempts=settings.step_attempts,
        retry_pause_s=settings.retry_pause_s,
        retry_pause_max_s=settings.retry_pause_max_s,
        step_timeout_s=settings.step_timeout_s,
        boot_timeout_s=settings.boot_timeout_s,
        cleanup_pause_s=settings.cleanup_pause_s,
        cleanup_pause_max_s=settings.cleanup_pause_max_s,
    )


def _boot_policy(settings: Settings, target: TargetSettings) -> BootPolicy:
    timeout_s = settings.boot_timeout_s if target.boot_timeout_s is None else target.boot_timeout_s
    return BootPolicy(timeout_s, target.require_boot, target.boot_pattern)


def build_services(settings: Settings, app: Celery | None = None) -> Services:
    """The use-cases for an API process; ``app`` only sends messages."""
    if app is None:
        from worker.app import app as process_app

        app = process_app
    return Services(build_runtime(settings, CeleryPublisher(app)))


def quiet_runtime(settings: Settings, engine: Engine) -> Runtime:
    """The runtime of a process that starts no job: faults are for the processes that serve and work."""
    return build_runtime(settings.model_copy(update={"fault_plan": None}), _NoPublisher(), engine=engine)


def offer_target(settings: Settings, target: str) -> None:
    """Make the target project of a configured target, if it does not exist. Raises: ServiceError."""
    engine = make_engine(settings.database_url)
    try:
        runtime = quiet_runtime(settings, engine)
        parent = f"projects/{settings.project}/locations/global"
        TargetProjectService(runtime).create(parent, target, {"project": target}, Request())
    except AlreadyExists:
        pass
    finally:
        engine.dispose()


class _NoPublisher:
    """For a process that starts no job."""

    def steps(self, job_id: str, epoch: int, first: int, kinds: tuple[str, ...]) -> bool:
        return False

    def cleanup(self, job_id: str, epoch: int) -> bool:
        return False


def upgrade_database(settings: Settings) -> None:
    """Bring the database to the schema of this code."""
    engine = make_engine(settings.database_url)
    try:
        migrate.upgrade(engine)
    finally:
        engine.dispose()
