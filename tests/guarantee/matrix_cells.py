"""The cells of the fault matrix: what is broken, how, and in which life of a job."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from models import io_table

LEASE_S = 1.5


class Mode(NamedTuple):
    """A way to break a call.

    Error before: the call is not made. Error after: it is made, all of our own code around it has run, and then its
    caller gets an error. Reply lost: it takes effect, and the library that made it gets an error: the commit lands and
    the commit raises; the message is in its queue, and kombu sends another; the target has acted and says that it
    failed. Hang: the call is made late, when the lease is over. Kill: SIGKILL of the process that makes the call.
    """

    name: str
    phase: str
    action: str

    @property
    def needs(self) -> str:
        """The phase that a clean run must pass for this to have any effect."""
        return "after" if self.action == "lose_reply" else self.phase


MODES = (
    Mode("error before", "before", "error"),
    Mode("error after", "after", "error"),
    Mode("reply lost", "before", "lose_reply"),
    Mode("hang", "before", "hang"),
    Mode("kill before", "before", "kill"),
    Mode("kill after", "after", "kill"),
)


class Scenario(NamedTuple):
    """A life of a job, and the states in which it may end."""

    name: str
    ends: frozenset[str]


RUNS = Scenario("runs", frozenset({"SUCCEEDED"}))
CANCELLED = Scenario("is cancelled", frozenset({"CANCELLED"}))
FAILS = Scenario("fails", frozenset({"FAILED"}))
RACES = Scenario("cancel races success", frozenset({"CANCELLED", "SUCCEEDED"}))
RECOVERS = Scenario("recovers", frozenset({"SUCCEEDED"}))  # its first message is lost, then a worker dies
SCENARIOS = (RUNS, CANCELLED, FAILS, RACES, RECOVERS)


class Place(NamedTuple):
    """A point in one kind of process: the same call is another matter in a step and in clean-up."""

    point: str
    role: str


ROLES = ("api", "steps", "steps-main", "control")


class Cell(NamedTuple):
    """One fault in one life."""

    place: Place
    mode: Mode
    scenario: Scenario

    def __str__(self) -> str:
        return f"{self.place.point} ({self.place.role}), {self.mode.name}, job {self.scenario.name}"


Passage = tuple[Place, str]  # with the phase: a call that is always refused is never passed "after"


class Reach(NamedTuple):
    """Which places a clean run of each scenario passes: every time, or only now and then."""

    always: Mapping[Scenario, frozenset[Passage]]
    at_times: Mapping[Scenario, frozenset[Passage]]

    def cells(self, *, certain: bool = False) -> list[Cell]:
        """Every cell that can fire, or only those that must."""
        found = [
            Cell(place, mode, scenario)
            for scenario in SCENARIOS
            for place in sorted({place for place, _ in self.always[scenario] | self.at_times[scenario]})
            for mode in MODES
            if (place, mode.needs) in self.always[scenario] | self.at_times[scenario]
        ]
        return [cell for cell in found if self.must_fire(cell)] if certain else found

    def must_fire(self, cell: Cell) -> bool:
        """Whether a clean run passes there every time."""
        return (cell.place, cell.mode.needs) in self.always[cell.scenario]


def reach(runs: Iterable[tuple[Scenario, set[Passage]]]) -> Reach:
    """From recorded clean runs; each scenario must have been recorded."""
    by_scenario: dict[Scenario, list[set[Passage]]] = defaultdict(list)
    for scenario, passages in runs:
        by_scenario[scenario].append(passages)
    always = {each: frozenset(set.intersection(*by_scenario[each])) for each in SCENARIOS}
    once = {each: frozenset(set.union(*by_scenario[each]) - always[each]) for each in SCENARIOS}
    return Reach(always, once)


def can_match(text: str) -> bool:
    """Whether any cell at all could have that in its text."""
    return any(
        text in str(Cell(Place(point, role), mode, scenario))
        for point in io_table.numbers()
        for role in ROLES
        for mode in MODES
        for scenario in SCENARIOS
    )


def sample(cells: list[Cell], count: int, seed: int) -> list[Cell]:
    """So many cells, drawn so that modes, scenarios and points are all met as early as can be."""
    left = list(cells)
    random.Random(seed).shuffle(left)
    met: dict[object, int] = defaultdict(int)
    drawn: list[Cell] = []
    while left and len(drawn) < count:
        best = min(left, key=lambda cell: (met[cell.mode] + met[cell.scenario], met[cell.place.point]))
        left.remove(best)
        drawn.append(best)
        for each in (best.mode, best.scenario, best.place.point):
            met[each] += 1
    return drawn
