from __future__ import annotations

import itertools
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from worker.supervisor import ChildFailed, ChildSpec, Supervisor, log_tail, spawn

ROOT = Path(__file__).parents[3]


def spec(tmp_path, code, name="child", **how):
    return ChildSpec(name, [sys.executable, "-c", code], tmp_path / "logs" / f"{name}.log", **how)


def until(condition, timeout_s=5.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)


class FakeClock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


SLEEP = "import time; time.sleep(60)"
STUBBORN = (
    "import signal, time, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN);print('up', flush=True); time.sleep(60)"
)


def test_a_child_that_was_killed_is_started_again(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    changes = []
    supervisor = Supervisor(on_change=lambda: changes.append(dict(supervisor.pids())))
    child = supervisor.start(spec(tmp_path, SLEEP))
    first = child.pid
    os.kill(first, signal.SIGKILL)
    until(lambda: supervisor.tend() or (child.pid not in (None, first)))
    assert child.restarts == 1
    assert [set(change) for change in changes] == [{"child"}, set(), {"child"}]
    assert "child ended (signal 9); starting it again in 0.2 s" in caplog.text
    supervisor.stop(["child"])
    assert supervisor.pids() == {}


def test_pauses_grow_to_ten_seconds_and_start_over_after_health(tmp_path):
    clock = FakeClock()
    supervisor = Supervisor(clock=clock, sleep=clock.sleep)
    supervisor.mark_ready()
    child = supervisor.start(spec(tmp_path, SLEEP))

    def die_and_measure():
        os.kill(child.pid, signal.SIGKILL)
        until(lambda: supervisor.tend() or child.pid is None)
        died_at = clock.now
        while child.pid is None:
            clock.now += 0.05
            supervisor.tend()
        return round(clock.now - died_at, 2)

    pauses = [die_and_measure() for _ in range(8)]
    assert pauses == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0], abs=0.06)
    clock.now += 31
    assert die_and_measure() == pytest.approx(0.2, abs=0.06)
    supervisor.stop(["child"])


def test_a_child_that_cannot_start_fails_with_the_end_of_its_log(tmp_path):
    clock = FakeClock()
    supervisor = Supervisor(clock=clock, sleep=clock.sleep)
    supervisor.start(spec(tmp_path, "raise SystemExit('no such module: flux')"))

    def tend_forever():
        while True:
            clock.now += 1
            supervisor.tend()
            time.sleep(0.005)

    with pytest.raises(ChildFailed, match=r"(?s)child ended 5 times before .*no such module: flux"):
        tend_forever()
    supervisor.stop(["child"])


def test_groups_stop_in_order_and_the_stubborn_are_killed(tmp_path):
    notes = tmp_path / "notes"
    tell = (
        "import signal, sys, time\n"
        f"def end(*_):\n    open({str(notes)!r}, 'a').write(sys.argv[1] + ' ')\n    sys.exit()\n"
        "signal.signal(signal.SIGTERM, end)\nprint('up', flush=True)\ntime.sleep(60)"
    )
    supervisor = Supervisor()
    logs = tmp_path / "logs"
    for name in ("api", "steps", "broker"):
        supervisor.start(ChildSpec(name, [sys.executable, "-c", tell, name], logs / f"{name}.log"))
    supervisor.start(spec(tmp_path, STUBBORN, "control", stop_grace_s=0.3))
    until(lambda: all("up" in (logs / f"{name}.log").read_text() for name in supervisor.children))
    started = time.monotonic()
    supervisor.stop(["api"], ["steps", "control"], ["broker"], ["never-started"])
    assert notes.read_text().split() == ["api", "steps", "broker"]
    assert 0.3 <= time.monotonic() - started < 3
    assert supervisor.pids() == {}


def test_a_second_signal_ends_the_grace(tmp_path):
    supervisor = Supervisor()
    supervisor.start(spec(tmp_path, STUBBORN, stop_grace_s=60))
    until(lambda: "up" in (tmp_path / "logs" / "child.log").read_text())
    asked = itertools.count()
    supervisor.stop(["child"], hurry=lambda: next(asked) > 2)
    assert supervisor.pids() == {}


def test_what_a_dead_child_had_started_is_cleared_away(tmp_path):
    code = (
        "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        "print(p.pid, flush=True); time.sleep(60)"
    )
    supervisor = Supervisor()
    child = supervisor.start(spec(tmp_path, code))
    log = tmp_path / "logs" / "child.log"
    until(lambda: log.exists() and log.read_text().endswith("\n"))
    grandchild = psutil.Process(int(log.read_text()))
    os.kill(child.pid, signal.SIGKILL)
    until(lambda: supervisor.tend() or child.pid is None)
    until(lambda: not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE)
    supervisor.stop(["child"])


def test_children_have_their_own_session_and_private_logs(tmp_path):
    process = spawn(spec(tmp_path, SLEEP))
    try:
        assert os.getsid(process.pid) == process.pid != os.getsid(0)
        assert (tmp_path / "logs" / "child.log").stat().st_mode & 0o777 == 0o600
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal exists on Linux only")
def test_children_die_with_a_killed_supervisor(tmp_path):
    code = f"""
import signal, sys, time
from pathlib import Path
from worker.supervisor import ChildSpec, Supervisor
supervisor = Supervisor()
for name, number in (("term", signal.SIGTERM), ("quit", signal.SIGQUIT)):
    argv = [sys.executable, "-c", "import time; time.sleep(60)"]
    print(supervisor.start(ChildSpec(name, argv, Path({str(tmp_path)!r}) / name, orphan_signal=number)).pid, flush=True)
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    children = [psutil.Process(int(process.stdout.readline())) for _ in range(2)]
    assert all(child.is_running() for child in children)
    process.kill()
    process.wait()
    process.stdout.close()
    until(lambda: not any(c.is_running() and c.status() != psutil.STATUS_ZOMBIE for c in children))


def test_a_log_that_grew_too_long_is_set_aside(tmp_path, monkeypatch):
    monkeypatch.setattr("worker.supervisor._LOG_BYTES_MAX", 10)
    log = tmp_path / "logs" / "child.log"
    log.parent.mkdir()
    log.write_text("much too long\n")
    spawn(spec(tmp_path, "print('new')")).wait()
    assert log_tail(log) == "new"
    assert log.with_name("child.log.1").read_text() == "much too long\n"
