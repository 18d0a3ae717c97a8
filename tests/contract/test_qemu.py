"""What only the QEMU target promises: machines are processes, and processes are killed at bad moments."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import random
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest

from targets import qemu_vm
from targets.base import BootVerdict, ResourceKind, ResourceRef, Snapshot, Status
from targets.errors import (
    AdaptationError,
    ConflictError,
    RefusedError,
    SourceGoneError,
    TombstonedError,
    TransientError,
    UnsupportedError,
)
from targets.guest import build_disk
from targets.qemu import QemuTarget
from targets.snapshot_store import FileSnapshotStore

FORK = multiprocessing.get_context("fork")


def script(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def wait_for(condition, what: str, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def in_group(work) -> multiprocessing.Process:
    """Run ``work`` in a process group of its own, as a worker does."""

    def run() -> None:
        os.setpgid(0, 0)
        work()

    process = FORK.Process(target=run)
    process.start()
    return process


def upload(qemu, key: str, **options) -> Snapshot:
    disk = build_disk(qemu.folder / "new.img", **options)
    with qemu.snapshots.writer(key) as writer:
        writer.write(disk.read_bytes())
    disk.unlink()
    format = options.get("format", "raw")
    return Snapshot(key, format, options.get("size_bytes", 8 * 2**20), writer.sha256)


def test_a_machine_outlives_its_creators_process_group(qemu):
    qemu.target.create(qemu.disk())

    def create_and_wait() -> None:
        qemu.connect().create(qemu.instance())
        signal.pause()

    creator = in_group(create_and_wait)
    ref = qemu.instance().ref
    wait_for(lambda: (seen := qemu.target.find(ref)) is not None and seen.status is Status.READY, "machine")
    os.killpg(creator.pid, signal.SIGKILL)
    creator.join(10)
    assert "BOOTED hostname=NOT-ADAPTED" in qemu.wait_booted(ref)
    [process] = qemu.processes()
    assert int(Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()[1]) != os.getpid()
    again = qemu.connect().create(qemu.instance())
    assert qemu.processes() == [process]
    assert again.uid == process.label.uid


@pytest.mark.parametrize("kind", [ResourceKind.ADAPTED_IMAGE, ResourceKind.DISK])
def test_a_creator_killed_while_a_tool_runs(qemu, kind):
    spec = qemu.spec(kind, "c-1")
    hanging = script(qemu.folder / "hang", "#!/bin/sh\nexec sleep 30\n")
    creator = in_group(lambda: QemuTarget(qemu.root, qemu.snapshots, qemu_img=hanging).create(spec))
    wait_for(lambda: (seen := qemu.target.find(spec.ref)) is not None, "claim")
    assert qemu.target.find(spec.ref).status is Status.CREATING
    wait_for(lambda: len(_group(creator.pid)) > 1, "tool")
    os.killpg(creator.pid, signal.SIGKILL)
    creator.join(10)
    # Its tool holds the claim's lock until it, too, is gone.
    wait_for(lambda: qemu.target.find(spec.ref).status is Status.FAILED, "the claim is given up")
    made = qemu.target.create(spec)
    assert qemu.target.find(spec.ref) == made


def test_a_creator_killed_while_qemu_starts(qemu):
    slow = script(qemu.folder / "slow-qemu", "#!/usr/bin/python3\nimport time\ntime.sleep(30)\n")
    spec = qemu.spec(ResourceKind.INSTANCE, "c-1")
    creator = in_group(lambda: QemuTarget(qemu.root, qemu.snapshots, qemu_binary=slow).create(spec))
    wait_for(lambda: qemu.processes(), "process")
    os.killpg(creator.pid, signal.SIGKILL)
    creator.join(10)
    [left] = qemu.processes()
    assert qemu.target.find(spec.ref).status is Status.FAILED
    made = qemu.target.create(spec)
    [process] = qemu.processes()
    assert process.label.uid == made.uid != left.label.uid


def test_a_creator_killed_before_it_noted_that_the_machine_runs(qemu):
    made = qemu.target.create(qemu.instance(disks=()))
    meta = qemu.target._folders.meta(made.ref)
    qemu.target._folders.save(made.ref, dataclasses.replace(meta, state="making"))
    before = qemu.processes()
    assert qemu.target.create(qemu.instance(disks=())) == made
    assert qemu.processes() == before


def test_a_frozen_creator_is_seen_and_cleaned_up_after(qemu):
    hanging = script(qemu.folder / "hang", "#!/bin/sh\nsleep 30\n")
    spec = qemu.disk()
    target = QemuTarget(qemu.root, qemu.snapshots, qemu_img=hanging)
    creator = in_group(lambda: target.create(spec))
    wait_for(lambda: qemu.target.find(spec.ref) is not None, "claim")
    os.killpg(creator.pid, signal.SIGSTOP)
    impatient = QemuTarget(qemu.root, qemu.snapshots, call_timeout_s=0.2)
    impatient.bury("job-1")
    seen = impatient.find(spec.ref)
    assert seen.status is Status.CREATING
    with pytest.raises(TransientError, match="still working"):
        impatient.delete(spec.ref, job_id="job-1", uid=seen.uid)
    os.killpg(creator.pid, signal.SIGKILL)
    creator.join(10)
    qemu.delete_until_gone(spec.ref)
    with pytest.raises(TombstonedError):
        qemu.target.create(spec)


def test_more_memory_than_the_host_has_is_refused_by_qemu(qemu):
    qemu.target.create(qemu.disk())
    spec = qemu.instance(machine_type="custom-1-8388608")
    qemu.target.check([spec])
    with pytest.raises(RefusedError, match=r"8388608 MB of memory: .*Cannot allocate memory"):
        qemu.target.create(spec)
    assert qemu.target.find(spec.ref) is None
    assert [seen.ref for seen in qemu.target.inventory()] == [qemu.disk().ref]


def test_an_unknown_system_is_not_adapted(qemu):
    snapshot = upload(qemu, "other/disk0.raw")
    path = qemu.snapshots.path(snapshot.key)
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(446 + 4)
        file.write(b"\x83")
        file.seek(512)
        file.write(b"LINUX")
    spec = dataclasses.replace(qemu.image(), snapshot=snapshot)
    with pytest.raises(AdaptationError, match=r"an MBR with 1 partition.*0x83.*skip_os_adaptation"):
        qemu.target.create(spec)
    assert qemu.target.find(spec.ref) is None


def test_a_host_name_that_is_not_legal(qemu):
    with pytest.raises(AdaptationError, match="host name"):
        qemu.target.create(dataclasses.replace(qemu.image(), hostname="a b"))
    assert qemu.target.inventory() == []


def test_a_qcow2_snapshot_with_a_slow_guest(qemu):
    snapshot = upload(qemu, "cycle-3/disk0.qcow2", data="cycle=3", boot_delay_s=0.5, format="qcow2")
    image = qemu.target.create(dataclasses.replace(qemu.image(), snapshot=snapshot))
    qemu.target.create(dataclasses.replace(qemu.disk(adapted_image=image.ref.name), snapshot=snapshot))
    made = qemu.target.create(qemu.instance())
    assert "BOOTED hostname=web-1 data=cycle=3" in qemu.wait_booted(made.ref)
    assert 0.5 < qemu.target.boot_report(made.ref).boot_seconds < 10
    assert qemu.path(qemu.disk().ref).joinpath("disk.qcow2").stat().st_blocks * 512 < 2**20


def test_a_machine_without_a_bootable_disk(qemu):
    made = qemu.target.create(qemu.instance(disks=()))
    wait_for(lambda: qemu.target.boot_report(made.ref).verdict is BootVerdict.NO_BOOT, "verdict")
    assert qemu.target.boot_report(ResourceRef(ResourceKind.INSTANCE, "none")).verdict is BootVerdict.WAITING


def test_sources_that_are_gone_or_changed(qemu):
    gone = dataclasses.replace(qemu.snapshot, key="cycle-9/disk0.raw")
    smaller = dataclasses.replace(qemu.snapshot, virtual_size_bytes=512)
    other_format = dataclasses.replace(qemu.snapshot, format="qcow2")
    outside = dataclasses.replace(qemu.snapshot, key="../guest.raw")
    for snapshot in (gone, smaller, other_format, outside):
        spec = dataclasses.replace(qemu.disk(), snapshot=snapshot)
        with pytest.raises(SourceGoneError):
            qemu.target.check([spec])
        with pytest.raises(SourceGoneError):
            qemu.target.create(spec)
        assert qemu.target.find(spec.ref) is None


def test_programs_that_are_missing_or_hang(qemu):
    missing = QemuTarget(qemu.root, qemu.snapshots, qemu_binary="no-such-qemu")
    with pytest.raises(UnsupportedError, match="no-such-qemu is not installed.*apt-get install"):
        missing.check([])
    with pytest.raises(UnsupportedError):
        missing.create(qemu.instance(disks=()))
    hanging = script(qemu.folder / "hang", "#!/bin/sh\nexec sleep 30\n")
    slow = QemuTarget(qemu.root, qemu.snapshots, qemu_img=hanging, qemu_binary=hanging, call_timeout_s=1)
    for spec in (qemu.disk(), qemu.instance(disks=())):
        with pytest.raises(TransientError, match="did not"):
            slow.create(spec)
    with pytest.raises(UnsupportedError, match="m9-huge.*custom-CPUS-MB"):
        qemu.target.check([qemu.instance(machine_type="m9-huge")])
    assert qemu.target.inventory() == []


def test_a_machine_whose_folder_was_removed_by_hand(qemu):
    made = qemu.target.create(qemu.instance(disks=()))
    subprocess.run(["rm", "-r", str(qemu.path(made.ref))], check=True)
    left = qemu.target.find(made.ref)
    assert (left.uid, left.job_id, left.status) == (made.uid, "job-1", Status.FAILED)
    assert qemu.target.inventory() == [left]
    again = qemu.target.create(qemu.instance(disks=()))
    assert [process.label.uid for process in qemu.processes()] == [again.uid]


def test_a_pid_that_was_given_to_another_process(qemu):
    made = qemu.target.create(qemu.instance(disks=()))
    qemu.power_off(made.ref)
    bystander = subprocess.Popen(["sleep", "30"])
    try:
        (qemu.path(made.ref) / "pid").write_text(f"{bystander.pid}\n")
        assert qemu.target.find(made.ref).status is Status.STOPPED
        qemu.delete_until_gone(made.ref)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_machine_that_does_not_answer_is_killed(qemu, monkeypatch):
    monkeypatch.setattr(qemu_vm, "QUIT_WAIT_S", 0.1)
    made = qemu.target.create(qemu.instance(disks=()))
    [process] = qemu.processes()
    os.kill(process.pid, signal.SIGSTOP)
    qemu.target.delete(made.ref, job_id="job-1", uid=made.uid)
    assert qemu.processes() == []
    assert qemu.target.find(made.ref) is None


def test_a_machine_that_cannot_be_killed_keeps_its_folder(qemu, monkeypatch):
    made = qemu.target.create(qemu.instance(disks=()))
    with monkeypatch.context() as patch:
        patch.setattr(qemu_vm, "stop", lambda *_, **__: None)
        with pytest.raises(TransientError, match="still has a process"):
            qemu.target.delete(made.ref, job_id="job-1", uid=made.uid)
    assert qemu.target.find(made.ref) == made


def test_a_folder_that_a_user_made_again_under_our_name_stays(qemu):
    made = qemu.target.create(qemu.disk())
    qemu.delete_until_gone(made.ref)
    qemu.make_foreign(made.ref)
    with pytest.raises(ConflictError):
        qemu.target.delete(made.ref, job_id="job-1", uid=made.uid)
    assert (qemu.path(made.ref) / "notes.json").exists()


def test_a_long_root_with_commas_and_spaces(qemu):
    root = qemu.folder / ("a, b" * 30) / ("c" * 60)
    target = QemuTarget(root, qemu.snapshots)
    target.create(qemu.disk())
    made = target.create(qemu.instance())
    assert qemu_vm.is_answering(root / "instances" / "c-vm")
    target.delete(made.ref, job_id="job-1", uid=made.uid)
    assert target.find(made.ref) is None


def test_a_killed_delete_goes_on(qemu):
    made = qemu.target.create(qemu.disk())
    qemu.target._folders.clear(made.ref)
    left = qemu.target.find(made.ref)
    assert (left.uid, left.status) == (made.uid, Status.FAILED)
    (qemu.path(made.ref) / "meta.json").unlink()
    qemu.path(made.ref).rename(qemu.path(made.ref).with_name(".c-disk0~job-1"))
    assert qemu.target.find(made.ref).status is Status.FAILED
    qemu.delete_until_gone(made.ref)
    assert list((qemu.root / "disks").iterdir()) == []
    assert qemu.target.create(qemu.disk()).status is Status.READY


def test_a_creator_killed_before_its_note_was_written(qemu):
    spec = qemu.disk()
    (qemu.path(spec.ref).parent / f".{spec.ref.name}~job-1").mkdir()
    left = qemu.target.find(spec.ref)
    assert (left.job_id, left.status) == ("job-1", Status.FAILED)
    assert qemu.target.inventory() == [left]
    with pytest.raises(ConflictError):
        qemu.target.create(qemu.disk(job_id="job-2"))
    qemu.delete_until_gone(spec.ref)
    assert list(qemu.path(spec.ref).parent.iterdir()) == []


def _group(pgid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[2]) == pgid:
                found.append(int(entry.name))
    return found


def test_a_machine_inherits_nothing(qemu):
    qemu.target.create(qemu.disk())
    qemu.target.create(qemu.instance())
    [process] = qemu.processes()
    fds = [os.readlink(fd) for fd in Path(f"/proc/{process.pid}/fd").iterdir()]
    files = {Path(fd).name for fd in fds if fd.startswith(str(qemu.folder))}
    assert files <= {"disk.qcow2", "base.raw", "seed.iso", "serial.log", "firmware.log", "stderr.log", "pid"}
    environment = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
    assert {entry.split(b"=")[0] for entry in environment if entry} == {b"PATH", b"LC_ALL"}


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk(qemu):
    small = qemu.folder / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=320k", "none", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mount is not allowed here")
    try:
        snapshots = FileSnapshotStore(small / "snapshots")
        with snapshots.writer(qemu.snapshot.key) as writer:
            writer.write(qemu.snapshots.path(qemu.snapshot.key).read_bytes())
        target = QemuTarget(small, snapshots)
        (small / "ballast").write_bytes(bytes(100 * 1024))
        with pytest.raises(RefusedError, match="full|No space left"):
            target.create(qemu.disk())
        assert target.inventory() == []
        assert list((small / "disks").iterdir()) == []
        (small / "ballast").unlink()
        assert target.create(qemu.disk()).status is Status.READY
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.parametrize("seed", range(8))
def test_creators_and_deleters_killed_at_any_moment_leave_nothing(qemu, seed):
    moments = random.Random(seed)
    image, disk, instance = qemu.image(), qemu.disk(adapted_image="c-image"), qemu.instance()

    def create() -> None:
        target = qemu.connect()
        made = target.create(image)
        target.create(disk)
        target.delete(made.ref, job_id="job-1", uid=made.uid)
        target.create(instance)
        signal.pause()

    creators = [in_group(create) for _ in range(moments.choice([1, 2]))]
    time.sleep(moments.uniform(0, 0.2))
    for creator in creators:
        creator.kill()
        creator.join(10)
    assert len({process.label.uid for process in qemu.processes()}) <= 1
    qemu.target.bury("job-1")
    for ref in (instance.ref, disk.ref, image.ref):
        while (seen := qemu.target.find(ref)) is not None:
            uid = seen.uid
            deleter = in_group(lambda: qemu.connect().delete(ref, job_id="job-1", uid=uid))
            deleter.join(moments.choice([0.005, 0.02, 5]))
            deleter.kill()
            deleter.join(10)
        assert [path.name for path in qemu.path(ref).parent.iterdir()] == []
    assert qemu.processes() == []
