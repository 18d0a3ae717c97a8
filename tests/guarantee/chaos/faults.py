"""Every fault that the monkey knows: what it does, for how long, and whether it has really hit something."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import signal
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import amqp
import kombu
import psutil
import redis
import sqlalchemy as sa

from models.schema import CloneJob
from targets.local_files import locked
from targets.simulated_faults import Fault, FaultScript
from guarantee.chaos.cluster import API, BROKER, CONTROL, DATABASE, STEPS, Cluster
from guarantee.chaos.proxy import Mode
from worker.health import redis_client

T = TypeVar("T")
# What a fault of the target may be, with the calls that it may hit.
_TARGET = {
    "target_fails": ("fail", ("create", "find", "delete", "bury", "boot_report")),
    "target_reply_lost": ("lose_reply", ("create", "find", "delete", "bury")),
    "target_half_made": ("half_made", ("create",)),
    "target_slow": ("slow", ("create", "delete")),
    "target_hangs": ("hang", ("create", "find", "delete", "boot_report")),
    "target_refuses": ("refuse", ("create",)),
    "killed_before_effect": ("crash_before", ("create", "delete")),
    "killed_after_effect": ("crash_after", ("create", "delete")),
}


class TargetFaults(FaultScript):
    """The target's script, where a new fault comes before those that stand for ever."""

    def put_first(self, fault: Fault) -> str:
        """Script a fault; its id."""
        fault = dataclasses.replace(fault, id=uuid.uuid4().hex)
        with locked(self._lock, timeout_s=10):
            self._write([fault, *self._read()])
        return fault.id

    def clear_all(self) -> None:
        """Forget all but those that stand for ever as the target's own slowness."""
        with locked(self._lock, timeout_s=10):
            self._write([fault for fault in self._read() if fault.name != "*"])

    def withdraw(self, fault_id: str) -> int:
        """Forget a fault; how many occurrences of it were left."""
        with locked(self._lock, timeout_s=10):
            faults = self._read()
            self._write([fault for fault in faults if fault.id != fault_id])
        return sum(fault.times or 0 for fault in faults if fault.id == fault_id)


@dataclasses.dataclass(frozen=True)
class Orphaned:
    """A lease whose holder was killed at ``time``."""

    job_id: str
    time: float
    pids: frozenset[int]
    kind: str


