"""The evidence commands refuse a wrong argument in one sentence, with nothing started; and say why a run failed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from guarantee import matrix_cells as cells
from guarantee.machine_report import FirstFailure
from guarantee.matrix import Outcome
from guarantee.mutants_list import MUTANTS

ROOT = Path(__file__).parents[2]
RACE, FAULTS, CHAOS = (f"tests/guarantee/{name}.py" for name in ("audit_race", "matrix", "chaos/__main__"))
MODEL, MUTANTS_OF = ("-m", "guarantee.machine_report"), ("-m", "guarantee.mutants")


@pytest.mark.parametrize(
    ("command", "environment", "named"),
    [
        ((RACE, "-5", "0", "1"), {}, "N: '-5'"),
        ((RACE, "abc", "0", "1"), {}, "N: 'abc'"),
        ((RACE, "10", "x", "1"), {}, "SEED: 'x'"),
        ((RACE, "10", "0", "0"), {}, "JOBS: '0'"),
        (MODEL, {"SEED": "x"}, "SEED: 'x'"),
        (MODEL, {"EXAMPLES": "0"}, "EXAMPLES: '0'"),
        ((*MUTANTS_OF, "epoch", "nosuchthing"), {}, "'nosuchthing'"),
        ((FAULTS, "--only=nonsense"), {}, "'nonsense'"),
        ((FAULTS, "--lanes=0"), {}, "--lanes: '0'"),
        ((FAULTS, "--sample=-1"), {}, "--sample: '-1'"),
        ((CHAOS, "--minutes=0"), {}, "--minutes: '0'"),
        ((CHAOS, "--outage=nan"), {}, "--outage: 'nan'"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, tuple) else "",
)
def test_what_is_wrong_is_refused_before_anything_starts(command, environment, named, tmp_path):
    env = {name: value for name, value in os.environ.items() if name not in ("SEED", "EXAMPLES")} | environment
    env |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-P", *command], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    first, *names = done.stderr.splitlines()
    assert first.startswith("error: ") and named in first
    assert [name.strip() for name in names] == ([each.name for each in MUTANTS] if MUTANTS_OF[1] in command else [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text", ["", "kill", "target.create", "job fails", "kill before, job runs", "(api)", "store.claim_step (steps)"]
)
def test_words_of_a_cell_can_match(text):
    assert cells.can_match(text)


def test_a_run_whose_services_do_not_start_says_so():
    outcome = Outcome(broken=["lane 1: BrokenBarrierError: ", "lane 0: X: no"], unstarted=["no room\nup ended"])
    assert outcome.why_nothing_ran() == "1 of the services did not start: no room"
    assert Outcome(broken=["lane 0: X: no\nmore"]).why_nothing_ran() == "no cell was run: lane 0: X: no"
    assert Outcome(reach=cells.Reach({}, {}), broken=["lane 0: X: later"]).why_nothing_ran() == ""


def test_the_first_line_of_the_first_failure_is_kept():
    failure = FirstFailure()
    for outcome, said in (("passed", None), ("failed", "\nAssertionError: R1\nmore"), ("failed", "another")):
        failure.pytest_runtest_logreport(
            pytest.TestReport("test", ("test", 0, "test"), {}, outcome, said, "call")
        )  # fmt: skip
    assert failure.why == "AssertionError: R1"
