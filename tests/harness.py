"""The real store, services and simulated target, with the broker replaced by a list that the test delivers from.

Messages can be delivered in any order, twice, late or never; time is a clock that the test moves.
"""

from __future__ import annotations

import datetime as dt
import functools
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from models import migrate
from models.catalog import Catalog
from models.db import make_engine
from models.schema import CloneJob, JobEvent, LedgerRow, Operation
from models.store import JobStore, Timing
from targets.simulated import SimulatedTarget
from targets.snapshot_store import FileSnapshotStore
from tasks import cleanup, reconcile, steps
from tasks.errors import ServiceError
from tasks.evidence import EvidenceStore
from tasks.runtime import Pacing, Runtime
from tasks.services import Request, Services

PARENT = "projects/p/locations/global"
SOURCE = f"{PARENT}/sources/s"
VM = f"{SOURCE}/migratingVms/web-1"
START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


@functools.cache
def _migrated_sqlite() -> bytes:
    """An empty database at the newest revision: migrating it once per process makes a thousand tests quick."""
    with tempfile.TemporaryDirectory() as folder:
        engine = make_engine(f"sqlite:///{folder}/template.sqlite3")
        migrate.upgrade(engine)
        engine.dispose()  # the last connection to close moves the write-ahead log into the file
        return Path(folder, "template.sqlite3").read_bytes()


@functools.cache
def _head() -> str:
    return migrate.head()


def prepare(engine: sa.Engine) -> None:
    """Bring a fresh database to the newest revision."""
    path = Path(engine.url.database or "")
    if engine.dialect.name == "sqlite" and not path.exists():
        path.write_bytes(_migrated_sqlite())
    elif migrate.current(engine) != _head():
        migrate.upgrade(engine)


class Clock:
    """A clock that only the test moves."""

    def __init__(self, now: dt.datetime = START) -> None:
        self.now = now

    def __call__(self) -> dt.datetime:
        return self.now

    def timestamp(self) -> float:
        return self.now.timestamp()

    def advance(self, seconds: float) -> None:
        self.now += dt.timedelta(seconds=seconds)


@dataclass
class Mailbox:
    """Collects what was published; ``broken`` loses everything, as a broker that is down does."""

    messages: list[tuple] = field(default_factory=list)
    broken: bool = False

    def steps(self, job_id: str, epoch: int, first: int, kinds: tuple[str, ...]) -> bool:
        if not self.broken:
            self.messages.append(("step", job_id, epoch, first))
        return not self.broken

    def cleanup(self, job_id: str, epoch: int) -> bool:
        if not self.broken:
            self.messages.append(("cleanup", job_id, epoch))
        return not self.broken


