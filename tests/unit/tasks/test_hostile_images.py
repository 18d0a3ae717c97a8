"""Hostile images at the service's doors: refused when they are uploaded, and looked at again when they are used."""

import dataclasses

import pytest
from harness import VM, World
from hostile_images import HOSTILE_QCOW2, HOSTILE_RAW

from targets.base import DiskSpec, Owner, ResourceKind, ResourceRef, Snapshot
from targets.errors import SourceGoneError
from targets.qemu_disks import DiskMaker
from targets.qemu_tools import DiskTools
from targets.snapshot_store import FileSnapshotStore
from tasks.errors import InvalidArgument


def test_each_is_refused_when_it_is_uploaded_and_nothing_is_kept(tmp_path):
    world = World(tmp_path)
    try:
        world.set_up()
        before = sorted(path for path in world.snapshots.root.rglob("*") if path.is_file())
        cycle = world.services.cycles.begin(VM)
        for image_format, corpus in (("qcow2", HOSTILE_QCOW2), ("raw", HOSTILE_RAW)):
            for content, message in corpus.values():
                with pytest.raises(InvalidArgument, match=message) as refused:
                    world.services.cycles.put_disk(cycle.name, 0, image_format, [content])
                assert refused.value.reason == "IMAGE_REFUSED"
        assert sorted(path for path in world.snapshots.root.rglob("*") if path.is_file()) == before
    finally:
        world.close()


@pytest.mark.parametrize(("image_format", "corpus"), [("qcow2", HOSTILE_QCOW2), ("raw", HOSTILE_RAW)])
def test_each_is_refused_again_when_it_is_used(tmp_path, image_format, corpus):
    """Somebody changed the file in the store: no tool may open it."""
    store = FileSnapshotStore(tmp_path / "snapshots")
    disks = DiskMaker(DiskTools("no-such-qemu-img", "no-such-qemu-io", timeout_s=1), store)
    key = f"cycle-1/disk0.{image_format}"
    path = store.path(key)
    path.parent.mkdir(parents=True)
    spec = DiskSpec(ResourceRef(ResourceKind.DISK, "d"), Owner("j", 1), 0, Snapshot(key, image_format, 64 * 2**20, ""))
    for content, message in corpus.values():
        path.write_bytes(content)
        with pytest.raises(SourceGoneError, match=message):
            disks.make_overlay(tmp_path, spec.snapshot)
    path.unlink()
    path.symlink_to("/etc/passwd")
    with pytest.raises(SourceGoneError, match="symbolic link"):
        disks.make_overlay(tmp_path, dataclasses.replace(spec.snapshot))
