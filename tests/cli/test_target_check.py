"""``clonejob target check``: what it is given, and what is left of it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from targets.errors import RefusedError
from targets.guest import build_disk
from targets.simulated import SimulatedTarget
from worker.cli.details import details_of

ROOT = Path(__file__).parents[2]


def test_no_hint_names_what_was_given(clonejob, configured, tmp_path):
    shown = clonejob("target", "check", "provider", "--yes", "--reference", "projects/p/global/snapshots/none")
    assert shown.err == "error: target provider cannot clone this: projects/p/global/snapshots/none does not exist\n"
    shown = clonejob("target", "check", "provider", "--yes", "--snapshot", build_disk(tmp_path / "a.raw"))
    assert shown.err.endswith("cannot clone this: Only snapshots that lie here already can be cloned\n")


def test_a_data_disk_is_named_as_the_error_says(clonejob, configured, tmp_path):
    image = tmp_path / "data.img"
    image.write_bytes(b"x" * 1024)
    check = ("target", "check", "simulated", "--snapshot", image, "--only", "the_uid_stays")
    refused = clonejob(*check)
    assert (refused.code, "name it with --format raw" in refused.err) == (2, True)
    assert clonejob(*check, "--format", "raw").code == 0


def test_details_are_read_by_either_name(clonejob, configured):
    given = '{"machine_type": "e2-small", "networkInterfaces": [{"network": "n"}], "labels": {"team": "blue"}}'
    assert clonejob("target", "check", "simulated", "--details", given, "--only", "the_uid_stays").code == 0
    assert details_of(given) == {
        "machineType": "e2-small", "networkInterfaces": [{"network": "n"}], "labels": {"team": "blue"}
    }  # fmt: skip


def test_a_run_that_was_killed_leaves_nothing_that_the_next_does_not_clear(clonejob, configured, tmp_path):
    """SIGKILL in the middle of a check: what is left of its source lies where the next run looks."""
    left = tmp_path / "tmp"
    left.mkdir()
    killed = subprocess.run(
        [sys.executable, "-m", "worker.cli", "target", "check", "killed", "--only", "the_uid_stays"],
        cwd=tmp_path, env=os.environ | {"TMPDIR": str(left), "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path / 'site'}"},
        capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    store = configured.parent / "snapshots"
    assert list(left.iterdir()) == []
    assert [path.parent.name[:4] for path in store.rglob("*.raw")]
    live = store / "kit-alive"
    live.mkdir()
    with open_folder(live):
        assert clonejob("target", "check", "simulated", "--only", "the_uid_stays").code == 0
        assert list(store.iterdir()) == [live]
    assert clonejob("target", "check", "simulated", "--only", "the_uid_stays").code == 0
    assert list(store.iterdir()) == []


@contextlib.contextmanager
def open_folder(folder):
    """As a run that lives holds its folder."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(fd)


def test_no_tombstone_of_the_kit_stays(clonejob, configured):
    tombstones = configured / "simulated" / "tombstones"
    tombstones.mkdir(parents=True)
    (tombstones / "0123abcd").touch()
    shown = clonejob("target", "check", "simulated", "--only", "buried")
    assert shown.code == 0, shown.out
    assert "0 passed" not in shown.out
    assert [each.name for each in tombstones.iterdir()] == ["0123abcd"]
    with pytest.raises(RefusedError, match="kept for ever"):
        SimulatedTarget(configured / "simulated").remove_tombstone("0123abcd")
