"""Disks by reference: only their name is kept, and nothing of them is ever deleted."""

import pytest
from harness import SOURCE, VM, refused

from models.schema import Snapshot
from models.states import CycleState
from targets.base import ResourceKind
from targets.errors import UnsupportedError
from targets.images import MAX_VIRTUAL_SIZE_BYTES
from targets.qemu_disks import DiskMaker
from targets.qemu_tools import DiskTools
from tasks.errors import AlreadyExists, FailedPrecondition, InvalidArgument

SNAPSHOT = "projects/p/global/snapshots/s"


def begin(world):
    return world.services.cycles.begin(VM).name


def test_a_cycle_of_references_is_cloned_by_their_names(world):
    cycle, cycles = begin(world), world.services.cycles
    made = cycles.put_reference(cycle, 0, SNAPSHOT, 1 << 30)
    assert (made.store_key, made.format, made.sha256, made.stored_size_bytes) == (SNAPSHOT, "reference", "", 0)
    cycles.put_reference(cycle, 1, "snap-0123abcd", 2 << 30)
    assert cycles.finish(cycle).state is CycleState.SUCCEEDED
    job = world.create()
    pins = [row.spec["snapshot"] for row in job.ledger if row.kind == ResourceKind.DISK]
    assert pins == [
        {"key": SNAPSHOT, "format": "reference", "virtualSizeBytes": 1 << 30, "sha256": ""},
        {"key": "snap-0123abcd", "format": "reference", "virtualSizeBytes": 2 << 30, "sha256": ""},
    ]


@pytest.mark.parametrize(
    "reference",
    ["", " ", "a b", "/etc/passwd", "../x", "a/../b", "a//b", "x" * 513, "projects/p\n", "snapshot-ü", "s/", "a\0b"],
)
def test_a_reference_is_a_name_and_no_path(light, reference):
    cycle = begin(light)
    refused(light, InvalidArgument, lambda: light.services.cycles.put_reference(cycle, 0, reference, 1024), Snapshot)


@pytest.mark.parametrize(("number", "size"), [(-1, 512), (64, 512), (0, 0), (0, -1), (0, MAX_VIRTUAL_SIZE_BYTES + 1),
                                                (0, 1), (0, 10 * 2**30 + 100)])  # fmt: skip
def test_number_and_size_are_bounded(light, number, size):
    cycle = begin(light)
    refused(
        light, InvalidArgument, lambda: light.services.cycles.put_reference(cycle, number, SNAPSHOT, size), Snapshot
    )


def test_the_same_words_again_are_the_same_disk_and_others_are_refused(world):
    cycle, cycles = begin(world), world.services.cycles
    cycles.put_reference(cycle, 0, SNAPSHOT, 1024)
    assert cycles.put_reference(cycle, 0, SNAPSHOT, 1024).store_key == SNAPSHOT
    refused(world, AlreadyExists, lambda: cycles.put_reference(cycle, 0, SNAPSHOT, 2048), Snapshot)
    refused(world, AlreadyExists, lambda: cycles.put_reference(cycle, 0, "snap-1", 1024), Snapshot)
    cycles.finish(cycle)
    assert cycles.put_reference(cycle, 0, SNAPSHOT, 1024).cycle == cycle  # its answer was lost
    refused(world, FailedPrecondition, lambda: cycles.put_reference(cycle, 1, SNAPSHOT, 1024), Snapshot)


def test_two_cycles_may_name_one_snapshot_and_nothing_is_removed_with_them(world):
    cycles = world.services.cycles
    kept = world.snapshots.root / SNAPSHOT  # a file that a deletion by name would meet
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"not ours")
    world.add_vm("web-2")
    for vm in (VM, f"{SOURCE}/migratingVms/web-2"):
        cycle = cycles.begin(vm).name
        cycles.put_reference(cycle, 0, SNAPSHOT, 1024)
        cycles.finish(cycle)
    third = begin(world)
    cycles.put_reference(third, 0, SNAPSHOT, 1024)
    cycles.abort(third, "not this one")
    for vm in ("web-1", "web-2"):
        world.services.migrating_vms.delete(f"{SOURCE}/migratingVms/{vm}")
    assert kept.read_bytes() == b"not ours"
    assert world.runtime.catalog.unused_snapshots() == []


def test_qemu_says_what_to_do_with_a_reference(tmp_path):
    from targets.base import Snapshot as Pinned
    from targets.snapshot_store import FileSnapshotStore

    disks = DiskMaker(DiskTools("qemu-img", "qemu-io", timeout_s=1), FileSnapshotStore(tmp_path))
    with pytest.raises(UnsupportedError, match="upload the disk with clonejob vm import"):
        disks.source(Pinned(SNAPSHOT, "reference", 10, ""))
