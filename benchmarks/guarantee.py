"""What is left behind: this service beside a plain Celery chain, under the same faults on the same kind of target.

    python benchmarks/guarantee.py [--only WORDS] [--limit 60] [--quick] [--page FILE]

Both systems run at the same time, each on its own simulated target and its own database of one private broker, and
meet each scenario of ``benchmarks/scenarios.py`` in turn. What counts is read from the targets' logs: *leaks* are
resources that exist at the end although their job did not succeed, or is not through; *early* are jobs that were
called CANCELLED or FAILED while something of them existed; *doubles* are second instances at the same time; *deleted
after success* is what it says; *stuck* are jobs that have not ended ``--limit`` seconds after the last fault. Prints
one JSON document; ``--page`` also writes the table of the docs. The exit status says whether this service had none.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # python -P does not

from benchmarks import contenders, figures
from benchmarks.contenders import CloneJobService, Contender, JobEnd, PlainChain
from benchmarks.scenarios import FREEZE_S, SCENARIOS, Scenario, When
from benchmarks.systems import BenchmarkError, tell, wait_for
from targets.base import ResourceKind
from targets.simulated_lives import Life, lives
from targets.simulated_log import Call
from worker.broker import running_broker
from worker.settings import load_settings

COUNTS = ("leaks", "early", "doubles", "deleted_after_success", "stuck", "wrong_end")
ENDED = {"SUCCEEDED", "FAILED", "CANCELLED"}
_MOMENT_LIMIT_S = 30.0


def main() -> int:
    """Run, print, and say by the exit status whether this service kept its word."""
    given = _arguments()
    signal.signal(signal.SIGTERM, _stop)
    for name in [name for name in os.environ if name.startswith("CLONEJOB_")]:
        del os.environ[name]
    started = time.monotonic()
    scenarios = [each for each in SCENARIOS if given.only in each.name]
    if given.quick:
        scenarios = [each for each in scenarios if each.name in _QUICK]
    if not scenarios:
        tell(f"error: no scenario has {given.only!r} in its name; there are: {'; '.join(s.name for s in SCENARIOS)}")
        return 2
    results = run(scenarios, given.limit)
    document = {
        "benchmark": "guarantee",
        "limit_s": given.limit,
        "machine": figures.machine(),
        "scenarios": results,
        "totals": {system: {count: sum(each[system][count] for each in results.values()) for count in COUNTS}
                   for system in ("plain_chain", "clonejob")},
        "seconds": round(time.monotonic() - started, 1),
    }  # fmt: skip
    print(json.dumps(document, indent=2))
    if given.page:
        given.page.write_text(page(document))
    return 0 if not any(document["totals"]["clonejob"].values()) else 1


_QUICK = ("nothing goes wrong", "the reply of the create is lost, then cancelled")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", help="only scenarios with these words in their names")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds until a job counts as stuck (default 60)")
    parser.add_argument("--quick", action="store_true", help="two scenarios: shows that it works, no more")
    parser.add_argument("--page", type=Path, help="write the table of the docs here")
    return parser.parse_args()


def _stop(*_: Any) -> NoReturn:
    raise SystemExit(143)  # through every finally, so that nothing is left


def run(scenarios: list[Scenario], limit_s: float) -> dict[str, dict[str, Any]]:
    """All scenarios on both systems; the counts by scenario and system."""
    results: dict[str, dict[str, Any]] = {}
    with _running(scenarios) as systems, ThreadPoolExecutor(len(systems)) as both:
        for number, scenario in enumerate(scenarios):
            runs = {system.name: both.submit(_Run(system, scenario, number, limit_s).run) for system in systems}
            results[scenario.name] = {name: each.result() for name, each in runs.items()}
            tell(f"{number + 1} of {len(scenarios)}: {scenario.name}: {results[scenario.name]}")
    return results


@contextlib.contextmanager
def _running(scenarios: list[Scenario]) -> Iterator[list[Contender]]:
    vms = [_vm(number, job) for number, scenario in enumerate(scenarios) for job in range(scenario.jobs)]
    with tempfile.TemporaryDirectory(prefix="clonejob-bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        url = stack.enter_context(running_broker(folder)).removesuffix("/0")
        second = folder / "second"
        second.mkdir()
        # A broker each, because one of the scenarios empties it.
        other = stack.enter_context(running_broker(second))
        settings = load_settings(data_dir=folder / "data", broker_url=f"{url}/0", rest_port=0, grpc_port=0, workers=2,
                                 lease_s=5, provider_call_limit_s=5, dispatch_grace_s=5, reconcile_interval_s=1)  # fmt: skip
        ours = CloneJobService(folder, settings)
        plain = PlainChain(second, other)
        tend = threading.Event()
        for system in (plain, ours):
            stack.callback(system.stop)
            system.start(vms)
        keeper = threading.Thread(target=_tend, args=(plain, tend), daemon=True)
        keeper.start()
        stack.callback(keeper.join)
        stack.callback(tend.set)
        yield [plain, ours]


def _tend(system: Contender, stop: threading.Event) -> None:
    """Start again what died, as an init system does; ``clonejob up`` does so itself."""
    while not stop.wait(0.2):
        system.supervisor.tend()


def _vm(scenario: int, job: int) -> str:
    return f"vm{scenario:02}{job:02}"


class _Run:
    """One scenario on one system."""

    def __init__(self, system: Contender, scenario: Scenario, number: int, limit_s: float) -> None:
        self._system = system
        self._scenario = scenario
        self._vms = [_vm(number, job) for job in range(scenario.jobs)]
        self._limit_s = limit_s
        self._random = random.Random(number)  # noqa: S311 - the same moments in every run
        self._frozen: set[int] = set()
        self._once: set[str] = set()
        self._guard = threading.Lock()

    def run(self) -> dict[str, Any]:
        """Submit, do the deeds, wait for the ends, count."""
        for vm in self._vms:
            for fault in self._scenario.faults:
                self._system.target.add_fault(name=f"{vm}-*", **{"times": 1, **fault})
        try:
            for vm in self._vms:
                self._system.submit(vm)
            with ThreadPoolExecutor(len(self._vms)) as pool:
                list(pool.map(self._deeds, self._vms))
            deadline = time.monotonic() + self._limit_s
            while time.monotonic() < deadline and not self._ended():
                time.sleep(0.1)
            time.sleep(1.0)  # what comes after an end comes now
        finally:
            for pid in self._frozen:
                contenders.thaw(pid)
            self._system.target.clear_faults()
        return self._count()

    def _ended(self) -> bool:
        ends = self._system.ends()
        return all(vm in ends and ends[vm].state in ENDED for vm in self._vms)

    def _deeds(self, vm: str) -> None:
        seen: Call | None = None
        for moment, deed in self._scenario.deeds:
            if moment is not None:
                try:
                    seen = wait_for(
                        f"{moment} of {vm}", functools.partial(self._seen, vm, moment), _MOMENT_LIMIT_S, 0.01
                    )
                except BenchmarkError:
                    return  # a job of the queue whose turn does not come; the others do the deed
            self._do(vm, deed, seen)

    def _seen(self, vm: str, moment: When) -> Call | None:
        return next((call for call in self._system.target.calls()
                     if (call.op, call.phase) == (moment.op, moment.phase) and moment.kind in (None, call.kind)
                     and str(call.name).startswith(f"{vm}-")), None)  # fmt: skip

    def _do(self, vm: str, deed: str, seen: Call | None) -> None:
        match deed:
            case "cancel":
                time.sleep(self._random.uniform(0, self._scenario.jitter_s))
                self._system.cancel(vm)
            case "freeze":
                assert seen is not None
                self._frozen.add(seen.pid)
                contenders.freeze(seen.pid)
            case "thaw":
                time.sleep(FREEZE_S)
                assert seen is not None
                contenders.thaw(seen.pid)
            case "kill workers" if self._first(deed):
                self._system.kill_workers()
            case "lose messages" if self._first(deed):
                contenders.lose_messages(self._system.broker_url)

    def _first(self, deed: str) -> bool:
        with self._guard:
            first = deed not in self._once
            self._once.add(deed)
            return first

    def _count(self) -> dict[str, Any]:
        ends = self._system.ends()
        mine = [life for life in lives(self._system.target.calls()) if life.name.partition("-")[0] in self._vms]
        found: dict[str, Any] = dict.fromkeys(COUNTS, 0)
        for vm in self._vms:
            end = ends[vm]
            for count, number in _judge(end, [life for life in mine if life.name.startswith(f"{vm}-")]).items():
                found[count] += number
            found["wrong_end"] += end.state in ENDED and end.state not in self._scenario.ends
        return found | {"jobs": len(self._vms), "states": sorted(ends[vm].state for vm in self._vms)}


def _judge(end: JobEnd, mine: list[Life]) -> dict[str, int]:
    instances = sorted((life for life in mine if life.kind == ResourceKind.INSTANCE), key=lambda life: life.since)
    over, good = end.end_time, end.state == "SUCCEEDED"
    return {
        "stuck": int(end.state not in ENDED),
        "leaks": sum(life.until is None for life in mine) if not good else 0,
        "early": int(over is not None and not good and any((life.until or over + 1) > over for life in mine)),
        "doubles": sum(a.until is None or a.until > b.since for a, b in itertools.pairwise(instances)),
        "deleted_after_success": sum(good and over is not None and (life.until or 0) > over for life in mine),
    }


def page(document: dict[str, Any]) -> str:
    """The table of the docs."""
    titles = ("left behind", "ended early", "second instances", "deleted after success", "stuck", "wrong end")
    lines = ["# Side by side", "",
             "The same faults against this service and against a plain Celery chain with late acknowledgement, retries,",
             "`link_error` and a `task_revoked` handler that deletes ([benchmarks/plain_chain.py](../benchmarks/plain_chain.py)).",
             f"A job counts as stuck {document['limit_s']:.0f} s after the last fault. Counted from the targets' logs.",
             "`make bench-guarantee` makes this page.", "",
             "| scenario | jobs | plain chain | clonejob |", "|---|---|---|---|"]  # fmt: skip

    def told(found: dict[str, Any]) -> str:
        bad = [f"{found[count]} {title}" for count, title in zip(COUNTS, titles, strict=True) if found[count]]
        return ", ".join(bad) or "nothing"

    for name, by_system in document["scenarios"].items():
        plain, ours = by_system["plain_chain"], by_system["clonejob"]
        lines.append(f"| {name} | {plain['jobs']} | {told(plain)} | {told(ours)} |")
    totals = document["totals"]
    lines.append(f"| **all** | | **{told(totals['plain_chain'])}** | **{told(totals['clonejob'])}** |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
