"""Exports end with whoever made them, and what is left of a killed one goes at the next attempt."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from targets.adaptation.export import exported, sweep, workplace
from targets.adaptation.programs import Deadline
from targets.errors import RefusedError, TransientError

SPAWN = multiprocessing.get_context("spawn")  # the child has no threads of this process


@pytest.fixture
def image(tools, tmp_path):
    made = tmp_path / "disk,odd name.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", made, "4M"], check=True)
    yield made.rename(tmp_path / "disk.qcow2")
    assert mounts(tmp_path) == [] and daemons(tmp_path) == []


def mounts(folder: Path) -> list[str]:
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(folder) in line]


def daemons(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if str(folder) in " ".join(process.info["cmdline"] or ()):
            found.append(process)
    return found


def hold_export(image: str, root: str, ready) -> None:
    with workplace(Path(root), "held") as place:
        with exported(Path(image), place, Deadline(60), writable=True):
            ready.set()
            time.sleep(60)


def wait_until(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_is_written_arrives_and_no_more(image, tmp_path):
    with workplace(tmp_path / "root", "a") as place:
        with exported(image, place, Deadline(60), writable=True) as disk:
            assert disk.stat().st_size == 4 * 2**20
            with disk.open("r+b") as file:
                file.write(b"written")
            with disk.open("r+b", 0) as file, pytest.raises(OSError):
                os.pwrite(file.fileno(), b"beyond the end", 4 * 2**20 + 4096)
        with exported(image, place, Deadline(60), writable=False) as disk:
            assert disk.read_bytes()[:7] == b"written"
            with pytest.raises(OSError), disk.open("r+b", 0) as file:
                file.write(b"x")
    assert list((tmp_path / "root").iterdir()) == []


def test_an_error_inside_leaves_nothing(image, tmp_path):
    with pytest.raises(KeyError), workplace(tmp_path / "root", "a") as place:
        with exported(image, place, Deadline(60), writable=True):
            raise KeyError
    assert list((tmp_path / "root").iterdir()) == []


def test_what_is_no_qcow2_is_refused(image, tmp_path):
    image.write_bytes(b"raw" * 1000)
    with pytest.raises(RefusedError, match="could not be exported"), workplace(tmp_path / "root", "a") as place:
        with exported(image, place, Deadline(60), writable=True):
            pass


def test_no_time_left(image, tmp_path):
    with pytest.raises(TransientError, match="did not end within"), workplace(tmp_path / "root", "a") as place:
        with exported(image, place, Deadline(0.0), writable=True):
            pass


def test_what_a_killed_adaptation_leaves_is_removed(image, tmp_path):
    root, ready = tmp_path / "root", SPAWN.Event()
    worker = SPAWN.Process(target=hold_export, args=(str(image), str(root), ready))
    worker.start()
    assert ready.wait(60)
    sweep(root)
    assert len(mounts(tmp_path)) == 1  # it is at work: nobody touches it
    with pytest.raises(TransientError), workplace(root, "held"):
        pass
    os.kill(worker.pid, signal.SIGKILL)
    worker.join(10)
    wait_until(lambda: not daemons(tmp_path))  # the daemon goes with it
    assert len(mounts(tmp_path)) == 1
    with workplace(root, "another"):
        assert mounts(tmp_path) == [] and [path.name for path in root.glob("[!.]*")] == ["another"]
    assert list(root.iterdir()) == []
