"""What the demo counts as a virtual machine, and what it ends: also those that do not answer their monitor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from targets import qemu_vm
from worker.demo import watch
from worker.demo.scenario import remove_vms
from worker.demo.service import DemoError


def view(demo):
    return [(vm.name, vm.status) for vm in watch.qemu_view(demo.folder)]


def test_a_machine_that_does_not_answer_is_counted_and_ended(demo, monkeypatch):
    monkeypatch.setattr(watch, "_ANSWER_S", 0.5)
    monkeypatch.setattr(qemu_vm, "QUIT_WAIT_S", 0.1)
    [process] = demo.processes()
    os.kill(process.pid, signal.SIGSTOP)
    assert view(demo) == [("c-vm", "not answering")]
    remove_vms(demo.folder)
    assert view(demo) == [] and demo.processes() == []


def test_a_machine_that_answers_is_asked_to_end(demo):
    assert view(demo) == [("c-vm", "running")]
    remove_vms(demo.folder)
    assert view(demo) == [] and demo.processes() == []


def test_a_process_that_is_no_clone_is_seen_and_left_alone(demo):
    remove_vms(demo.folder)
    command = ["qemu-system-x86_64", "-c", "import time; time.sleep(60)", "-name", "theirs", str(demo.folder / "x.img")]
    stranger = subprocess.Popen(command, executable=sys.executable)
    try:
        assert view(demo) == [("theirs", "not answering")]
        with pytest.raises(DemoError, match=f"process {stranger.pid} works on files"):
            remove_vms(demo.folder)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
