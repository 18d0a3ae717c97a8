"""``make rolling`` in short: every kind of worker is told to stop in the middle of its work, under load."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import missing
from guarantee.chaos.postgres import why_not

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.platform != "linux", reason="the harness needs /proc and mount namespaces")
def test_a_restart_in_the_middle_of_work_loses_nothing_and_doubles_nothing():
    if reason := why_not():
        missing(reason)
    command = [sys.executable, "tests/guarantee/chaos/rolling.py", "--restarts", "3", "--seed", "3"]
    env = os.environ | {"PYTHONSAFEPATH": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=280, check=False)
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    assert found["violations"] == [] and found["harness_errors"] == [] and found["leases_lost"] == 0, found
    assert found["rolling_restarts"] == 3 and found["in_the_middle_of_a_step"] >= 1
    assert found["drain"]["max_s"] <= found["drain"]["bar_s"] and found["jobs"]["SUCCEEDED"] > 3, found
    assert found["left_behind"] == [] and done.returncode == 0 and found["met"], found
