"""Clonejob itself as a system to measure: started as a user starts it, driven as a client drives it."""

from __future__ import annotations

import collections
import contextlib
import random
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
from google.cloud import vmmigration_v1 as v1
from google.longrunning import operations_pb2

from benchmarks.systems import BenchmarkError, wait_for
from models.db import make_engine
from targets.base import Status
from targets.simulated import SimulatedTarget
from tasks.services import Request, Services
from worker.composition import build_runtime
from worker.service_file import read_service
from worker.settings import Settings, child_command, child_environment
from worker.supervisor import ChildSpec, Supervisor

POLL_S = 0.002
_SLOW_S = 600.0  # an instance that is to be cancelled does not get ready
_MOST_CANCEL_DELAY_S = 2.0  # one round of waiting in the step and pausing, at the default settings
_SERVICE = "/google.cloud.vmmigration.v1.VmMigration/"


class NoPublisher:
    """For setting up, which sends no message."""

    def steps(self, job_id: str, epoch: int, first: int, kinds: tuple[str, ...]) -> bool:
        """Nothing."""
        raise AssertionError

    def cleanup(self, job_id: str, epoch: int) -> bool:
        """Nothing."""
        raise AssertionError


class Client:
    """The calls of a client of the service, with the raw messages of its contract."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address)
        self._create = self._method("CreateCloneJob", operations_pb2.Operation)
        self._cancel = self._method("CancelCloneJob", operations_pb2.Operation)
        self._get = self._method("GetCloneJob", v1.CloneJob.pb())

    def close(self) -> None:
        """Give the connection back."""
        self._channel.close()

    def create(self, names: Sequence[str], limit_s: float) -> None:
        """Create the jobs, all at once. Raises: grpc.RpcError."""
        calls = []
        for name in names:
            vm, _, job_id = name.partition("/cloneJobs/")
            request = v1.CreateCloneJobRequest.pb()(parent=vm, clone_job_id=job_id)
            calls.append(self._create.future(request, timeout=limit_s))
        for call in calls:
            call.result()

    def cancel(self, name: str, limit_s: float) -> None:
        """Ask for the end of a job. Raises: grpc.RpcError."""
        self._cancel(v1.CancelCloneJobRequest.pb()(name=name), timeout=limit_s)

    def states(self, names: Sequence[str], limit_s: float) -> list[str]:
        """How the jobs are. Raises: grpc.RpcError."""
        calls = [self._get.future(v1.GetCloneJobRequest.pb()(name=name), timeout=limit_s) for name in names]
        return [v1.CloneJob.State(call.result().state).name for call in calls]

    def _method(self, rpc: str, response: Any) -> Any:
        return self._channel.unary_unary(
            _SERVICE + rpc,
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=response.FromString,
        )


class CloneJobs:
    """The whole service, by ``clonejob up``; a client creates, cancels and looks over gRPC."""

    name = "clonejob"

    def __init__(self, settings: Settings) -> None:
        self.ended: collections.Counter[str] = collections.Counter()
        self._settings = settings
        self._vms: list[str] = []
        self._created = 0
        self._random = random.Random(1)  # noqa: S311 - when to cancel, the same in every run
        self._client: Client | None = None
        self._database = f"{settings.data_dir}/clonejob.sqlite3"
        self._target = SimulatedTarget(settings.data_dir / "targets" / "simulated")

    def spec(self, folder: Path) -> ChildSpec:
        """How it is started. It needs longer than its children to stop."""
        argv, env = child_command("worker.cli", "up"), child_environment(self._settings)
        return ChildSpec(self.name, argv, folder / "up.log", env, stop_grace_s=40.0)

    def connect(self, supervisor: Supervisor, limit_s: float) -> None:
        """Wait until it serves."""

        def ready() -> str:
            supervisor.tend()
            service = read_service(self._settings.data_dir)
            return str(service["grpc_address"]) if service and service["ready"] else ""

        self._client = Client(wait_for("clonejob's start", ready, limit_s))

    def set_up(self, vms: int) -> None:
        """As many VMs as jobs that run at once, each with one successful cycle of one disk."""
        engine = make_engine(self._settings.database_url)
        try:
            services = Services(build_runtime(self._settings, NoPublisher(), engine=engine))
            parent = f"projects/{self._settings.project}/locations/global"
            defaults = {"targetProject": f"{parent}/targetProjects/simulated"}
            services.sources.create(parent, "bench", {}, Request())
            for number in range(vms):
                body = {"computeEngineTargetDefaults": defaults}
                _, vm = services.migrating_vms.create(f"{parent}/sources/bench", f"vm-{number}", body, Request())
                assert vm is not None
                cycle = services.cycles.begin(vm.name)
                services.cycles.put_disk(cycle.name, 0, "raw", [b"\0" * 510 + b"\x55\xaa"])
                services.cycles.finish(cycle.name)
                self._vms.append(vm.name)
        finally:
            engine.dispose()

    def close(self) -> None:
        """Give the connection back."""
        if self._client is not None:
            self._client.close()

    def burst(self, jobs: int, limit_s: float) -> float:
        """See ``System``."""
        assert self._client is not None
        names = [self._new_job(vm) for vm in self._vms[:jobs]]
        started = time.perf_counter()
        self._client.create(names, limit_s)
        return self._await_ends(names, limit_s) - started

    def single(self, limit_s: float) -> float:
        """See ``System``."""
        return self.burst(1, limit_s)

    def cancel(self, limit_s: float) -> float:
        """Cancel one job in the middle of its last step; seconds from the call until CANCELLED was seen.

        CANCELLED is published only after the absence of all that the job made was observed; the target is asked, too.
        The instance is made slow, so that the job can be caught, and the moment is drawn at random: a step at times
        waits with its lease held, at times has given its worker slot back, and a cancel meets the one or the other.
        """
        assert self._client is not None
        name = self._new_job(self._vms[0])
        before = len(self._target.everything())
        self._target.add_fault(op="create", kind="instance", fault="slow", times=1, delay_s=_SLOW_S)
        try:
            self._client.create([name], limit_s)
            wait_for("the slow instance", self._is_making_an_instance, limit_s, POLL_S)
            time.sleep(self._random.uniform(0.0, _MOST_CANCEL_DELAY_S))
            started = time.perf_counter()
            self._client.cancel(name, limit_s)
            took_s = self._await_ends([name], limit_s) - started
        finally:
            self._target.clear_faults()
        if len(self._target.everything()) != before:
            raise BenchmarkError("the cancelled job left something behind")
        return took_s

    def _await_ends(self, names: Sequence[str], limit_s: float) -> float:
        """Wait until the jobs have ended and a client has seen it; the time at which it saw the last one.

        Clients that poll the API would be measured themselves: at every 5 ms they cost it more than the jobs do. So
        the waiting is done on the database, which costs next to nothing, and the API is asked once at the end.
        """
        assert self._client is not None
        running = f"SELECT count(*) FROM clone_jobs WHERE end_time IS NULL AND name IN ({','.join('?' * len(names))})"  # noqa: S608
        with contextlib.closing(sqlite3.connect(self._database, isolation_level=None)) as database:
            wait_for(
                f"the end of {len(names)} job(s)",
                lambda: database.execute(running, names).fetchone() == (0,),
                limit_s,
                POLL_S,
            )
        last = self._client.states(names[-1:], limit_s)
        seen = time.perf_counter()
        self.ended.update(last + self._client.states(names[:-1], limit_s))
        return seen

    def _is_making_an_instance(self) -> bool:
        return any(seen.status is Status.CREATING for seen in self._target.everything())

    def _new_job(self, vm: str) -> str:
        self._created += 1
        return f"{vm}/cloneJobs/job-{self._created}"
