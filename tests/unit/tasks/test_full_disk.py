"""A disk that really is full: a small tmpfs, mounted for the test."""

import os
import subprocess

import pytest
from conftest import missing
from harness import VM, World

from models.states import JobState
from targets.guest import build_disk
from targets.qemu import QemuTarget
from targets.qemu_tools import find_tool
from tasks.errors import ResourceExhausted


@pytest.fixture
def small_disk(tmp_path):
    """A folder of 4 MiB for snapshots, and for the target's files, which share a file system with them."""
    folders = [tmp_path / "snapshots"]
    if os.geteuid() != 0:
        missing("mounting a small tmpfs needs root")
    mounted = []
    try:
        for folder in folders:
            folder.mkdir()
            mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder]
            if subprocess.run(mount, capture_output=True).returncode != 0:
                missing("a tmpfs cannot be mounted here")
            mounted.append(folder)
        yield tmp_path
    finally:
        for folder in mounted:
            subprocess.run(["umount", folder], check=True)


def test_an_upload_to_a_full_disk_is_refused_and_leaves_nothing(small_disk):
    world = World(small_disk)
    try:
        world.set_up()
        cycle = world.services.cycles.begin(VM)
        with pytest.raises(ResourceExhausted, match="is full"):
            world.services.cycles.put_disk(cycle.name, 0, "raw", (os.urandom(1 << 20) for _ in range(8)))
        assert world.services.cycles.get(cycle.name).snapshots == []
        assert sum(path.is_file() for path in (small_disk / "snapshots").rglob("*")) == 1  # the first cycle's disk
        world.services.cycles.put_disk(cycle.name, 0, "raw", [b"\0" * 512])
        world.services.cycles.finish(cycle.name)
    finally:
        world.close()


def test_a_clone_on_a_full_disk_fails_with_the_reason_and_leaves_nothing(small_disk):
    try:
        find_tool("qemu-system-x86_64")
    except Exception as error:
        missing(str(error))
    world = World(small_disk)
    try:
        target = QemuTarget(small_disk / "snapshots" / "qemu", world.snapshots, name="simulated")
        world.runtime.targets["simulated"] = target
        world.set_up()
        disk = build_disk(small_disk / "guest.raw", size_bytes=1 << 20)
        cycle = world.services.cycles.begin(VM)
        world.services.cycles.put_disk(cycle.name, 0, "raw", [disk.read_bytes()])
        world.services.cycles.finish(cycle.name)
        filler = small_disk / "snapshots" / "filler"
        with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(b"x" * 4096)
        job = world.run_to_end(world.create().id)
        assert job.state is JobState.FAILED and "full" in job.error["message"], job.error
        assert target.inventory() == []
    finally:
        world.close()


def test_a_full_disk_takes_no_evidence_and_fails_no_job(tmp_path):
    folder = tmp_path / "evidence"
    folder.mkdir()
    if os.geteuid() != 0:
        missing("mounting a small tmpfs needs root")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True).returncode != 0:
        missing("a tmpfs cannot be mounted here")
    world = World(tmp_path)
    try:
        world.set_up()
        (folder / "other").write_bytes(os.urandom(56 * 1024))
        job = world.run_to_end(world.create().id)
        boot = job.steps[-1].progress["boot"]
        assert job.state is JobState.SUCCEEDED and (boot["verdict"], boot["files"]) == ("BOOTED", {})
        assert set(boot["missing"].values()) == {"the disk of the data folder is full"}
        assert sorted(path.name for path in folder.iterdir()) == ["other"]
        (folder / "other").unlink()
        job = world.run_to_end(world.create("clone-2").id)
        assert job.steps[-1].progress["boot"]["missing"] == {}
    finally:
        world.close()
        subprocess.run(["umount", folder], check=True)
