"""The parts of the service as real processes in a folder of their own, on free loopback ports, behind proxies.

What users run: ``clonejob worker`` and ``clonejob api``, kept alive by the supervisor of ``clonejob up``. The folder of
the data is a small file system of its own where root may mount one, so that a disk can really be full; the mount lives
in a mount namespace of this process alone and goes with it, whatever happens.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import kombu
import psutil
import psycopg
import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from models.db import make_engine
from targets.simulated import SimulatedTarget
from guarantee.chaos.postgres import Postgres
from guarantee.chaos.proxy import Proxies
from guarantee.chaos.rabbitmq import RabbitMq
from worker.broker import free_port, prepare_broker, wait_until_ready
from worker.composition import offer_target, upgrade_database
from worker.health import ping_workers
from worker.settings import Settings, child_command, child_environment
from worker.supervisor import ChildSpec, Supervisor

STEPS = ("steps-1", "steps-2")
CONTROL = ("control-1", "control-2")
API, BROKER, DATABASE = "api", "broker", "database"
DATA_SIZE_BYTES = 256 * 2**20
PACE: dict[str, float] = {
    "lease_s": 4,
    "provider_call_limit_s": 3,
    "reconcile_interval_s": 1,
    "dispatch_grace_s": 3,
    "poll_s": 0.3,
    "inline_wait_s": 0.3,
    "retry_pause_s": 0.5,
    "retry_pause_max_s": 4,
    "cleanup_pause_s": 0.5,
    "cleanup_pause_max_s": 4,
}
_CLONE_NEWNS = 0x20000


class Cluster:
    """All parts. Start, tend and close from the main thread: children die with the thread that started them."""

    def __init__(self, database: str, broker: str = "redis", **pace: float) -> None:
        """``pace``: settings in place of those of PACE."""
        self._pace = PACE | pace
        self.folder = Path(tempfile.mkdtemp(prefix="clonejob-chaos-"))
        self.folder.chmod(0o755)  # PostgreSQL's user must get through
        self.data_dir = self.folder / "data"
        self.supervisor = Supervisor()
        self.proxies = Proxies()
        self.frozen: set[str] = set()
        self.can_fill_disk = False
        self.rabbitmq = RabbitMq(self.folder) if broker == "rabbitmq" else None
        self.postgres = Postgres(self.folder) if database == "postgresql" else None
        self.links = ["broker-workers", "broker-api", *(["database-workers", "database-api"] if self.postgres else [])]

    def start(self) -> None:
        """Start everything and wait until it answers."""
        self.data_dir.mkdir()
        self._mount()
        self._start_broker()
        self.database_url = f"sqlite:///{self.data_dir}/clonejob.sqlite3"
        if self.postgres is not None:
            self.postgres.make()
            self.supervisor.start(self.postgres.spec(self._log(DATABASE)))
            self.database_url = self.postgres.url(self.postgres.port)
            self._until("PostgreSQL answers", self.postgres.answers)
        if self.rabbitmq is not None:
            self._until("RabbitMQ answers", self.rabbitmq.answers)
        else:
            wait_until_ready(self.broker_url, tend=self.supervisor.tend)
        self.settings = self._settings()
        root = self.data_dir / "targets" / "simulated"
        root.mkdir(parents=True)
        # The witness must be able to write when the disk that it watches is full.
        (root / "calls.jsonl").symlink_to(self.folder / "calls.jsonl")
        self.target = SimulatedTarget(root)
        upgrade_database(self.settings)
        self.engine = sa.create_engine(
            make_engine(self.database_url).url,
            poolclass=NullPool,
            connect_args={"connect_timeout": 3} if self.postgres else {"timeout": 10},
        )
        for name in STEPS:
            self._worker(name, "-Q", "disks,adapt,instances", "-c", "2", "--pool", "prefork")
        for name in CONTROL:
            self._worker(name, "-Q", "control,cleanup", "-c", "4", "--pool", "threads")
        api = self._environment("api")
        self.supervisor.start(
            ChildSpec(API, child_command("worker.cli", "api"), self._log(API), api, signal.SIGKILL, 8.0)
        )
        self._until("the workers answer", lambda: len(ping_workers(self.broker_url, 0.5)) == len(STEPS + CONTROL))
        offer_target(self.settings, "simulated")
        self._until("the API serves", lambda: b"serving" in self._log(API).read_bytes())
        self.supervisor.mark_ready()

    def _start_broker(self) -> None:
        if self.rabbitmq is not None:
            self.rabbitmq.make()
            self.broker_url = self.rabbitmq.url
            for spec in self.rabbitmq.specs(self.folder / "logs"):
                self.supervisor.start(spec)
            return
        broker = prepare_broker(self.data_dir)
        self.broker_url = broker.url
        self.supervisor.start(
            dataclasses.replace(broker.spec, log_path=self._log(BROKER), orphan_signal=signal.SIGKILL)
        )

    def _settings(self) -> Settings:
        return Settings(
            data_dir=self.data_dir, database_url=self.database_url, broker_url=self.broker_url,
            targets={"simulated": {"type": "simulated"}}, rest_port=free_port(), grpc_port=free_port(),
            task_events=False, **self._pace,
        )  # fmt: skip

    def _environment(self, who: str) -> dict[str, str]:
        """Settings with a proxy of its own before each part behind it."""
        port = int(self.broker_url.rpartition(":")[2].partition("/")[0])
        proxied = {"broker_url": self.broker_url.replace(f":{port}/", f":{self._link(f'broker-{who}', port)}/")}
        if self.postgres is not None:
            proxied["database_url"] = self.postgres.url(self._link(f"database-{who}", self.postgres.port))
        environment = child_environment(self.settings.model_copy(update=proxied))
        environment.pop("GRPC_ENABLE_FORK_SUPPORT", None)  # ours, not theirs
        return environment | {"TMPDIR": str(self.folder)}

    def _link(self, name: str, to_port: int) -> int:
        link = self.proxies.links.get(name)
        return link.port if link else self.proxies.add(name, to_port)

    def _worker(self, name: str, *arguments: str) -> None:
        command = child_command("worker.cli", "worker", "-n", f"{name}@%h", *arguments)
        self.supervisor.start(
            ChildSpec(name, command, self._log(name), self._environment("workers"), signal.SIGKILL, 3.0)
        )

    def _log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    def logs(self) -> list[Path]:
        """All logs, the older parts first."""
        return sorted((self.folder / "logs").iterdir(), reverse=True)

    def _until(self, what: str, holds: Callable[[], object], timeout_s: float = 180.0) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            with contextlib.suppress(
                OSError, psycopg.OperationalError, sa.exc.OperationalError, kombu.exceptions.OperationalError
            ):
                if holds():
                    return
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {timeout_s:.0f} s in vain until {what}; see {self.folder}/logs")
            self.supervisor.tend()
            time.sleep(0.1)

    def _mount(self) -> None:
        if os.geteuid() != 0 or ctypes.CDLL(None).unshare(_CLONE_NEWNS) != 0:
            return
        size = f"size={DATA_SIZE_BYTES}"
        for command in (["--make-rprivate", "/"], ["-t", "tmpfs", "-o", size, "tmpfs", str(self.data_dir)]):
            if subprocess.run(["mount", *command], capture_output=True, check=False).returncode != 0:
                return
        self.can_fill_disk = True

    # What the monkey asks

    def pid(self, name: str) -> int | None:
        """Process id of a part, while it lives."""
        return self.supervisor.children[name].pid

    def pool_children(self, name: str) -> list[psutil.Process]:
        """The processes of a worker's pool."""
        pid = self.pid(name)
        with contextlib.suppress(psutil.Error):
            return psutil.Process(pid).children() if pid else []
        return []

    def signal(self, name: str, number: int, *, group: bool = False) -> list[int]:
        """Signal a part or its whole process group; which processes that hit."""
        pid = self.pid(name)
        if pid is None:
            return []
        hit = [pid, *(child.pid for child in self.pool_children(name))] if group or number == signal.SIGKILL else [pid]
        try:
            os.killpg(pid, number) if group else os.kill(pid, number)
        except ProcessLookupError:
            return []
        return hit

    def close(self) -> list[str]:
        """End all and remove the folder; what had to be ended by force because it was left over."""
        self.thaw()
        children = self.supervisor.children
        for name in (*STEPS, *CONTROL):
            if name in children:
                children[name].forget()
                children[name].kill()
        self.supervisor.stop([API, *STEPS, *CONTROL])
        if DATABASE in children:
            children[DATABASE].forget()
            children[DATABASE].signal(signal.SIGINT)  # SIGTERM would wait for clients
        if self.rabbitmq is not None and BROKER in children:
            children[BROKER].forget()
            children[BROKER].kill()  # nothing in it is kept, and its own way of ending takes seconds
        self.supervisor.stop([BROKER, DATABASE], ["epmd"])
        self.proxies.close()
        left = self._end_the_rest()
        if self.can_fill_disk:
            subprocess.run(["umount", str(self.data_dir)], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)
        return left + ([str(self.folder)] if self.folder.exists() else [])

    def thaw(self) -> None:
        """Let go on whatever is frozen."""
        for name in list(self.frozen):
            self.signal(name, signal.SIGCONT, group=True)
            self.frozen.discard(name)

    def _end_the_rest(self) -> list[str]:
        left = []
        mark = os.fsencode(f"{self.folder}/")
        deadline = time.monotonic() + 5
        while True:
            ours = [process for process in psutil.process_iter() if _carries(process.pid, mark)]
            if not ours:
                return left
            if time.monotonic() > deadline:
                for process in ours:
                    with contextlib.suppress(psutil.Error):
                        left.append(" ".join(process.cmdline())[:200])
                        process.kill()
                return left
            time.sleep(0.1)


def _carries(pid: int, mark: bytes) -> bool:
    if pid == os.getpid():
        return False
    with contextlib.suppress(OSError):
        about = Path(f"/proc/{pid}/cmdline").read_bytes()
        return mark in about + Path(f"/proc/{pid}/environ").read_bytes()
    return False
