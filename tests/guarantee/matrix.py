"""Every numbered I/O point of a job's path, broken in every way, in every life of a job, in real worker processes.

    python tests/guarantee/matrix.py [--database sqlite] [--target simulated] [--sample N] [--only kill] [--seed N]

Several live services (lanes) run one case at a time each. First every lane records clean runs, which show the points
that each scenario passes; then each reachable cell is run, and a cell that a clean run passes every time must fire.
The target's own log and inventory are the judge. Prints points by modes, and one JSON document at the end. The exit
status tells whether no rule was broken, nothing is stuck and every cell fired that had to.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # python -P does not

from guarantee import matrix_cells as cells
from guarantee.arguments import Parser, whole
from guarantee.judge import Violation
from guarantee.matrix_cells import Cell
from guarantee.matrix_clouds import CLOUDS
from guarantee.matrix_lane import Case, Lane, database
from guarantee.matrix_report import Report
from guarantee.matrix_stages import STAGES as OWN

STAGES = {**OWN, **CLOUDS}
POSTGRES = "postgresql://127.0.0.1:5432/postgres"
_QEMU_SAMPLE = 60
_TRIES = 3  # of a cell that does not fire at once: where a race leads is chance


@dataclass
class Outcome:
    """What the lanes have found."""

    clean: list[Case] = field(default_factory=list)
    cases: list[Case] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    late_calls: int = 0
    stale_writes: int = 0
    outside: list[str] = field(default_factory=list)
    reach: cells.Reach | None = None
    broken: list[str] = field(default_factory=list)  # lanes that could not go on
    unstarted: list[str] = field(default_factory=list)  # why, for each lane whose service did not start
    interrupted: bool = False

    def why_nothing_ran(self) -> str:
        """In one sentence; "" if cells could be run."""
        if self.reach is not None:
            return ""
        if self.unstarted:
            return f"{len(self.unstarted)} of the services did not start: {_first_line(self.unstarted[0])}"
        return f"no cell was run: {_first_line(self.broken[0])}"


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


class Matrix:
    """Runs cells on lanes; each lane has a thread of its own."""

    def __init__(
        self, folder: Path, databases: Sequence[str], target: str, *, seed: int, sample: int = 0,
        recordings: int = 0, certain: bool = False, only: str = "",
    ) -> None:  # fmt: skip
        """``databases``: one for each lane. ``certain``: only cells that fire whatever the races do. ``only``:
        cells with that in their text."""
        self.outcome = Outcome()
        self._recordings = recordings or STAGES[target].recordings
        self._certain = certain
        self._only = only
        self._folder = folder
        self._databases = databases
        self._target = target
        self._seed = seed
        self._sample = sample
        self._todo: queue.SimpleQueue[Cell] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._recorded = threading.Barrier(len(databases), action=self._plan)
        self.total = 0

    def run(self) -> Outcome:
        """Everything."""
        threads = [
            threading.Thread(target=self._lane, args=(number, kind), name=f"lane-{number}")
            for number, kind in enumerate(self._databases)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(0.5)  # a signal is heard here
        return self.outcome

    def stop(self, *_: Any) -> None:
        """End after the cases that run now, and take everything down."""
        self.outcome.interrupted = True
        self._stopped.set()
        self._recorded.abort()

    def _lane(self, number: int, kind: str) -> None:
        server = os.environ.get("CLONEJOB_TEST_POSTGRES_URL", POSTGRES)
        started = False
        try:
            with contextlib.ExitStack() as stack:
                url = stack.enter_context(database(kind, server))
                provided = stack.enter_context(STAGES[self._target].provided())
                lane = Lane(number, self._folder, url, STAGES[self._target], self._seed, provided)
                stack.callback(lane.close)
                lane.start()
                started = True
                self._work(lane)
        except BaseException as error:
            self._recorded.abort()
            with self._lock:
                self.outcome.broken.append(f"lane {number}: {type(error).__name__}: {error}")
                if not started:
                    self.outcome.unstarted.append(f"{error}")
                if self.outcome.reach is None:  # no lane will get further
                    self._stopped.set()
            if not isinstance(error, Exception):
                raise

    def _work(self, lane: Lane) -> None:
        for _ in range(max(1, self._recordings // len(self._databases))):
            for scenario in cells.SCENARIOS:
                self._go_on()
                self._take_in(lane.run(scenario))
        self._recorded.wait(600)
        with contextlib.suppress(queue.Empty):
            while True:
                cell = self._todo.get_nowait()
                for _ in range(_TRIES):
                    self._go_on()
                    case = lane.run(cell.scenario, cell)
                    self._take_in(case)
                    if case.fired_at is not None or case.problems:
                        break
        time.sleep(lane.stage.hang_s)  # whatever still hangs comes back before it is judged
        self._take_in(lane.run(cells.RUNS))
        finding = lane.stage.judge(lane.engine, lane.accepted)
        with self._lock:
            self.outcome.violations += finding.violations
            self.outcome.late_calls += len(finding.late_calls)
            self.outcome.stale_writes += lane.stale_writes()
            self.outcome.outside += lane.outside

    def _go_on(self) -> None:
        if self._stopped.is_set():
            raise InterruptedError("stopped by a signal or by another lane's failure")

    def _plan(self) -> None:
        self.outcome.reach = cells.reach((case.scenario, case.passed) for case in self.outcome.clean)
        drawn = [cell for cell in self.outcome.reach.cells(certain=self._certain) if self._only in str(cell)]
        drawn = [cell for cell in drawn if cell.place.point.startswith(STAGES[self._target].part)]
        drawn = cells.sample(drawn, self._sample or len(drawn), self._seed)
        self.total = len(drawn)
        for cell in drawn:
            self._todo.put(cell)

    def _take_in(self, case: Case) -> None:
        with self._lock:
            (self.outcome.clean if case.cell is None else self.outcome.cases).append(case)
            done = len(self.outcome.cases)
        if case.problems or (case.cell and done % 25 == 0):
            what = f"{case.cell or case.scenario.name}: {case.problems}" if case.problems else f"{self.total} cells"
            print(f"{time.strftime('%H:%M:%S')} {done} of {what}", file=sys.stderr, flush=True)


def main() -> int:
    """Run, print, judge."""
    options = _arguments()
    started = time.monotonic()
    for name in [name for name in os.environ if name.startswith("CLONEJOB_") and "_TEST_" not in name]:
        del os.environ[name]
    folder = Path(tempfile.mkdtemp(prefix="clonejob-faults-"))
    matrix = Matrix(
        folder,
        [options.database] * options.lanes,
        options.target,
        seed=options.seed,
        only=options.only,
        sample=_QEMU_SAMPLE if options.sample is None and options.target == "qemu" else options.sample or 0,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, matrix.stop)
    outcome = matrix.run()
    report = Report(outcome)
    if outcome.interrupted:
        print("interrupted", file=sys.stderr)
        if report.wrong:
            print(f"error: something was wrong before; logs and databases are kept in {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder)
        return 130
    if why := outcome.why_nothing_ran():
        print(f"error: {why}; logs and databases are kept in {folder}", file=sys.stderr)
        return 1
    if options.only and not matrix.total:
        print(f"error: no job passes a point where {options.only!r} is in the text of a cell", file=sys.stderr)
        shutil.rmtree(folder)
        return 1
    print(report.table())
    document: dict[str, Any] = {
        "database": options.database, "target": options.target, "seed": options.seed, "lanes": options.lanes,
        **report.figures(), "took_s": round(time.monotonic() - started, 1),
    }  # fmt: skip
    print(json.dumps(document, indent=2))
    if report.good:
        shutil.rmtree(folder)
        return 0
    print(f"error: see above; logs and databases are kept in {folder}", file=sys.stderr)
    return 1


def _arguments() -> argparse.Namespace:
    parser = Parser(description="the fault matrix")
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--target", choices=sorted(STAGES), default="simulated")
    parser.add_argument(
        "--sample", type=whole(0), help=f"so many cells only; 0: all; default: all, with QEMU {_QEMU_SAMPLE}"
    )
    parser.add_argument("--seed", type=whole(0), default=1)
    parser.add_argument(
        "--only", default="", help="only cells with that in their text, such as kill, target.create or fails"
    )
    parser.add_argument(
        "--lanes", type=whole(1), default=_lanes(), help="services that run at once; default: by processors and load"
    )
    given = parser.parse_args()
    if not cells.can_match(given.only):
        modes, lives = (", ".join(each.name for each in some) for some in (cells.MODES, cells.SCENARIOS))
        parser.error(
            f"--only: no cell has {given.only!r} in its text, such as 'store.claim_step (steps), kill before, job runs'"
            f" (points: docs/io_points.md; processes: {', '.join(cells.ROLES)}; modes: {modes}; a job: {lives})"
        )
    return given


def _lanes() -> int:
    """Two for each processor that has nothing else to do, and one."""
    return max(1, 2 * (os.cpu_count() or 1) + 1 - int(os.getloadavg()[0]))


if __name__ == "__main__":
    sys.exit(main())