class Faults:
    """Does what the monkey has chosen. Each fault returns whether it hit something; it ends by itself or at ``stop``."""

    def __init__(self, cluster: Cluster, stop: threading.Event) -> None:
        self.cluster = cluster
        self.orphaned: list[Orphaned] = []
        self.frozen = 0  # leases whose holder was frozen
        self.taken_over: set[str] = set()  # jobs that others had taken over when it thawed
        self.script = TargetFaults(cluster.target.root)
        self._stop = stop

    # Processes

    def kill(self, kind: str, name: str, rng: random.Random) -> bool:
        """SIGKILL of a part's main process, of one child of its pool, or of its whole tree."""
        if kind == "pool_child_killed":
            children = self.cluster.pool_children(name)
            if not children:
                return False
            hit = [rng.choice(children).pid]
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(hit[0]).kill()
        else:
            hit = self.cluster.signal(name, signal.SIGKILL, group=kind == "worker_tree_killed")
        if hit and name != API:
            self._note_orphans(kind, hit)
        return bool(hit)

    def _note_orphans(self, kind: str, pids: list[int]) -> None:
        now = time.time()
        self.orphaned += [
            Orphaned(job.id, now, frozenset(pids), kind) for job in self.holders() or [] if holder_pid(job) in pids
        ]

    def holders(self) -> list[CloneJob] | None:
        """Jobs on which somebody holds a lease now; None while the database does not answer."""
        with contextlib.suppress(sa.exc.DBAPIError):
            with sa.orm.Session(self.cluster.engine, expire_on_commit=False) as session:
                query = sa.select(CloneJob).where(CloneJob.lease_owner.is_not(None), CloneJob.end_time.is_(None))
                return list(session.scalars(query))
        return None

    def freeze(self, name: str, seconds: float) -> bool:
        """SIGSTOP of a worker and its pool while it holds a lease, if it does soon; SIGCONT when others have taken over."""
        give_up_at = time.monotonic() + 5
        while not self.held_by(name) and time.monotonic() < give_up_at and not self._stop.wait(0.02):
            pass
        pid = self.cluster.pid(name)
        if not self.cluster.signal(name, signal.SIGSTOP, group=True):
            return False
        self.cluster.frozen.add(name)
        held = self.held_by(name) or set()
        self._stop.wait(seconds)
        kept, give_up_at = held, time.monotonic() + 10
        while kept and time.monotonic() < give_up_at and not self._stop.wait(0.1):
            still = self.held_by(name)
            kept = kept if still is None else kept & still
        self.frozen += len(held)
        if self.cluster.pid(name) == pid:  # else it was killed meanwhile, and another stands in its place
            self.taken_over |= held - kept
            self.cluster.signal(name, signal.SIGCONT, group=True)
        self.cluster.frozen.discard(name)
        return True

    def held_by(self, name: str) -> set[str] | None:
        """Ids of the jobs on which a part holds a lease now; None while the database does not answer."""
        pids = {self.cluster.pid(name), *(child.pid for child in self.cluster.pool_children(name))}
        jobs = self.holders()
        return None if jobs is None else {job.id for job in jobs if holder_pid(job) in pids}

    # Broker and database

    def end_broker(self, kind: str) -> bool:
        """The supervisor starts it again; its append-only file holds what it had synced."""
        return bool(self.cluster.signal(BROKER, signal.SIGKILL if kind == "broker_killed" else signal.SIGTERM))

    def flush_broker(self) -> bool:
        """FLUSHALL, or a purge of every queue: every message is lost."""
        if self.cluster.rabbitmq is not None:
            with contextlib.suppress(OSError, kombu.exceptions.OperationalError, amqp.exceptions.AMQPError):
                return self.cluster.rabbitmq.purge()
            return False
        client = redis_client(self.cluster.broker_url, timeout_s=2.0)
        try:
            return bool(client.flushall())
        except redis.RedisError:
            return False
        finally:
            client.close()

    def end_database(self, kind: str) -> bool:
        """As ``pg_ctl stop -m fast`` or ``-m immediate`` does it; the supervisor starts it again."""
        return bool(self.cluster.signal(DATABASE, signal.SIGINT if kind == "database_restarted" else signal.SIGQUIT))

    # Links, target, disk

    def disturb(self, link: str, mode: Mode, seconds: float, delay_s: float) -> bool:
        """Have a link behave badly for a time."""
        self.cluster.proxies.switch(link, mode, delay_s)
        self._stop.wait(seconds)
        return self.cluster.proxies.switch(link, Mode.THROUGH) > 0

    def target_fault(self, kind: str, op: str, seconds: float, delay_s: float, times: int = 1) -> bool:
        """A fault of the target for the next calls, withdrawn if none comes in time."""
        fault = Fault(op, _TARGET[kind][0], times=times, delay_s=delay_s)
        try:
            fault_id = self.script.put_first(fault)
        except OSError:
            return False  # its disk is full
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at and any(each.id == fault_id for each in self.script.left()):
            if self._stop.wait(0.2):
                break
        return until_written(lambda: self.script.withdraw(fault_id)) < times

    def outage(self, seconds: float) -> bool:
        """The target fails every call."""
        try:
            fault_id = self.script.put_first(Fault("*", "fail", times=None))
        except OSError:
            return False
        self._stop.wait(seconds)
        until_written(lambda: self.script.withdraw(fault_id))
        return True

    def fill_disk(self, seconds: float) -> bool:
        """Leave no byte on the file system of the data folder."""
        ballast = self.cluster.data_dir / "ballast"
        ends_at = time.monotonic() + seconds
        full = False
        try:
            while time.monotonic() < ends_at and not self._stop.wait(0.2):
                full = _fill(ballast) or full
        finally:
            ballast.unlink(missing_ok=True)
        return full


def target_operations(kind: str) -> tuple[str, ...]:
    """The calls that a fault of the target may hit."""
    return _TARGET[kind][1]


def holder_pid(job: CloneJob) -> int:
    """Process id in a lease: HOST:PID/RANDOM."""
    return int((job.lease_owner or ":0").partition("/")[0].rpartition(":")[2])


def until_written(write: Callable[[], T]) -> T:
    """Do it again while the disk is full."""
    while True:
        try:
            return write()
        except OSError:
            time.sleep(0.2)


def _fill(ballast: Path) -> bool:
    with ballast.open("ab") as file:
        free = os.fstatvfs(file.fileno())
        missing = free.f_bavail * free.f_frsize
        if missing:
            with contextlib.suppress(OSError):
                os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, missing)
        return os.fstatvfs(file.fileno()).f_bavail == 0


WORKERS = (*STEPS, *CONTROL)
