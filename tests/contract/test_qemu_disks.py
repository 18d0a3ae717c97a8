"""How a clone's disks hold their snapshot, and how they let it go."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from targets import disk_copy, qemu_copies, snapshot_links
from targets.base import Snapshot, Status
from targets.chunk_sums import remove_manifest
from targets.errors import ConflictError, RefusedError, TransientError, UnsupportedError
from targets.qemu import QemuTarget
from targets.qemu_disks import disk_file
from targets.qemu_flatten import flatten_running, has_backing
from targets.snapshot_links import clones_of


MIB = 2**20
STATE = {"bytes": 0, "total_bytes": 64 * MIB, "durable_bytes": 0, "bytes_per_s": 0, "phase": "copying", "error": ""}


def content_of(qemu, ref) -> str:
    """SHA-256 of what the guest would see."""
    raw = qemu.folder / "seen.raw"
    command = ["qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", str(qemu.path(ref) / "disk.qcow2"), str(raw)]
    subprocess.run(command, check=True)
    return hashlib.sha256(raw.read_bytes()).hexdigest()


def test_the_link_count_of_the_snapshot_is_how_many_need_it(qemu):
    snapshot = qemu.snapshots.path(qemu.snapshot.key)
    assert clones_of(snapshot) == 0
    image = qemu.target.create(qemu.image())
    first = qemu.target.create(qemu.disk(adapted_image=image.ref.name))
    second = qemu.target.create(qemu.disk("c-disk1"))
    assert clones_of(snapshot) == 3
    for made in (image, first, second):
        qemu.target.delete(made.ref, job_id="job-1", uid=made.uid)
    assert clones_of(snapshot) == 0


def test_a_clone_survives_the_removal_of_its_snapshot_and_a_move_of_all(qemu):
    qemu.target.create(qemu.disk())
    qemu.snapshots.remove(qemu.snapshot.key)
    made = qemu.target.create(qemu.instance())
    assert "BOOTED" in qemu.wait_booted(made.ref)
    qemu.power_off(made.ref)
    (qemu.path(made.ref) / "qmp.sock").unlink(missing_ok=True)
    moved = qemu.folder / "elsewhere"
    shutil.copytree(qemu.root, moved)  # without links, as a copy to another file system has none
    target = QemuTarget(moved, qemu.snapshots)
    again = target.create(qemu.instance())
    assert target.find(again.ref).status is Status.READY
    for ref in (again.ref, qemu.disk().ref):
        target.delete(ref, job_id="job-1", uid=target.find(ref).uid)


def test_a_disk_of_older_code_that_names_its_snapshot_by_path(qemu):
    made = qemu.target.create(qemu.disk())
    folder = qemu.path(made.ref)
    (folder / "base.raw").unlink()
    path = qemu.snapshots.path(qemu.snapshot.key)
    command = ["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", str(path), str(folder / "disk.qcow2")]
    subprocess.run(command, check=True)
    assert qemu.target.held_snapshots() == {qemu.snapshot.key}
    assert "BOOTED" in qemu.wait_booted(qemu.target.create(qemu.instance()).ref)
    qemu.power_off(qemu.instance().ref)
    assert qemu.target.flatten(made.ref, job_id="job-1", uid=made.uid, progress=lambda _: None)
    assert qemu.target.held_snapshots() == set()


def test_snapshots_on_another_file_system_are_refused_before_anything_is_made(qemu, monkeypatch):
    monkeypatch.setattr(snapshot_links, "_mount", lambda path: path.is_relative_to(qemu.snapshots.root))
    with pytest.raises(UnsupportedError, match="another file system.*clone_mode to full"):
        qemu.target.check([qemu.disk()])
    monkeypatch.setattr(os, "link", lambda *_, **__: (_ for _ in ()).throw(OSError(18, "Invalid cross-device link")))
    with pytest.raises(UnsupportedError, match="another file system"):
        qemu.target.create(qemu.disk())
    monkeypatch.setattr(os, "link", lambda *_, **__: (_ for _ in ()).throw(OSError(31, "Too many links")))
    with pytest.raises(RefusedError, match="as many clones"):
        qemu.target.create(qemu.disk())
    assert qemu.target.find(qemu.disk().ref) is None


@pytest.mark.parametrize("running", [False, True])
def test_a_clone_is_made_independent(qemu, running):
    snapshot = qemu.snapshots.path(qemu.snapshot.key)
    made = qemu.target.create(qemu.disk())
    vm = qemu.target.create(qemu.instance())
    qemu.wait_booted(vm.ref)
    if not running:
        qemu.power_off(vm.ref)
    before, heard = content_of(qemu, made.ref), []
    assert qemu.target.flatten(made.ref, job_id="job-1", uid=made.uid, progress=heard.append)
    assert clones_of(snapshot) == 0
    assert content_of(qemu, made.ref) == before
    assert all(0 <= percent <= 100 for percent in heard)
    assert sorted(path.name for path in qemu.path(made.ref).iterdir()) == ["disk.qcow2", "meta.json"]
    assert not qemu.target.flatten(made.ref, job_id="job-1", uid=made.uid, progress=heard.append)
    assert bool(qemu.processes()) is running
    if not running:
        assert "BOOTED" in qemu.wait_booted(qemu.target.create(qemu.instance()).ref)
    with pytest.raises(ConflictError):
        qemu.target.flatten(made.ref, job_id="job-2", uid=made.uid, progress=heard.append)


def test_a_machine_that_dies_while_it_copies_is_told_in_our_words(qemu):
    made = qemu.target.create(qemu.disk())
    vm = qemu.target.create(qemu.instance())
    before = content_of(qemu, made.ref)
    for process in qemu.processes():
        os.kill(process.pid, signal.SIGKILL)
    while qemu.processes():
        time.sleep(0.01)
    with pytest.raises(TransientError) as error:  # its socket is still there, and nobody listens
        flatten_running(disk_file(qemu.path(made.ref)), qemu.path(vm.ref), lambda _: None)
    assert str(error.value).startswith(
        "The machine ended, or QEMU does not answer any more, while its disk was being copied"
    )
    assert content_of(qemu, made.ref) == before
    assert clones_of(qemu.snapshots.path(qemu.snapshot.key)) == 1


def test_flattening_that_breaks_off_leaves_the_disk_as_it_was(qemu):
    made = qemu.target.create(qemu.disk())
    before = content_of(qemu, made.ref)

    def broken(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        qemu.target.flatten(made.ref, job_id="job-1", uid=made.uid, progress=broken)
    assert clones_of(qemu.snapshots.path(qemu.snapshot.key)) == 1
    assert sorted(path.name for path in qemu.path(made.ref).iterdir()) == ["base.raw", "disk.qcow2", "meta.json"]
    assert content_of(qemu, made.ref) == before


def full(qemu, **options) -> QemuTarget:
    return QemuTarget(qemu.root, qemu.snapshots, clone_mode="full", call_timeout_s=20, **options)


def finish(target, spec):
    deadline = time.monotonic() + 20
    while (made := target.create(spec)).status is not Status.READY:
        assert time.monotonic() < deadline, made
        time.sleep(0.01)
    return made


def put(qemu, key: str, size_bytes: int, image_format: str = "raw") -> Snapshot:
    """A snapshot of random data, holes and no data at its end."""
    file = qemu.folder / "new.img"
    with file.open("wb") as writing:
        for offset in range(0, size_bytes // 2, 8 * MIB):
            writing.seek(offset)
            writing.write(os.urandom(3 * MIB + 512))
        writing.truncate(size_bytes)
    if image_format == "qcow2":
        subprocess.run(["qemu-img", "convert", "-O", "qcow2", str(file), f"{file}.q"], check=True)
        os.replace(f"{file}.q", file)
    with qemu.snapshots.writer(key) as writer, file.open("rb") as reading:
        while data := reading.read(MIB):
            writer.write(data)
    file.unlink()
    return Snapshot(key, image_format, size_bytes, writer.sha256)


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_a_full_copy_needs_nothing_else_and_keeps_holes(qemu, image_format):
    target, snapshot = full(qemu), put(qemu, f"cycle-2/disk0.{image_format}", 64 * MIB + 512, image_format)
    spec = dataclasses.replace(qemu.disk(), snapshot=snapshot)
    target.check([spec])
    made = finish(target, spec)
    assert target.find(spec.ref) == made
    source, disk = qemu.snapshots.path(snapshot.key), qemu.path(spec.ref) / f"disk.{image_format}"
    assert clones_of(source) == 0 and not has_backing(disk)
    same = ["qemu-img", "compare", "-f", image_format, "-F", image_format, str(source), str(disk)]
    assert subprocess.run(same, capture_output=True).returncode == 0
    assert disk.stat().st_blocks * 512 < 40 * MIB
    assert target.find(target.create(qemu.instance()).ref).status is Status.READY
    assert not target.flatten(spec.ref, job_id="job-1", uid=made.uid, progress=print)


@pytest.mark.parametrize(("of_target", "of_disk"), [("overlay", "full"), ("full", "overlay")])
def test_a_disk_is_made_in_the_mode_that_its_job_says(qemu, of_target, of_disk):
    target = QemuTarget(qemu.root, qemu.snapshots, clone_mode=of_target, call_timeout_s=20)
    spec = dataclasses.replace(qemu.disk(), clone_mode=of_disk)
    target.check([spec])
    made = finish(target, spec)
    assert target.find(spec.ref) == made
    assert clones_of(qemu.snapshots.path(qemu.snapshot.key)) == (of_disk == "overlay")
    with pytest.raises(UnsupportedError, match="knows no clone mode 'mirror': overlay, full"):
        target.check([dataclasses.replace(spec, clone_mode="mirror")])


def test_a_full_copy_of_an_adapted_image(qemu):
    target = full(qemu)
    image = target.create(qemu.image())
    finish(target, qemu.disk(adapted_image=image.ref.name))
    target.delete(image.ref, job_id="job-1", uid=image.uid)
    qemu.snapshots.remove(qemu.snapshot.key)
    assert "BOOTED hostname=web-1" in qemu.wait_booted(target.create(qemu.instance()).ref)


@pytest.mark.parametrize("chunks", [True, False], ids=["by chunks", "by the whole checksum"])
@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_a_snapshot_that_is_not_what_was_uploaded_is_not_copied(qemu, image_format, chunks):
    target, snapshot = full(qemu), put(qemu, f"cycle-2/disk0.{image_format}", 16 * MIB, image_format)
    path = qemu.snapshots.path(snapshot.key)
    if not chunks:
        remove_manifest(path)
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(2 * MIB)
        file.write(b"changed")
    with pytest.raises(RefusedError, match="not what was uploaded"):
        finish(target, dataclasses.replace(qemu.disk(), snapshot=snapshot))
    assert target.find(qemu.disk().ref) is None


def stopped_copy(qemu, target, monkeypatch, size_bytes=64 * MIB):
    """A copy whose process does nothing but hold its lock."""
    snapshot = put(qemu, "cycle-2/disk0.raw", size_bytes)
    spec = dataclasses.replace(qemu.disk(), snapshot=snapshot)
    slow = qemu.folder / "slow.py"
    slow.write_text("import time\ntime.sleep(60)\n")
    with monkeypatch.context() as patch:
        patch.setattr(disk_copy, "__file__", str(slow))
        assert target.create(spec).status is Status.CREATING
    assert target.find(spec.ref).status is Status.CREATING
    return spec


def test_a_copy_is_ended_before_its_disk_is_deleted(qemu, monkeypatch):
    target = full(qemu)
    spec = stopped_copy(qemu, target, monkeypatch)
    assert target.create(spec).status is Status.CREATING  # it runs: no second one
    uid = target.find(spec.ref).uid
    assert len(list(qemu_copies._processes(uid))) == 1
    qemu.delete_until_gone(spec.ref)
    assert list(qemu_copies._processes(uid)) == [] and target.inventory() == []


@pytest.mark.parametrize("known", ["durable_bytes", "verified_bytes"], ids=["by the whole checksum", "by chunks"])
def test_a_copy_whose_process_was_killed_is_taken_up_again(qemu, monkeypatch, known):
    target = full(qemu)
    spec = stopped_copy(qemu, target, monkeypatch)
    if known == "durable_bytes":  # a snapshot from before there were manifests
        remove_manifest(qemu.snapshots.path(spec.snapshot.key))
    folder, uid = qemu.path(spec.ref), target.find(spec.ref).uid
    qemu_copies.stop(folder, uid, timeout_s=5)
    assert target.find(spec.ref).status is Status.FAILED
    # As if it had been killed after a checkpoint: what it had synced is not written again.
    source = qemu.snapshots.path(spec.snapshot.key)
    marked = bytearray(source.read_bytes()[: 20 * MIB])
    marked[100:106] = b"synced"
    (folder / "disk.raw.tmp").write_bytes(marked)
    (folder / "copy.json").write_text(json.dumps({**STATE, known: 20 * MIB}))
    assert finish(target, spec).uid == uid
    copied = (folder / "disk.raw").read_bytes()
    assert copied[100:106] == b"synced"
    assert copied[106:] == source.read_bytes()[106:]


def test_the_memory_of_a_copy_is_bounded(qemu):
    snapshot = put(qemu, "cycle-2/disk0.raw", 256 * MIB)
    order = {"label": "", "verify": str(qemu.snapshots.path(snapshot.key)), "sha256": snapshot.sha256, "convert": "",
             "target": "disk.raw", "durable_bytes": 0, "verified_bytes": 0, "total_bytes": 256 * MIB, "qemu_img": "",
             "options": [], "lock_fd": 0}  # fmt: skip
    code = "import runpy, sys; runpy.run_path(sys.argv.pop(1), run_name='__main__');" \
           "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"  # fmt: skip
    command = [sys.executable, "-I", "-S", "-c", code, disk_copy.__file__, json.dumps(order)]
    done = subprocess.run(command, cwd=qemu.folder, capture_output=True, check=True)
    assert int(done.stdout) < 64 * 1024
    state = json.loads((qemu.folder / "copy.json").read_text())
    assert state["bytes"] == state["total_bytes"] and state["bytes_per_s"] > 0
