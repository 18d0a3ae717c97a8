"""``make chaos`` in short: all parts as real processes, a few faults of many kinds, the judge at the end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from conftest import missing
from guarantee.chaos.postgres import why_not

ROOT = Path(__file__).parents[2]
SHORT = ("--minutes", "0.25", "--fault-pause", "0.5", "--pause", "1", "--cancels", "4", "--kills", "0", "--outage", "0")


def chaos(*arguments):
    """Run it; its document, its exit status, and what it said besides."""
    env = os.environ | {"PYTHONSAFEPATH": "1", "CLONEJOB_WORKERS": "7"}  # a user's own setting is none of its business
    command = [sys.executable, "tests/guarantee/chaos/__main__.py", *SHORT, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=400, check=False)
    assert done.stdout, done.stderr
    return json.loads(done.stdout), done.returncode, done.stderr


@pytest.mark.timeout(420)
@pytest.mark.skipif(sys.platform != "linux", reason="the harness needs /proc and mount namespaces")
def test_no_rule_is_broken_while_everything_breaks():
    if reason := why_not():
        missing(reason)
    found, status, said = chaos("--seed", "7")
    assert found["violations"] == [] and found["harness_errors"] == [] and found["stuck_jobs"] == 0, said
    assert status == 0 and found["left_behind"] == []
    assert found["faults"]["total"] >= 8 and len(found["faults"]) > 5, found["faults"]
    ends = {state: found["jobs"].get(state, 0) for state in ("SUCCEEDED", "CANCELLED", "FAILED")}
    assert sum(ends.values()) == found["jobs"]["total"] > 6 and ends["SUCCEEDED"] and ends["CANCELLED"], ends
    folder = next(word for word in said.split() if "clonejob-chaos-" in word)
    assert not Path(folder).exists()
    assert [process.cmdline() for process in psutil.process_iter() if _mentions(process, folder)] == []


def _mentions(process, text):
    try:
        return text in " ".join(process.cmdline())
    except (psutil.Error, OSError):
        return False
