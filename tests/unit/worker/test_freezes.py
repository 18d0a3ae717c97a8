"""Processes that stand still are ended, and nothing else is."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from harness import Clock

from worker.freezes import FreezeWatch

CHILD = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=sys.argv[1] == "own")
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture
def family(request):
    """A child that leads a group, and its own child, in the group or in a session of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, request.param], stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout.readline() == b"ready\n"
    (inner,) = psutil.Process(process.pid).children()
    yield process.pid, inner.pid
    for pid in (inner.pid, process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def watch(clock):
    return FreezeWatch(30, clock=clock.timestamp)


def freeze(pid):
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + 30
    while psutil.Process(pid).status() != psutil.STATUS_STOPPED:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def looks(watch, clock, pid, seconds):
    killed = []
    for _ in range(seconds):
        killed += watch.look([pid])
        clock.advance(1)
    return killed


@pytest.mark.parametrize("family", ["group"], indirect=True)
@pytest.mark.parametrize("frozen", [0, 1])
def test_what_stands_still_for_long_is_killed(watch, clock, family, frozen):
    freeze(family[frozen])
    assert looks(watch, clock, family[0], 30) == []
    assert looks(watch, clock, family[0], 1) == [family[frozen]]


@pytest.mark.parametrize("family", ["group"], indirect=True)
def test_what_goes_on_in_time_stays(watch, clock, family):
    freeze(family[0])
    assert looks(watch, clock, family[0], 25) == []
    os.kill(family[0], signal.SIGCONT)
    while psutil.Process(family[0]).status() == psutil.STATUS_STOPPED:
        time.sleep(0.01)
    assert looks(watch, clock, family[0], 1) == []
    freeze(family[0])
    assert looks(watch, clock, family[0], 25) == []


@pytest.mark.parametrize("family", ["own"], indirect=True)
def test_what_leads_its_own_session_is_none_of_our_business(watch, clock, family):
    freeze(family[1])
    assert looks(watch, clock, family[0], 40) == []


def test_a_child_that_is_gone(watch):
    assert watch.look([2**22 - 1]) == []
