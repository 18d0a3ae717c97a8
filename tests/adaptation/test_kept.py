"""Adapted results that are kept: whose they are, who uses them, what a kill and two makers at once leave."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import threading
import time

import linux_guest
import pytest

from targets import guest, kept_adaptations
from targets.adaptation import Policy
from targets.base import AdaptedImageSpec, DiskSpec, Owner, ResourceKind, ResourceRef, Snapshot, Status
from targets.errors import TombstonedError
from targets.guest import build_disk
from targets.local_files import locked
from targets.qemu import QemuTarget
from targets.qemu_adapted import AdaptedImages
from targets.snapshot_links import clones_of
from targets.snapshot_store import FileSnapshotStore

KEY = "cycle-1/disk0.raw"


class Place:
    """A target, and jobs that clone one snapshot."""

    def __init__(self, folder, disk) -> None:
        self.snapshots = FileSnapshotStore(folder / "snapshots")
        self.root = folder / "target"
        self.snapshot = self.store(KEY, disk)
        self.target = self.connect()

    def connect(self, policy=Policy.REQUIRED) -> QemuTarget:
        return QemuTarget(self.root, self.snapshots, call_timeout_s=60, os_adaptation=policy)

    def store(self, key, disk) -> Snapshot:
        with self.snapshots.writer(key) as writer:
            writer.write(disk.read_bytes())
        return Snapshot(key, "raw", writer.size_bytes, writer.sha256)

    def image(self, job: str, **fields) -> AdaptedImageSpec:
        ref = ResourceRef(ResourceKind.ADAPTED_IMAGE, f"{job}-adapted")
        return AdaptedImageSpec(ref, Owner(job, 1), **{"snapshot": self.snapshot, "hostname": f"host-{job}", **fields})

    def disk(self, job: str) -> DiskSpec:
        return DiskSpec(
            ResourceRef(ResourceKind.DISK, f"{job}-disk0"), Owner(job, 1), 0, self.snapshot, f"{job}-adapted"
        )

    def delete(self, made) -> None:
        self.target.delete(made.ref, job_id=made.job_id, uid=made.uid)

    def kept(self) -> list[str]:
        folder = self.root / "adapted"
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def opened(tmp_path, disk):
    place = Place(tmp_path, disk)
    yield place
    for seen in place.target.inventory():
        place.delete(seen)
    assert clones_of(place.snapshots.path(KEY)) == 0
    place.target.drop_adaptations({KEY}, dry_run=False)
    assert place.kept() == [] and list((place.root / "locks").iterdir()) == []


@pytest.fixture
def place(tools, tmp_path):
    yield from opened(tmp_path, build_disk(tmp_path / "guest.img", size_bytes=2**20))


@pytest.fixture
def linux(guest_disk, tmp_path):
    yield from opened(tmp_path, guest_disk)


def in_guest(place, job: str, path: str) -> str:
    """A file of the guest on the job's disk, as the guest would see it."""
    whole = place.root / "whole.img"
    disk = place.root / "disks" / f"{job}-disk0" / "disk.qcow2"
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", disk, whole], check=True)
    offset = linux_guest.PARTITION_START * linux_guest.SECTOR
    command = ["/usr/sbin/debugfs", "-R", f"cat {path}", f"{whole}?offset={offset}"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    whole.unlink()
    return said


def name_on(place, job: str) -> str:
    """The host name that a guest of ours on the job's disk would say."""
    disk, part = place.root / "disks" / f"{job}-disk0" / "disk.qcow2", place.root / "part"
    command = ["qemu-img", "dd", "-f", "qcow2", "-O", "raw", "bs=512", "count=2", f"if={disk}", f"of={part}"]
    subprocess.run(command, check=True)
    sectors = part.read_bytes()
    part.unlink()
    return guest.hostname_of(sectors[512:])


def test_the_next_clone_of_a_linux_guest_lies_on_the_same_result_and_has_its_own_name(linux):
    assert linux.target.kept_adaptation(linux.image("a")) is None
    first = linux.target.create(linux.image("a"))
    kept_at = linux.target.kept_adaptation(linux.image("b"))
    second = linux.target.create(linux.image("b"))
    for job in "ab":
        assert linux.target.create(linux.disk(job)).status is Status.READY
    for made in (first, second):
        linux.delete(made)  # the scaffolds; the result stays
    assert (first.report["reused"], second.report["reused"]) == (False, True)
    assert first.report["made_at"] == second.report["made_at"] == kept_at.strftime("%Y-%m-%dT%H:%M:%SZ")
    differing = [one["id"] for one, other in zip(first.report["actions"], second.report["actions"], strict=True)
                 if one != other]  # fmt: skip
    assert differing == ["hostname"] and second.report["actions"][0]["reason"] == "oldhost became host-b"
    for job in "ab":
        assert in_guest(linux, job, "/etc/hostname") == f"host-{job}\n"
        assert f"127.0.1.1\thost-{job}\n" in in_guest(linux, job, "/etc/hosts")
        assert in_guest(linux, job, "/etc/machine-id") == ""
        assert '"hostname": 1' in (marker := in_guest(linux, job, "/etc/clonejob-adapted")) and "network-dhcp" in marker
    [key] = linux.kept()
    results = [linux.root / "disks" / f"{job}-disk0" / "adapted.qcow2" for job in "ab"]
    results.append(linux.root / "adapted" / key / "disk.qcow2")
    assert len({path.stat().st_ino for path in results}) == 1 and results[0].stat().st_mode & 0o222 == 0
    assert clones_of(linux.snapshots.path(KEY)) == 2  # the clones, not the result
    note = linux.root / "adapted" / key / "note.json"
    assert b"host-a" not in results[0].read_bytes() + note.read_bytes()


def test_what_another_result_would_be_made_for_is_not_reused(place, tmp_path):
    place.target.create(place.image("a"))
    other = place.store("cycle-2/disk0.raw", tmp_path / "guest.img")
    assert place.target.kept_adaptation(place.image("b")) is not None
    for fields in ({"license_type": "COMPUTE_ENGINE_LICENSE_TYPE_BYOL"}, {"modifiers": {"source-tools": "off"}},
                   {"snapshot": other}, {"snapshot": dataclasses.replace(place.snapshot, sha256="0" * 64)}):  # fmt: skip
        assert place.target.kept_adaptation(place.image("b", **fields)) is None, fields
    assert place.connect(Policy.BEST_EFFORT).kept_adaptation(place.image("b")) is None


def test_another_version_of_a_recipe_makes_another_result(place, monkeypatch):
    place.target.create(place.image("a"))
    recipes = kept_adaptations.RECIPES
    newer = (dataclasses.replace(recipes[0], version=recipes[0].version + 1), *recipes[1:])
    monkeypatch.setattr(kept_adaptations, "RECIPES", newer)
    assert place.target.kept_adaptation(place.image("b")) is None


def test_what_could_not_be_adapted_is_looked_at_again(place, monkeypatch):
    target = place.connect(Policy.BEST_EFFORT)
    unknown = place.root / "unknown.img"
    unknown.write_bytes(bytes(2**20))
    spec = place.image("a", snapshot=place.store("cycle-2/disk0.raw", unknown))
    assert target.create(spec).report["method"] == "none"
    assert place.kept() == []


def killed_at(place, monkeypatch, module, name: str, phase: str) -> None:
    """A worker makes an image and is killed right before, or right after, a function that publishes the result."""
    real = getattr(module, name)

    def deadly(*arguments, **named):
        if phase == "after":
            real(*arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        try:
            monkeypatch.setattr(module, name, deadly)
            place.connect().create(place.image("a"))
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


@pytest.mark.parametrize("phase", ["before", "after"])
@pytest.mark.parametrize("name", ["link", "write_json", "fsync_folder"])
def test_a_kill_while_a_result_is_kept_leaves_a_whole_one_or_none(place, monkeypatch, name, phase):
    where = os if name == "link" else kept_adaptations
    if name == "link":  # the first link of all is that to the snapshot
        monkeypatch.setattr(kept_adaptations, "os", type("Os", (), {"link": staticmethod(os.link)}))
        where = kept_adaptations.os
    killed_at(place, monkeypatch, where, name, phase)
    kept = place.target.kept_adaptation(place.image("b"))
    left = [key for key in place.kept() if not key.startswith(".")]
    assert (kept is not None) == (len(left) == 1) == (name == "fsync_folder")
    [half] = place.target.inventory()
    assert half.status is Status.FAILED
    place.delete(half)  # what clean-up does
    again = place.target.create(place.image("b"))
    assert again.report["reused"] is (kept is not None)
    assert place.target.create(place.image("c")).report["reused"] is True
    place.target.drop_adaptations(set(), dry_run=False)
    assert len(place.kept()) == 1 and not place.kept()[0].startswith(".")


def test_two_at_once_both_get_theirs_and_one_result_stays(place, monkeypatch):
    """Both find none, both adapt, then both keep what they have."""
    together, real = threading.Barrier(2, timeout=60), AdaptedImages._adapt

    def adapt(*arguments):
        adapted = real(*arguments)
        together.wait()
        return adapted

    monkeypatch.setattr(AdaptedImages, "_adapt", adapt)
    made, threads = {}, []
    for job in "ab":
        work = threading.Thread(target=lambda job=job: made.update({job: place.connect().create(place.image(job))}))
        threads.append(work)
        work.start()
    for work in threads:
        work.join(60)
    assert {job: each.report["reused"] for job, each in made.items()} == {"a": False, "b": False}
    assert len(place.kept()) == 1
    assert place.target.create(place.image("c")).report["reused"] is True
    for job in "abc":
        assert place.target.create(place.disk(job)).status is Status.READY


def test_one_that_another_is_about_to_keep_is_not_waited_for_long(place, caplog):
    hasty = QemuTarget(place.root, place.snapshots, call_timeout_s=60)
    hasty._kept._lock_timeout_s = 0.0
    key = hasty._kept._key(place.image("a"))
    with locked(place.root / "locks" / f"adapted-{key}", timeout_s=1):
        assert hasty.create(place.image("a")).status is Status.READY
    assert "not kept: another process" in caplog.text and place.kept() == []


def test_a_damaged_result_is_not_used_and_is_replaced(place):
    place.target.create(place.image("a"))
    [key] = place.kept()
    note, disk = (place.root / "adapted" / key / name for name in ("note.json", "disk.qcow2"))
    whole = note.read_text()
    for damaged in ("", "[]", "{}", whole[:-20], whole.replace('"size_bytes":', '"size_bytes":1'),
                    whole.replace("fuse", "x").replace('"outcome":"skipped"', '"outcome":"x"')):  # fmt: skip
        note.write_text(damaged)
        assert place.target.kept_adaptation(place.image("b")) is None, damaged
    made = place.target.create(place.image("b"))
    assert made.report["reused"] is False
    assert place.target.create(place.image("c")).report["reused"] is True
    disk.unlink()
    assert place.target.kept_adaptation(place.image("d")) is None


def test_a_job_that_was_cleaned_up_makes_none(place):
    place.target.bury("a")
    with pytest.raises(TombstonedError):
        place.target.create(place.image("a"))
    assert place.kept() == []


def test_dropping_a_result_harms_no_clone_and_frees_only_what_no_clone_holds(place):
    image = place.target.create(place.image("a"))
    place.target.create(place.disk("a"))
    place.delete(image)
    assert place.target.drop_adaptations({"cycle-9/disk0.raw"}, dry_run=False) == 0 and len(place.kept()) == 1
    assert place.target.drop_adaptations({KEY}, dry_run=False) == 0
    assert place.kept() == []
    assert name_on(place, "a") == "host-a"


def test_a_result_without_its_snapshot_goes(place, tmp_path):
    """A frozen worker kept it after the snapshot had been pruned."""
    other = place.store("cycle-2/disk0.raw", tmp_path / "guest.img")
    place.target.create(place.image("a"))
    place.target.create(place.image("b", snapshot=other))
    place.snapshots.remove("cycle-2/disk0.raw")
    place.target.drop_adaptations(set(), dry_run=True)
    assert len(place.kept()) == 2
    place.target.drop_adaptations(set(), dry_run=False)
    assert len(place.kept()) == 1 and place.target.kept_adaptation(place.image("c")) is not None


def test_a_full_copy_of_a_reused_result_needs_nothing_else(place):
    full = QemuTarget(place.root, place.snapshots, call_timeout_s=60, clone_mode="full")
    images = [full.create(place.image(job)) for job in "ab"]
    assert images[1].report["reused"] is True
    while full.create(place.disk("b")).status is not Status.READY:
        time.sleep(0.01)  # another process copies
    for image in images:
        place.delete(image)
    assert place.target.drop_adaptations({KEY}, dry_run=True) > 0 and len(place.kept()) == 1
    assert place.target.drop_adaptations({KEY}, dry_run=False) > 0
    assert clones_of(place.snapshots.path(KEY)) == 0
    assert name_on(place, "b") == "host-b"


def test_a_disk_on_a_result_is_made_independent(place):
    image = place.target.create(place.image("a"))
    disk = place.target.create(place.disk("a"))
    place.delete(image)
    assert place.target.flatten(disk.ref, job_id="a", uid=disk.uid, progress=lambda _: None)
    folder = place.root / "disks" / "a-disk0"
    assert sorted(path.name for path in folder.iterdir()) == ["disk.qcow2", "meta.json"]
    assert place.target.drop_adaptations({KEY}, dry_run=False) > 0
    assert name_on(place, "a") == "host-a"
    assert place.connect().kept_adaptation(place.image("a")) is None
