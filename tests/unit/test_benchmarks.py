"""``make bench`` works: a quick run of all of it, which says nothing about speed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks import figures
from benchmarks.guarantee import COUNTS

ROOT = Path(__file__).parents[2]
ARGUMENTS = ("--quick", "--jobs", "4")


@pytest.fixture
def home(tmp_path):
    """A folder for temporary files, in which nothing must be left, by files or by processes."""
    yield tmp_path
    left = [process.cmdline() for process in psutil.process_iter() if _mentions(process, str(tmp_path))]
    assert (left, list(tmp_path.iterdir())) == ([], [])


def _mentions(process, text):
    try:
        return text in " ".join(process.cmdline()) or text in str(process.environ().get("TMPDIR", ""))
    except (psutil.Error, OSError):
        return False


def bench(home, *arguments, script="jobs"):
    # PYTHONSAFEPATH as make sets it; a user's own setting is none of the benchmark's business.
    env = os.environ | {"TMPDIR": str(home), "PYTHONSAFEPATH": "1", "CLONEJOB_WORKERS": "7"}
    command = [sys.executable, f"benchmarks/{script}.py", *arguments]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False)


def test_a_quick_run_prints_one_document_and_leaves_nothing(home):
    done = bench(home, *ARGUMENTS)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert set(document) == {
        "benchmark", "parameters", "machine", "rounds", "summary", "jobs_ended", "as_expected", "seconds"
    }  # fmt: skip
    assert document["as_expected"] is True
    # 4 to warm up, 4 at once, 3 alone, 1 cancelled.
    assert document["jobs_ended"] == {"bare_chain": {"DONE": 11}, "clonejob": {"SUCCEEDED": 11, "CANCELLED": 1}}
    assert {"cpu_count", "python", "celery", "sqlite"} < set(document["machine"])
    (measured,) = document["rounds"]
    common = {"jobs_per_s", "idle_p50_ms", "idle_p99_ms"}
    assert set(measured["bare_chain"]) == set(measured["ratio"]) == common
    assert set(measured["clonejob"]) == common | {"cancel_p50_ms", "cancel_max_ms"}
    assert all(value > 0 for system in measured.values() for value in system.values())
    ours, theirs = measured["clonejob"]["jobs_per_s"], measured["bare_chain"]["jobs_per_s"]
    assert measured["ratio"]["jobs_per_s"] == round(ours / theirs, 3)
    assert document["summary"]["ratio"]["jobs_per_s"] == dict.fromkeys(
        ("median", "min", "max"), measured["ratio"]["jobs_per_s"]
    )


def test_what_is_left_behind_is_seen(home):
    done = bench(home, "--quick", script="guarantee")
    assert done.returncode == 0, done.stderr
    good, lost = json.loads(done.stdout)["scenarios"].values()
    assert good["plain_chain"]["states"] == good["clonejob"]["states"] == ["SUCCEEDED", "SUCCEEDED"]
    assert lost["plain_chain"]["leaks"] > 0, "a chain that records what it was told about knows nothing of a lost reply"
    assert not any(lost["clonejob"][count] for count in COUNTS)
    assert lost["clonejob"]["states"] == ["CANCELLED", "CANCELLED"]


def test_wrong_arguments_are_refused(home):
    done = bench(home, "--rounds", "0")
    assert (done.returncode, done.stdout) == (2, "")
    assert "must be from 1 to 1000" in done.stderr


@pytest.mark.parametrize(("percent", "value"), [(50, 50), (99, 99), (100, 100), (1, 1)])
def test_percentiles_are_samples(percent, value):
    assert figures.percentile(list(range(100, 0, -1)), percent) == value
    assert figures.percentile([7.0], percent) == 7.0


def test_the_summary_is_over_rounds():
    rounds = [{"x": {"a": value}} for value in (3.0, 1.0, 2.0)]
    assert figures.summary(rounds) == {"x": {"a": {"median": 2.0, "min": 1.0, "max": 3.0}}}
    assert figures.ratios({"a": 1.0, "only ours": 5.0}, {"a": 4.0}) == {"a": 0.25}
