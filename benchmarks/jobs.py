"""Jobs of four steps: this service, with the guarantee on, beside a bare Celery chain that guarantees nothing.

    python benchmarks/jobs.py [--rounds 3] [--jobs 60] [--quick]

Both run at the same time on one private broker in a temporary folder, and are measured in turns; so a round's ratio
says more than its absolute figures, which drift with the machine. Prints one JSON document on stdout.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # python -P does not

import grpc

from benchmarks import clone_jobs, figures
from benchmarks.clone_jobs import CloneJobs
from benchmarks.systems import WORKERS, BareChain, BenchmarkError, System, tell
from worker.broker import BrokerError, running_broker
from worker.settings import load_settings
from worker.supervisor import ChildFailed, Supervisor

_START_LIMIT_S = 60.0
_BURST_LIMIT_S = 120.0
_SINGLE_LIMIT_S = 30.0


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured in each round."""

    rounds: int
    jobs: int
    idle_jobs: int
    cancels: int


def main() -> int:
    """Measure, print, and say by the exit status whether every job ended as it should."""
    size = _arguments()
    signal.signal(signal.SIGTERM, _stop)
    for name in [name for name in os.environ if name.startswith("CLONEJOB_")]:
        del os.environ[name]  # nobody's own settings are measured
    started = time.monotonic()
    try:
        document = _measure(size)
    except (BenchmarkError, BrokerError, ChildFailed) as error:
        tell(f"error: {error}")
        return 1
    except grpc.RpcError as error:
        tell(f"error: the service answered {error.code()}: {error.details()}")
        return 1
    except KeyboardInterrupt:
        tell("error: interrupted")
        return 130
    document["seconds"] = round(time.monotonic() - started, 1)
    print(json.dumps(document, indent=2))
    return 0 if document["as_expected"] else 1


def _arguments() -> Size:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=_positive, default=3, help="rounds of both systems (default 3)")
    parser.add_argument("--jobs", type=_positive, default=60, help="jobs that are submitted at once (default 60)")
    parser.add_argument("--quick", action="store_true", help="a few jobs in one round: shows that it works, no more")
    given = parser.parse_args()
    if given.quick:
        return Size(rounds=1, jobs=min(given.jobs, 5), idle_jobs=3, cancels=1)
    return Size(rounds=given.rounds, jobs=given.jobs, idle_jobs=25, cancels=7)


def _positive(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 1000:
        raise argparse.ArgumentTypeError("must be from 1 to 1000")
    return number


def _stop(*_: Any) -> NoReturn:
    raise SystemExit(143)  # through every finally, so that nothing is left


def _measure(size: Size) -> dict[str, Any]:
    load_before = os.getloadavg()[0]
    with _running(size) as (bare, ours):
        tell("warming up")
        for system in (bare, ours):
            system.burst(min(size.jobs, 5), _BURST_LIMIT_S)
        cancelled = size.rounds * size.cancels
        rounds = [_round(number, size, bare, ours) for number in range(1, size.rounds + 1)]
    expected = _expected(size, cancelled)
    ended = {system.name: dict(system.ended) for system in (bare, ours)}
    return {
        "benchmark": "jobs",
        "parameters": asdict(size)
        | {
            "workers": WORKERS,
            "poll_s": clone_jobs.POLL_S,
        },
        "machine": figures.machine() | {"load_1m_before": load_before, "load_1m_after": os.getloadavg()[0]},
        "rounds": rounds,
        "summary": figures.summary(rounds),
        "jobs_ended": ended,
        "as_expected": ended == expected,
    }


def _expected(size: Size, cancelled: int) -> dict[str, dict[str, int]]:
    each = min(size.jobs, 5) + size.rounds * (size.jobs + size.idle_jobs)
    return {BareChain.name: {"DONE": each}, CloneJobs.name: {"SUCCEEDED": each, "CANCELLED": cancelled}}


@contextlib.contextmanager
def _running(size: Size) -> Iterator[tuple[BareChain, CloneJobs]]:
    """Both systems, started; at the end nothing of them is left."""
    with tempfile.TemporaryDirectory(prefix="clonejob-bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        broker_url = stack.enter_context(running_broker(folder))
        tell(f"starting both systems in {folder}")
        bare = BareChain(broker_url.removesuffix("/0") + "/1")  # a database of its own on the same broker
        ours = CloneJobs(
            load_settings(data_dir=folder / "data", broker_url=broker_url, rest_port=0, grpc_port=0, workers=WORKERS)
        )
        supervisor = Supervisor()
        stack.callback(lambda: supervisor.stop([BareChain.name, CloneJobs.name]))
        for system in (bare, ours):
            stack.callback(system.close)
            supervisor.start(system.spec(folder))
        ours.connect(supervisor, _START_LIMIT_S)
        ours.set_up(size.jobs)
        yield bare, ours


def _round(number: int, size: Size, bare: BareChain, ours: CloneJobs) -> dict[str, figures.Figures]:
    """Every figure of both; who goes first changes from round to round."""
    order: tuple[System, ...] = (bare, ours) if number % 2 else (ours, bare)
    found: dict[str, figures.Figures] = {bare.name: {}, ours.name: {}}
    for system in order:
        took_s = system.burst(size.jobs, _BURST_LIMIT_S)
        found[system.name]["jobs_per_s"] = round(size.jobs / took_s, 2)
    for system in order:
        samples_s = _samples(system.single, size.idle_jobs)
        found[system.name] |= figures.idle_figures(samples_s)
    cancels_s = _samples(ours.cancel, size.cancels)
    found[ours.name]["cancel_p50_ms"] = figures.milliseconds(figures.percentile(cancels_s, 50))
    found[ours.name]["cancel_max_ms"] = figures.milliseconds(max(cancels_s))
    found["ratio"] = figures.ratios(found[ours.name], found[bare.name])
    tell(f"round {number} of {size.rounds}: {found}")
    return found


def _samples(measured: Callable[[float], float], count: int) -> list[float]:
    return [measured(_SINGLE_LIMIT_S) for _ in range(count)]


if __name__ == "__main__":
    sys.exit(main())
