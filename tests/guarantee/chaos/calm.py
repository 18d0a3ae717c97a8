"""What is measured while nothing else goes wrong: cancels, single kills, and a target that is dead for a while."""

from __future__ import annotations

import datetime as dt
import random
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import sqlalchemy as sa
from sqlalchemy.orm import Session

from models.schema import CloneJob
from models.states import LedgerState
from targets.simulated_faults import Fault
from guarantee.chaos.cluster import PACE, STEPS, Cluster
from guarantee.chaos.faults import Faults, holder_pid
from guarantee.chaos.producers import Book, User

_PATIENCE_S = 60.0


class Calm:
    """The scenarios, on VMs that nobody else uses meanwhile."""

    def __init__(self, cluster: Cluster, faults: Faults, book: Book, seed: int, stop: threading.Event) -> None:
        self._cluster = cluster
        self._faults = faults
        self._book = book
        self._rng = random.Random(f"calm-{seed}")
        self._stop = stop
        self._count = 0
        self._lock = threading.Lock()

    def cancels(self, vms: list[str], wanted: int) -> list[float]:
        """Seconds from a cancel's request to CANCELLED, which is published after absence was observed."""
        halves = [vms[0::2], vms[1::2]]
        with ThreadPoolExecutor(2) as pool:
            found = pool.map(self._cancel_some, ("grpc", "rest"), halves, (wanted - wanted // 2, wanted // 2))
            return [sample for part in found for sample in part]

    def _cancel_some(self, transport: str, vms: list[str], wanted: int) -> list[float]:
        rng = random.Random(f"{transport}{self._rng.random()}")
        user = self._user(transport, rng)
        found: list[float] = []
        try:
            for attempt in range(4 * wanted):
                if len(found) >= wanted or self._stop.is_set():
                    break
                name = self._create(user, vms[attempt % len(vms)])
                time.sleep(rng.uniform(0.0, 0.6))
                asked_at = time.time()
                accepted = user.cancel(name)
                job = self._ended(name)
                if accepted and job.verdict == "CANCEL":
                    assert job.end_time is not None
                    found.append(job.end_time.timestamp() - asked_at)
        finally:
            user.close()
        return found

    def cancels_after_a_kill(self, vms: list[str], rounds: int) -> list[float]:
        """The same when the worker that holds the lease is killed with all its pool just before the cancel."""
        found = []
        for number in range(rounds):
            job = self._killed("worker_tree_killed", vms[number % len(vms)], cancel=True)
            if job is not None:
                found.append(job)
        return found

    def kills(self, vms: list[str], rounds: int) -> None:
        """Kill who holds a lease, in each way in turn. ``Faults.orphaned`` has what that left."""
        for number in range(rounds):
            kind = ("worker_tree_killed", "worker_killed", "pool_child_killed")[number % 3]
            self._killed(kind, vms[number % len(vms)], cancel=False)

    def _killed(self, kind: str, vm: str, *, cancel: bool) -> float | None:
        user = self._user("grpc", self._rng)
        short = vm.rpartition("/")[2]
        try:
            self._wait("both workers are up", lambda: all(self._cluster.pool_children(name) for name in STEPS))
            self._faults.script.put_first(Fault("create", "hang", kind="disk", name=f"{short}-*", delay_s=2.5))
            name = self._create(user, vm)
            self._wait(f"{name} is in the call", lambda: not self._pending(short) and self._holder(name))
            worker = self._holder(name)
            if worker is None or not self._faults.kill(kind, worker, self._rng):
                return None
            asked_at = time.time()
            if cancel:
                user.cancel(name)
            job = self._ended(name)
            assert job.end_time is not None
            return job.end_time.timestamp() - asked_at if job.verdict == "CANCEL" else None
        finally:
            user.close()

    def _pending(self, short: str) -> bool:
        return any(fault.fault == "hang" and fault.name == f"{short}-*" for fault in self._faults.script.left())

    def _holder(self, name: str) -> str | None:
        pid = holder_pid(self._job(name))
        for worker in STEPS:
            if pid in {child.pid for child in self._cluster.pool_children(worker)}:
                return worker
        return None

    def outage(self, vms: list[str], seconds: float) -> dict[str, object]:
        """The target answers nothing for a while, in the middle of jobs of which half are cancelled meanwhile."""
        user = self._user("grpc", self._rng)
        try:
            names = [self._create(user, vm) for vm in vms]
            self._wait("every job owns something", lambda: all(self._owns(name) for name in names))
            out = self._faults.script.put_first(Fault("*", "fail", times=None))
            for name in names[::2]:
                user.cancel(name)
            self._stop.wait(seconds)
            stuck = [job for job in map(self._job, names) if job.end_time is None]
            self._faults.script.withdraw(out)
            back_at = dt.datetime.now(dt.UTC)
        finally:
            user.close()
        waits = []
        for before in stuck:
            after = self._ended(before.name)
            assert before.wake_at is not None
            assert after.end_time is not None
            waits.append({
                "state": str(after.state), "attempts": before.cleanup_attempts or before.attempts,
                "announced_s": round(max(0.0, (before.wake_at - back_at).total_seconds()), 2),
                "took_s": round((after.end_time - back_at).total_seconds(), 2),
            })  # fmt: skip
        # One pause as it may grow (20 % of jitter), and the reconciler's look that ends it.
        bar_s = 1.2 * PACE["cleanup_pause_max_s"] + PACE["reconcile_interval_s"] + 1.0
        longest = max((wait["took_s"] for wait in waits), default=0.0)
        return {
            "outage_s": seconds,
            "stuck": waits,
            "longest_s": longest,
            "bar_s": bar_s,
            "met": bool(waits) and longest <= bar_s,
        }

    def _owns(self, name: str) -> bool:
        job = self._job(name)
        return job.end_time is not None or any(row.state is LedgerState.INTENDED for row in job.ledger)

    # Small things

    def _user(self, transport: str, rng: random.Random) -> User:
        return User(self._cluster.settings, transport, self._book, rng, self._stop)

    def _create(self, user: User, vm: str) -> str:
        with self._lock:
            self._count += 1
            job_id = f"calm-{self._count}"
        name = user.create(vm, job_id)
        if name is None:
            raise RuntimeError(f"{vm}: a create was refused although nothing was wrong: {self._book.answers}")
        return name

    def _job(self, name: str) -> CloneJob:
        with Session(self._cluster.engine, expire_on_commit=False) as session:
            return session.scalars(sa.select(CloneJob).where(CloneJob.name == name)).one()

    def _ended(self, name: str) -> CloneJob:
        self._wait(f"{name} has ended", lambda: self._job(name).end_time is not None)
        return self._job(name)

    def _wait(self, what: str, holds: Callable[[], object]) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while not holds():
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {_PATIENCE_S:.0f} s in vain until {what}")
            if self._stop.wait(0.02):
                raise InterruptedError(what)


def percentiles(samples: Iterable[float]) -> dict[str, float | int | None]:
    """n, p50, p99, max."""
    ordered = sorted(samples)
    if not ordered:
        return {"n": 0, "p50_s": None, "p99_s": None, "max_s": None}
    at = lambda share: round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3)  # noqa: E731
    return {"n": len(ordered), "p50_s": at(0.5), "p99_s": at(0.99), "max_s": round(ordered[-1], 3)}
