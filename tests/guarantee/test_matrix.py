"""A seeded sample of the fault matrix in real processes, on both databases; and that the matrix tells what is wrong."""

import pytest
from guarantee import matrix_cells as cells
from guarantee.judge import Violation
from guarantee.matrix import Matrix, Outcome
from guarantee.matrix_cells import MODES, SCENARIOS, Cell, Place
from guarantee.matrix_lane import Case
from guarantee.matrix_report import Report

A, B = Place("store.claim_step", "steps"), Place("target.create.disk", "steps")
RACY = Place("store.give_back", "steps")


def passages(*places):
    return {(place, phase) for place in places for phase in ("before", "after")}


def recorded(refused=()):
    first = [(scenario, passages(A, B, RACY) - set(refused)) for scenario in SCENARIOS]
    return cells.reach([*first, *((scenario, passages(A, B) - set(refused)) for scenario in SCENARIOS)])


def test_what_every_clean_run_passes_must_fire():
    reach = recorded()
    assert len(reach.cells()) == 3 * len(MODES) * len(SCENARIOS)
    assert {cell.place for cell in reach.cells(certain=True)} == {A, B}
    assert not reach.must_fire(Cell(RACY, MODES[0], cells.RUNS))


def test_a_call_that_never_returns_loses_no_reply():
    reach = recorded(refused=[(B, "after")])
    modes = {cell.mode.name for cell in reach.cells() if cell.place == B}
    assert modes == {"error before", "hang", "kill before"}


def test_a_sample_meets_every_mode_and_every_scenario():
    reach = recorded()
    for seed in range(20):
        drawn = cells.sample(reach.cells(), 6, seed)
        assert len(set(drawn)) == 6
        assert {cell.mode for cell in drawn} == set(MODES)
        assert {cell.scenario for cell in drawn} == set(SCENARIOS)
    assert cells.sample(reach.cells(), 6, 1) == cells.sample(reach.cells(), 6, 1)


def outcome(**changes):
    cell = Cell(A, MODES[0], cells.RUNS)
    good = Case(cells.RUNS, cell, 0, job="j", state="SUCCEEDED", fired_at=1.0, to_end_s=0.5)
    return Outcome(**{"cases": [good], "reach": recorded(), **changes})


def test_what_is_right_passes():
    report = Report(outcome())
    assert report.good
    assert report.figures()["faults_fired"] == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"violations": [Violation("R1", "j", "something is left")]},
        {"outside": ["SELECT 1"]},
        {"broken": ["lane 0"]},
        {"cases": []},
        {"cases": [Case(cells.RUNS, Cell(A, MODES[0], cells.RUNS), 0)]},
        {"cases": [Case(cells.RUNS, Cell(A, MODES[0], cells.RUNS), 0, fired_at=1.0, problems=["it ended FAILED"])]},
        {"cases": [Case(cells.RUNS, Cell(A, MODES[0], cells.RUNS), 0, fired_at=1.0, stuck=True)]},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_what_is_wrong_does_not(wrong):
    assert not Report(outcome(**wrong)).good


def test_a_broken_rule_is_marked_in_the_table():
    table = Report(outcome(violations=[Violation("R1", "j", "something is left")])).table()
    assert "1!" in next(line for line in table.splitlines() if "store.claim_step" in line)


@pytest.mark.timeout(480)
def test_a_sample_on_both_databases(tmp_path, postgres_template):
    matrix = Matrix(
        tmp_path, ("sqlite", "postgresql"), "simulated", seed=1, sample=len(MODES), recordings=2, certain=True
    )
    report = Report(matrix.run())
    figures = report.figures()
    assert report.outcome.broken == []
    for what in ("violations", "problems", "stuck", "outside_of_any_point"):
        assert figures[what] == [], figures
    assert set(figures["faults_by_mode"]) == {mode.name for mode in MODES}
    assert {case.scenario for case in report.fired} == set(SCENARIOS)
