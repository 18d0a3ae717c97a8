"""What is measured: the protocol of a system, and the one to compare with."""

from __future__ import annotations

import collections
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import redis

from benchmarks import bare_chain
from worker.settings import child_command
from worker.supervisor import ChildSpec

ROOT = Path(__file__).resolve().parents[1]
WORKERS = 2


class BenchmarkError(Exception):
    """A system did not do its work in time; nothing can be said about it."""


class System(Protocol):
    """One of the two. ``ended`` counts the jobs by how they ended."""

    name: str
    ended: collections.Counter[str]

    def burst(self, jobs: int, limit_s: float) -> float:
        """Submit that many jobs at once; seconds from the first submission until the last end was seen."""

    def single(self, limit_s: float) -> float:
        """One job while nothing else runs; seconds from its submission until its end was seen."""


def wait_for(what: str, found: Callable[[], Any], limit_s: float, poll_s: float = 0.05) -> Any:
    """The first true answer. Raises: BenchmarkError when there is none in time."""
    deadline = time.monotonic() + limit_s
    while not (answer := found()):
        if time.monotonic() > deadline:
            raise BenchmarkError(f"{what} did not happen within {limit_s:.0f} s")
        time.sleep(poll_s)
    return answer


class BareChain:
    """A Celery worker as one starts it by hand, and a client that knows the end by the Redis list."""

    name = "bare_chain"

    def __init__(self, broker_url: str) -> None:
        self.ended: collections.Counter[str] = collections.Counter()
        self._url = broker_url
        self._app = bare_chain.make_app(broker_url)
        self._done = redis.Redis.from_url(broker_url)

    def spec(self, folder: Path) -> ChildSpec:
        """How its worker is started."""
        worker = ("celery", "-A", "benchmarks.bare_chain", "worker", "--pool", "prefork", "-c", str(WORKERS))
        env = os.environ | {"PYTHONPATH": str(ROOT), bare_chain.BROKER_VARIABLE: self._url}
        argv = child_command(*worker, "--loglevel", "INFO", "-Q", bare_chain.QUEUE, "-n", "bare@%h")
        return ChildSpec(self.name, argv, folder / "bare.log", env)

    def close(self) -> None:
        """Give the connections back."""
        self._app.close()
        self._done.close()

    def burst(self, jobs: int, limit_s: float) -> float:
        """See ``System``."""
        started = time.perf_counter()
        for number in range(jobs):
            bare_chain.bare_chain(self._app, f"job-{number}").apply_async()
        self._await(jobs, limit_s)
        return time.perf_counter() - started

    def single(self, limit_s: float) -> float:
        """See ``System``."""
        return self.burst(1, limit_s)

    def _await(self, jobs: int, limit_s: float) -> None:
        deadline = time.monotonic() + limit_s
        for _ in range(jobs):
            left_s = deadline - time.monotonic()
            if left_s <= 0 or self._done.blpop([bare_chain.DONE_LIST], timeout=left_s) is None:
                raise BenchmarkError(f"the bare chains did not end within {limit_s:.0f} s")
            self.ended["DONE"] += 1


def tell(text: str) -> None:
    """Progress, for people."""
    print(text, file=sys.stderr, flush=True)
