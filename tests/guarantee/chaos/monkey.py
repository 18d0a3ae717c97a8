"""The monkey: chooses faults by a seeded dice, several at a time, each of bounded length."""

from __future__ import annotations

import random
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from guarantee.chaos.cluster import API, STEPS, Cluster
from guarantee.chaos.faults import WORKERS, Faults, target_operations
from guarantee.chaos.proxy import Mode

AT_ONCE = 6
# How often a kind is chosen, and how many seconds lie between two of its group at least: a Python process needs some
# to start, and a service that is never up proves nothing.
_WEIGHTS = {
    "worker_killed": 3, "worker_tree_killed": 3, "pool_child_killed": 5, "api_killed": 2, "worker_frozen": 5,
    "broker_killed": 1, "broker_restarted": 1, "broker_flushed": 3, "database_restarted": 1, "database_crashed": 1,
    "link_latency": 5, "link_reset": 6, "link_half_open": 4, "link_refuse": 3,
    "target_fails": 4, "target_reply_lost": 4, "target_half_made": 3, "target_slow": 3, "target_hangs": 4,
    "target_refuses": 2, "killed_before_effect": 2, "killed_after_effect": 3, "target_outage": 1, "disk_full": 1,
}  # fmt: skip
_GROUPS = {
    "worker_killed": ("start", 7.0), "worker_tree_killed": ("start", 7.0), "api_killed": ("start", 7.0),
    "worker_frozen": ("freeze", 12.0),
    "broker_killed": ("broker", 20.0), "broker_restarted": ("broker", 20.0),
    "database_restarted": ("database", 25.0), "database_crashed": ("database", 25.0),
    "target_outage": ("outage", 30.0), "disk_full": ("disk", 25.0),
}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """One throw of the dice. ``busy`` is what no two faults may have at a time."""

    kind: str
    busy: str
    act: Callable[[], bool]


class Monkey:
    """Runs faults until it is told to stop; ``fired`` counts those that hit something."""

    def __init__(self, cluster: Cluster, seed: int, stop: threading.Event) -> None:
        self.faults = Faults(cluster, stop)
        self.fired: Counter[str] = Counter()
        self.missed: Counter[str] = Counter()
        self.times: list[tuple[float, float, str]] = []
        self.errors: list[str] = []
        self._cluster = cluster
        self._rng = random.Random(seed)
        self._stop = stop
        self._busy: set[str] = set()
        self._last: dict[str, float] = {}
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def run(self, seconds: float, pause_s: float) -> None:
        """Let faults loose for that long, ``pause_s`` apart in the mean, then wait until the last one is over."""
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at and not self._stop.wait(self._rng.expovariate(1 / pause_s)):
            plan = self._throw()
            if plan is not None:
                self._threads = [thread for thread in self._threads if thread.is_alive()]
                thread = threading.Thread(target=self._do, args=(plan,), name=plan.kind, daemon=True)
                self._threads.append(thread)
                thread.start()
        for thread in self._threads:
            thread.join()
        self.faults.script.clear_all()
        self._cluster.thaw()

    def _throw(self) -> Plan | None:
        """What comes next; None if that is not possible just now. Always throws the same dice."""
        rng = self._rng
        [kind] = rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()))
        plan = self._plan(kind, random.Random(rng.getrandbits(32)))
        group, apart_s = _GROUPS.get(kind, ("", 0.0))
        now = time.monotonic()
        with self._lock:
            if plan is None or plan.busy in self._busy or len(self._busy) >= AT_ONCE:
                return None
            if group and now - self._last.get(group, 0.0) < apart_s:
                return None
            self._busy.add(plan.busy)
            self._last[group] = now
        return plan

    def _plan(self, kind: str, rng: random.Random) -> Plan | None:
        faults = self.faults
        match kind.partition("_")[0]:
            case "worker" | "pool" | "api" if kind != "worker_frozen":
                name = API if kind == "api_killed" else rng.choice(STEPS if kind == "pool_child_killed" else WORKERS)
                return Plan(kind, f"kill {name}", lambda: faults.kill(kind, name, rng))
            case "worker":
                name, length = rng.choice((*STEPS, *STEPS, *WORKERS)), rng.uniform(5.5, 9.0)
                return Plan(kind, f"freeze {name}", lambda: faults.freeze(name, length))
            case "broker" if kind == "broker_flushed":
                return Plan(kind, "flush", faults.flush_broker)
            case "broker":
                return Plan(kind, "broker", lambda: faults.end_broker(kind))
            case "database":
                if self._cluster.postgres is None:
                    return None
                return Plan(kind, "database", lambda: faults.end_database(kind))
            case "link":
                link, mode, pick = rng.choice(self._cluster.links), Mode(kind.removeprefix("link_")), rng.random()
                length = {Mode.LATENCY: 4.0, Mode.RESET: 1.5, Mode.HALF_OPEN: 6.0, Mode.REFUSE: 3.0}[mode] * pick + 0.3
                delay = rng.uniform(0.02, 0.3)
                return Plan(kind, link, lambda: faults.disturb(link, mode, length, delay))
            case "disk":
                if not self._cluster.can_fill_disk:
                    return None
                length = rng.uniform(1.0, 5.0)
                return Plan(kind, "disk", lambda: faults.fill_disk(length))
            case _ if kind == "target_outage":
                length = rng.uniform(2.0, 8.0)
                return Plan(kind, "outage", lambda: faults.outage(length))
            case _:
                op, delay, times = rng.choice(target_operations(kind)), rng.uniform(0.5, 6.0), rng.choice((1, 1, 2, 4))
                times = 1 if kind.startswith("killed") else times
                return Plan(kind, f"{kind} {op}", lambda: faults.target_fault(kind, op, 4.0, delay, times))

    def _do(self, plan: Plan) -> None:
        began = time.time()
        try:
            hit = plan.act()
        except Exception:
            self.errors.append(f"{plan.kind}: {traceback.format_exc()}")
            hit = False
        with self._lock:
            (self.fired if hit else self.missed)[plan.kind] += 1
            if hit:
                self.times.append((began, time.time(), plan.kind))
            self._busy.discard(plan.busy)
