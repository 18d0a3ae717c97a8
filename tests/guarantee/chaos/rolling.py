"""Rolling restarts under load: every worker is told to stop (SIGTERM) and started again, one after the other.

    python tests/guarantee/chaos/rolling.py [--restarts 20] [--seed N] [--database sqlite]

Producers submit and cancel all the while, and each restart waits until its worker is at work, so that it falls into the
middle of a step. Leases are long: what a worker did not hand back would stand still for a minute and be counted as a
lease lost. Prints one JSON document; the exit status is 1 if a rule was broken, a lease was lost, or a worker took
longer to end than a call to the target may take.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"  # its handlers abort children that are forked while producers call

import sqlalchemy as sa
from sqlalchemy.orm import Session

from models.schema import CloneJob, JobEvent
from targets.simulated_faults import Fault
from guarantee.arguments import Parser, above_zero, whole
from guarantee.chaos.calm import percentiles
from guarantee.chaos.cluster import CONTROL, STEPS, Cluster
from guarantee.chaos.faults import Faults
from guarantee.chaos.producers import Book, Producer, import_vms
from guarantee.judge import Violation, judge, read_jobs
from worker.health import ping_workers

PRODUCERS, VMS = 4, 24
LEASE_S, CALL_LIMIT_S = 60.0, 10.0
SETTLE_S, BUSY_S, BACK_S = 120.0, 5.0, 90.0


def main() -> int:
    """Run and print."""
    size = _arguments()
    for name in [name for name in os.environ if name.startswith("CLONEJOB_")]:
        del os.environ[name]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # through every finally, so that nothing is left
    cluster = Cluster(
        size.database, size.broker, lease_s=LEASE_S, provider_call_limit_s=CALL_LIMIT_S, dispatch_grace_s=LEASE_S
    )
    document: dict[str, Any] = {}
    try:
        print(f"seed {size.seed}; everything is in {cluster.folder}", file=sys.stderr, flush=True)
        cluster.start()
        document = Rolling(cluster, size).run()
    finally:
        left = cluster.close()
    document["left_behind"] = left
    document["met"] = _met(document)
    print(json.dumps(document, indent=2))
    return 0 if document["met"] else 1


def _arguments() -> argparse.Namespace:
    parser = Parser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--restarts", type=whole(1), default=20, help="in all, over all workers in turn (default 20)")
    parser.add_argument("--seed", type=whole(0), default=random.randrange(10_000), help="of the producers")
    parser.add_argument("--database", choices=["postgresql", "sqlite"], default="postgresql")
    parser.add_argument("--broker", choices=["redis", "rabbitmq"], default="redis")
    parser.add_argument("--pause", type=above_zero, default=0.7, help="mean seconds between a producer's jobs")
    return parser.parse_args()


def _met(found: dict[str, Any]) -> bool:
    clean = not (found["violations"] or found["harness_errors"] or found["left_behind"] or found["leases_lost"])
    # A job that nobody handed back would wait for its lease or for the dispatch grace.
    quick = found["drain"]["max_s"] <= found["drain"]["bar_s"] and found["job_seconds"]["max_s"] < LEASE_S
    return clean and quick and found["in_the_middle_of_a_step"] > 0


class Rolling:
    """The restarts, and what became of the jobs."""

    def __init__(self, cluster: Cluster, size: argparse.Namespace) -> None:
        self._cluster = cluster
        self._size = size
        self._faults = Faults(cluster, threading.Event())
        self.drains: list[float] = []
        self.busy = 0

    def run(self) -> dict[str, Any]:
        """Restart under load, settle, judge."""
        cluster, size, book, ended = self._cluster, self._size, Book(), threading.Event()
        for op, delay_s in (("create", 0.5), ("delete", 0.3)):
            self._faults.script.add(Fault(op, "slow", times=None, delay_s=delay_s))
        vms = self._import()
        producers = [
            Producer(number, size.seed, vms, cluster.settings, book, ended, size.pause) for number in range(PRODUCERS)
        ]
        for producer in producers:
            producer.start()
        errors = []
        try:
            names = [name for pair in zip(STEPS, CONTROL, strict=True) for name in pair]
            for number in range(size.restarts):
                self._restart(names[number % len(names)])
        except TimeoutError as error:
            errors.append(str(error))
        finally:
            ended.set()
        for producer in producers:
            producer.join(60)
        errors += [producer.error for producer in producers if producer.error]
        settled_s = self._settle()
        return self._report(book, errors) | {"settled_s": settled_s}

    def _import(self) -> list[str]:
        """Beside the main thread, which keeps the processes alive."""
        made: list[str] = []
        thread = threading.Thread(
            target=lambda: made.extend(import_vms(self._cluster.settings, [f"vm-{n}" for n in range(VMS)]))
        )
        thread.start()
        while thread.is_alive():
            self._tend(0.05)
        return made

    def _tend(self, seconds: float) -> None:
        self._cluster.supervisor.tend()
        time.sleep(seconds)

    def _restart(self, name: str) -> None:
        """SIGTERM in the middle of its work; wait until its successor answers."""
        give_up_at = time.monotonic() + BUSY_S
        while not (held := self._faults.held_by(name)) and time.monotonic() < give_up_at:
            self._tend(0.02)
        self.busy += bool(held)
        before, began = self._cluster.pid(name), time.monotonic()
        self._cluster.signal(name, signal.SIGTERM)
        while self._cluster.pid(name) == before:
            if time.monotonic() - began > BACK_S:
                raise TimeoutError(f"{name} did not end within {BACK_S:.0f} s")
            self._tend(0.02)
        self.drains.append(time.monotonic() - began)
        while f"{name}@" not in " ".join(ping_workers(self._cluster.broker_url, 0.5)) or not self._cluster.pid(name):
            if time.monotonic() - began > BACK_S:
                raise TimeoutError(f"{name} did not come back within {BACK_S:.0f} s")
            self._tend(0.05)

    def _settle(self) -> float:
        began = time.monotonic()
        running = sa.select(sa.func.count()).select_from(CloneJob).where(CloneJob.end_time.is_(None))
        while time.monotonic() - began < SETTLE_S:
            with Session(self._cluster.engine) as session:
                if not session.scalar(running):
                    break
            self._tend(0.2)
        return round(time.monotonic() - began, 1)

    def _report(self, book: Book, errors: list[str]) -> dict[str, Any]:
        cluster = self._cluster
        calls = cluster.target.calls()
        finding = judge(cluster.engine, cluster.target, final=True, accepted=dict(book.accepted), calls=calls)
        violations = [*finding.violations, *(Violation("R7", "", broken) for broken in book.broken)]
        jobs = read_jobs(cluster.engine)
        lost = sa.select(sa.func.count()).where(JobEvent.kind.in_(("lease_lost", "lease_forfeited")))
        with Session(cluster.engine) as session:
            leases_lost = session.scalar(lost)
        return {
            "rolling_restarts": len(self.drains), "in_the_middle_of_a_step": self.busy, "seed": self._size.seed,
            "database": self._size.database, "broker": self._size.broker, "cpu_count": os.cpu_count(), "load_1m": os.getloadavg()[0],
            "jobs": {"total": len(jobs), **finding.jobs},
            "violations": [violation._asdict() for violation in violations],
            "leases_lost": leases_lost,
            "drain": percentiles(self.drains) | {"bar_s": CALL_LIMIT_S},
            "job_seconds": percentiles(
                (job.end_time - job.create_time).total_seconds() for job in jobs if job.end_time is not None
            ),
            "late_calls_without_effect": len(finding.late_calls),
            "harness_errors": errors,
        }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
