"""Process chaos: the service as real processes, broken at random for some minutes, then judged.

    python tests/guarantee/chaos/__main__.py [--minutes 10] [--seed N] [--database sqlite] [--evidence FOLDER]

First, while nothing else goes wrong: cancels, single kills, and a target that is dead for a while. Then a seeded monkey
kills, freezes, restarts, flushes, cuts links and fills the disk, while producers submit and cancel. Then all of it
stops, and when every job has had time to end the judge holds R1 to R9 against the target's own log. Prints one JSON
document; the exit status is 1 if a rule was broken. It ends and removes all that it started.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # as pytest does
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"  # its handlers abort children that are forked while producers call

import sqlalchemy as sa
from sqlalchemy.orm import Session

from guarantee.arguments import Parser, above_zero, seconds, whole
from models.schema import CloneJob
from targets.simulated_faults import Fault
from guarantee.chaos.calm import Calm
from guarantee.chaos.cluster import Cluster
from guarantee.chaos.monkey import Monkey
from guarantee.chaos.producers import Book, Producer, import_vms
from guarantee.chaos.report import keep_evidence, report

SETTLE_S = 300.0  # more than the longest pause that the reconciler had grown to
FAST, SLOW, PRODUCERS = 16, 24, 6


def main() -> int:
    """Run and print."""
    size = _arguments()
    for name in [name for name in os.environ if name.startswith("CLONEJOB_")]:
        del os.environ[name]
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    started = time.monotonic()
    cluster = Cluster(size.database, size.broker)
    run = Run(cluster, size)
    document: dict[str, Any] = {}
    try:
        _say(f"seed {size.seed}; everything is in {cluster.folder}")
        cluster.start()
        run.start()
        while run.is_alive():
            cluster.supervisor.tend()
            time.sleep(0.05)
        if run.error is not None:
            raise run.error
        document = _header(size) | run.document
        if size.evidence:
            keep_evidence(cluster, Path(size.evidence), document)
    finally:
        run.stop.set()
        left = cluster.close()
    document["left_behind"] = left
    document["seconds"] = round(time.monotonic() - started, 1)
    print(json.dumps(document, indent=2))
    return 1 if document["violations"] or document["harness_errors"] or left else 0


def _arguments() -> argparse.Namespace:
    parser = Parser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=above_zero, default=10.0, help="of faults (default 10)")
    parser.add_argument("--seed", type=whole(0), default=None, help="of the monkey and the producers (default: any)")
    parser.add_argument("--database", choices=["postgresql", "sqlite"], default="postgresql")
    parser.add_argument("--broker", choices=["redis", "rabbitmq"], default="redis")
    parser.add_argument("--cancels", type=whole(0), default=100, help="healthy cancels to measure first (default 100)")
    parser.add_argument("--kills", type=whole(0), default=9, help="single kills to measure first (default 9)")
    parser.add_argument("--outage", type=seconds, default=15.0, help="seconds that the target is dead (default 15)")
    parser.add_argument(
        "--pause", type=above_zero, default=2.0, help="mean seconds between a producer's jobs (default 2)"
    )
    parser.add_argument(
        "--fault-pause", type=above_zero, default=1.2, help="mean seconds between two faults (default 1.2)"
    )
    parser.add_argument("--evidence", default="", help="keep logs, the call log and all rows in this folder")
    given = parser.parse_args()
    if given.seed is None:
        given.seed = random.randrange(10_000)
    return given


def _stop(*_: Any) -> NoReturn:
    raise SystemExit(143)  # through every finally, so that nothing is left


def _say(what: str) -> None:
    print(time.strftime("%H:%M:%S"), what, file=sys.stderr, flush=True)


def _header(size: argparse.Namespace) -> dict[str, Any]:
    return {
        "chaos": size.database, "broker": size.broker, "seed": size.seed, "minutes": size.minutes,
        "machine": {"cpu_count": os.cpu_count(), "python": platform.python_version(), "load_1m": os.getloadavg()[0]},
    }  # fmt: skip


class Run(threading.Thread):
    """What happens to the service, beside the main thread, which keeps the processes alive."""

    def __init__(self, cluster: Cluster, size: argparse.Namespace) -> None:
        super().__init__(name="run", daemon=True)
        self.stop = threading.Event()
        self.error: Exception | None = None
        self.document: dict[str, Any] = {}
        self._cluster = cluster
        self._size = size

    def run(self) -> None:
        """All of it; ``error`` holds what went wrong with the harness itself."""
        try:
            self._run()
        except Exception as error:
            self.error = error

    def _run(self) -> None:
        cluster, size, book = self._cluster, self._size, Book()
        monkey = Monkey(cluster, size.seed, self.stop)
        fast = import_vms(cluster.settings, [f"fast-{number}" for number in range(FAST)])
        slow = import_vms(cluster.settings, [f"slow-{number}" for number in range(SLOW)])
        for op, delay_s in (("create", 0.4), ("delete", 0.3)):
            monkey.faults.script.add(Fault(op, "slow", name="slow-*", times=None, delay_s=delay_s))
        calm = self._calm(Calm(cluster, monkey.faults, book, size.seed, self.stop), fast, slow)
        calm_kills = len(monkey.faults.orphaned)
        _say(f"{size.minutes:g} minutes of chaos")
        ended = threading.Event()
        producers = [
            Producer(number, size.seed, [*fast, *slow], cluster.settings, book, ended, size.pause)
            for number in range(PRODUCERS)
        ]
        for producer in producers:
            producer.start()
        try:
            monkey.run(60 * size.minutes, size.fault_pause)
        finally:
            ended.set()
        for producer in producers:
            producer.join(60)
        monkey.errors += [producer.error for producer in producers if producer.error]
        settled_s = self._settle()
        _say("judging")
        self.document = report(cluster, monkey, book, calm, calm_kills) | {"settled_s": settled_s}

    def _calm(self, calm: Calm, fast: list[str], slow: list[str]) -> dict[str, Any]:
        size, found = self._size, {}
        if size.cancels:
            _say(f"{size.cancels} healthy cancels")
            found["cancels"] = calm.cancels(fast, size.cancels)
        if size.kills:
            _say(f"{size.kills} kills, {size.kills // 2} kills before a cancel")
            calm.kills(slow, size.kills)
            found["cancels_after_a_kill"] = calm.cancels_after_a_kill(slow, size.kills // 2)
        if size.outage:
            _say(f"the target is dead for {size.outage:g} s")
            found["outage"] = calm.outage(slow[:8], size.outage)
        return found

    def _settle(self) -> float:
        """Wait until every job has ended, or has had its time; how long that took."""
        started = time.monotonic()
        running = sa.select(sa.func.count()).select_from(CloneJob).where(CloneJob.end_time.is_(None))
        while time.monotonic() - started < SETTLE_S and not self.stop.wait(0.5):
            try:
                with Session(self._cluster.engine) as session:
                    if not session.scalar(running):
                        break
            except sa.exc.DBAPIError:
                continue  # it is being started again
        return round(time.monotonic() - started, 1)


if __name__ == "__main__":
    sys.exit(main())
