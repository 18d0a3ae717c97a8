"""The two systems of ``benchmarks/guarantee.py``, started and driven in the same way."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import NamedTuple, Protocol

import grpc
import psutil
import redis
import sqlalchemy as sa

from benchmarks import plain_chain
from benchmarks.clone_jobs import Client, NoPublisher
from benchmarks.systems import ROOT, WORKERS, wait_for
from models.db import make_engine
from models.schema import CloneJob
from targets.simulated import SimulatedTarget
from tasks.services import Request, Services
from worker.composition import build_runtime
from worker.service_file import read_service
from worker.settings import Settings, child_command, child_environment
from worker.supervisor import ChildSpec, Supervisor

_START_LIMIT_S = 60.0


class JobEnd(NamedTuple):
    """How a job stands: its id in the target's labels, its state, and when that was published (Unix time), if ended."""

    id: str
    state: str
    end_time: float | None


class Contender(Protocol):
    """A system that clones VMs on the simulated target."""

    name: str
    target: SimulatedTarget
    supervisor: Supervisor
    broker_url: str

    def start(self, vms: list[str]) -> None:
        """Start it, with these VMs to clone."""

    def submit(self, vm: str) -> None:
        """Start a clone of the VM."""

    def cancel(self, vm: str) -> None:
        """Cancel it."""

    def ends(self) -> dict[str, JobEnd]:
        """How the jobs stand, by VM."""

    def kill_workers(self) -> None:
        """SIGKILL of every worker process."""

    def stop(self) -> None:
        """End it."""


class PlainChain:
    """The plain chain: a worker under a supervisor."""

    name = "plain_chain"

    def __init__(self, folder: Path, broker_url: str) -> None:
        database, root = f"sqlite:///{folder}/plain.sqlite3", str(folder / "plain-target")
        self.broker_url = broker_url
        self._plain = plain_chain.Plain(broker_url, database, root)
        self.target = self._plain.target
        self._jobs: dict[str, str] = {}
        self.supervisor = Supervisor()
        env = os.environ | {"PYTHONPATH": str(ROOT), plain_chain.BROKER_VARIABLE: broker_url,
                            plain_chain.DATABASE_VARIABLE: database, plain_chain.TARGET_VARIABLE: root}  # fmt: skip
        argv = child_command("celery", "-A", "benchmarks.plain_chain", "worker", "--pool", "prefork", "-c",
                             str(WORKERS), "--loglevel", "INFO", "-Q", plain_chain.QUEUE, "-n", "plain@%h")  # fmt: skip
        self._spec = ChildSpec(self.name, argv, folder / "plain.log", env)

    def start(self, vms: list[str]) -> None:
        """See ``Contender``."""
        self.supervisor.start(self._spec)
        wait_for("the chain's worker", lambda: self._plain.app.control.ping(timeout=1.0), _START_LIMIT_S)

    def submit(self, vm: str) -> None:
        """See ``Contender``."""
        self._jobs[vm] = self._plain.submit(vm)

    def cancel(self, vm: str) -> None:
        """See ``Contender``."""
        self._plain.cancel(self._jobs[vm])

    def ends(self) -> dict[str, JobEnd]:
        """See ``Contender``."""
        return {job.vm: JobEnd(job.id, job.state, job.end_time) for job in self._plain.jobs()}

    def kill_workers(self) -> None:
        """See ``Contender``."""
        _kill_tree(self.supervisor.children[self.name].pid)

    def stop(self) -> None:
        """See ``Contender``."""
        self.supervisor.stop([self.name])
        self._plain.app.close()
        self._plain.engine.dispose()


class CloneJobService:
    """The service by ``clonejob up``."""

    name = "clonejob"

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.broker_url = settings.broker_url
        self._settings = settings
        self._folder = folder
        self.target = SimulatedTarget(settings.data_dir / "targets" / "simulated")
        self.supervisor = Supervisor()
        self._client: Client | None = None
        self._engine = make_engine(settings.database_url)
        self._parent = f"projects/{settings.project}/locations/global"

    def start(self, vms: list[str]) -> None:
        """See ``Contender``."""
        argv, env = child_command("worker.cli", "up"), child_environment(self._settings)
        self.supervisor.start(ChildSpec(self.name, argv, self._folder / "up.log", env, stop_grace_s=40.0))
        self._client = Client(wait_for("clonejob's start", self._address, _START_LIMIT_S))
        services = Services(build_runtime(self._settings, NoPublisher(), engine=self._engine))
        services.sources.create(self._parent, "bench", {}, Request())
        for vm_id in vms:
            body = {"computeEngineTargetDefaults": {"targetProject": f"{self._parent}/targetProjects/simulated"},
                    "policy": {"skipOsAdaptation": True}}  # fmt: skip
            _, vm = services.migrating_vms.create(f"{self._parent}/sources/bench", vm_id, body, Request())
            assert vm is not None
            cycle = services.cycles.begin(vm.name)
            services.cycles.put_disk(cycle.name, 0, "raw", [b"\0" * 510 + b"\x55\xaa"])
            services.cycles.finish(cycle.name)

    def submit(self, vm: str) -> None:
        """See ``Contender``."""
        assert self._client is not None
        self._client.create([self._job(vm)], _START_LIMIT_S)

    def cancel(self, vm: str) -> None:
        """A cancel of a job that has succeeded meanwhile is refused, which is right. See ``Contender``."""
        assert self._client is not None
        try:
            self._client.cancel(self._job(vm), _START_LIMIT_S)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
                raise

    def ends(self) -> dict[str, JobEnd]:
        """See ``Contender``."""
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(CloneJob.parent, CloneJob.id, CloneJob.state, CloneJob.end_time)).all()
        return {parent.rpartition("/")[2]: JobEnd(job_id, str(state), ended.timestamp() if ended else None)
                for parent, job_id, state, ended in rows}  # fmt: skip

    def kill_workers(self) -> None:
        """See ``Contender``."""
        service = read_service(self._settings.data_dir)
        assert service is not None
        for child in ("steps", "control"):
            _kill_tree(service["children"].get(child))

    def stop(self) -> None:
        """See ``Contender``."""
        if self._client is not None:
            self._client.close()
        self.supervisor.stop([self.name])
        self._engine.dispose()

    def _address(self) -> str:
        self.supervisor.tend()
        service = read_service(self._settings.data_dir)
        return str(service["grpc_address"]) if service and service["ready"] else ""

    def _job(self, vm: str) -> str:
        return f"{self._parent}/sources/bench/migratingVms/{vm}/cloneJobs/clone"


def freeze(pid: int) -> None:
    """Stop a process of ours where it is."""
    os.kill(pid, signal.SIGSTOP)


def thaw(pid: int) -> None:
    """Let it go on, if it still lives."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def _kill_tree(pid: int | None) -> None:
    if not pid:
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        main = psutil.Process(pid)
        for each in [main, *main.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
    time.sleep(0.1)


def lose_messages(broker_url: str) -> None:
    """Empty the broker."""
    with redis.Redis.from_url(broker_url) as broker:
        broker.flushall()