class World:
    """Everything that one service consists of, but for processes."""

    def __init__(
        self,
        tmp_path: Path,
        database_url: str = "",
        *,
        pacing: Pacing | None = None,
        mail: Mailbox | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        target_clock: Callable[[], float] | None = None,
        **target_options,
    ) -> None:
        self.clock = Clock()
        self.engine = make_engine(database_url or f"sqlite:///{tmp_path}/db.sqlite3")
        prepare(self.engine)
        if self.engine.dialect.name == "sqlite":  # no test survives a power cut
            sa.event.listen(self.engine, "connect", lambda raw, _: raw.execute("PRAGMA synchronous=OFF"))
        self.mail = mail or Mailbox()
        self.target = SimulatedTarget(tmp_path / "target", clock=target_clock or self.clock.timestamp, **target_options)
        self.snapshots = FileSnapshotStore(tmp_path / "snapshots")
        self.runtime = Runtime(
            store=JobStore(self.engine, timing=Timing(15, 30, 20), clock=self.clock),
            catalog=Catalog(self.engine, clock=self.clock),
            snapshots=self.snapshots,
            evidence=EvidenceStore(tmp_path / "evidence"),
            targets={"simulated": self.target},
            publisher=self.mail,
            page_token_key=b"of the tests, and of no use elsewhere",
            pacing=pacing or Pacing(inline_wait_s=0.0, poll_s=1.0),
            clock=self.clock,
            monotonic=monotonic,
        )
        self.services = Services(self.runtime)

    def close(self) -> None:
        self.engine.dispose()

    # Setting up

    def set_up(self, *, disks: int = 1, **body) -> None:
        """Source, target project, VM and one successful cycle."""
        none = Request()
        self.services.sources.create(PARENT, "s", {}, none)
        self.services.target_projects.create(PARENT, "simulated", {"project": "simulated"}, none)
        self.add_vm("web-1", **body)
        self.upload(VM, disks=disks)

    def add_vm(self, vm_id: str, *, defaults: dict | None = None, **body) -> str:
        defaults = {"targetProject": f"{PARENT}/targetProjects/simulated", **(defaults or {})}
        self.services.migrating_vms.create(SOURCE, vm_id, {"computeEngineTargetDefaults": defaults, **body}, Request())
        return f"{SOURCE}/migratingVms/{vm_id}"

    def upload(self, vm: str, *, disks: int = 1, content: bytes = b"", adaptation: dict | None = None) -> str:
        cycle = self.services.cycles.begin(vm, adaptation)
        for number in range(disks):
            self.services.cycles.put_disk(cycle.name, number, "raw", [content.ljust(510, b"\0") + b"\x55\xaa"])
        return self.services.cycles.finish(cycle.name).name

    # Running

    def create(self, job_id: str = "clone-1", vm: str = VM) -> CloneJob:
        return self.services.clone_jobs.create(vm, job_id, Request())[1]

    def deliver(self, message: tuple | None = None) -> steps.Outcome | bool | None:
        """Deliver one message as a worker would, and publish what the chain or a retry would publish."""
        kind, *args = message or self.mail.messages.pop(0)
        if kind == "cleanup":
            return cleanup.run_cleanup(self.runtime, *args)
        job_id, epoch, position = args
        outcome = steps.run_step(self.runtime, job_id, epoch, position)
        if outcome.result is steps.Result.DONE and position < len(self.job(job_id).steps):
            self.mail.messages.append(("step", job_id, epoch, position + 1))
        if outcome.result is steps.Result.AGAIN:
            self.clock.advance(outcome.pause_s)
            self.mail.messages.append(("step", job_id, epoch, position))
        return outcome

    def run(self, limit: int = 200) -> None:
        """Deliver until nothing is left."""
        for _ in range(limit):
            if not self.mail.messages:
                return
            self.deliver()
        raise AssertionError(f"still going after {limit} messages: {self.mail.messages}")

    def run_to_end(self, job_id: str, limit: int = 100) -> CloneJob:
        """Deliver, move the clock to the job's alarm, reconcile, until the job has ended."""
        for _ in range(limit):
            self.run()
            job = self.job(job_id)
            if job.end_time is not None:
                return job
            self.clock.now = max(self.clock.now, job.wake_at) + dt.timedelta(seconds=1)
            self.reconcile()
        raise AssertionError(f"job does not end: {job.state} {job.verdict} {job.cleanup_detail}")

    def reconcile(self) -> int | None:
        return reconcile.reconcile(self.runtime, "test", 0.0)

    def job(self, job_id: str) -> CloneJob:
        return self.runtime.store.get_job(job_id)

    def job_quietly(self, job_id: str) -> CloneJob:
        """The row, read without passing an I/O point."""
        with Session(self.engine) as session:
            return session.get(CloneJob, job_id)

    def kinds(self) -> list[str]:
        """What exists on the target, by kind."""
        return sorted(str(each.ref.kind) for each in self.target.inventory())

    def corrupt(self, statement: str, **values) -> None:
        """Write past the store, as a defect would."""
        with self.engine.begin() as connection:
            connection.execute(sa.text(statement), values)


def count(world: World, *tables: type) -> list[int]:
    """How many rows each table has."""
    with world.engine.connect() as connection:
        return [connection.scalar(sa.select(sa.func.count()).select_from(table)) for table in tables]


def refused(world: World, kind: type[ServiceError], call, *tables: type) -> ServiceError:
    """The error, after seeing that no row was written: to the tables of jobs and operations, unless others are named."""
    tables = tables or (CloneJob, LedgerRow, JobEvent, Operation)
    before = count(world, *tables)
    with pytest.raises(kind) as error:
        call()
    assert count(world, *tables) == before
    assert isinstance(error.value, ServiceError) and len(error.value.message) > 20
    return error.value
