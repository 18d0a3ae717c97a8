"""A real Linux guest: uploaded, adapted, cloned, booted; one that cannot boot; and what a guest can reach."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
from pathlib import Path

import linux_guest
import pytest
from harness import PARENT, SOURCE, World

from models.states import JobState, StepKind
from targets.adaptation import Policy, Request
from targets.base import BootVerdict, ResourceKind, ResourceRef
from targets.qemu import QemuTarget
from tasks import services
from tasks.runtime import Pacing

DETAILS = {"targetProject": f"{PARENT}/targetProjects/local", "machineType": "custom-1-256"}


@pytest.fixture(scope="module")
def listener():
    """A port of this machine that a guest must not reach; holds who did."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


@pytest.fixture(scope="module")
def world(tools, tmp_path_factory, listener):
    """A service with a QEMU target, one VM with a Linux guest, one with a Linux guest whose boot loader is broken."""
    folder = tmp_path_factory.mktemp("linux")
    world = World(folder, pacing=Pacing(inline_wait_s=90.0, boot_timeout_s=90.0))
    target = QemuTarget(folder / "local", world.snapshots, call_timeout_s=60)
    world.runtime.targets["local"] = target
    world.set_up()
    with contextlib.ExitStack() as stack:
        stack.callback(world.close)
        world.services.target_projects.create(PARENT, "local", {"project": "local"}, services.Request())
        disk = linux_guest.build(folder / "good.img", probe_port=listener.getsockname()[1])
        import_vm(world, "good", disk)
        linux_guest.break_bootloader(disk)
        import_vm(world, "broken", disk)
        stack.callback(remove_all, target)
        yield world


def import_vm(world, name: str, disk) -> None:
    vm = world.add_vm(name, defaults=DETAILS)
    cycle = world.services.cycles.begin(vm, None)
    with disk.open("rb") as file:
        world.services.cycles.put_disk(cycle.name, 0, "raw", iter(lambda: file.read(2**20), b""))
    world.services.cycles.finish(cycle.name)


def remove_all(target) -> None:
    for seen in target.inventory():
        target.delete(seen.ref, job_id=seen.job_id, uid=seen.uid)
    assert target.inventory() == []


def clone(world, name: str, job_id: str = ""):
    """The job at its end, and its instance."""
    job = world.create(job_id or f"{name}-1", vm=f"{SOURCE}/migratingVms/{name}")
    job = world.run_to_end(job.id)
    row = next(row for row in job.ledger if row.kind == ResourceKind.INSTANCE)
    return job, ResourceRef(ResourceKind.INSTANCE, row.name)


@pytest.fixture(scope="module")
def good(world):
    return clone(world, "good")


def test_the_clone_boots_adapted(world, good):
    job, instance = good
    assert job.state is JobState.SUCCEEDED, job.error
    boot = world.runtime.targets["local"].boot_report(instance)
    assert boot.verdict is BootVerdict.BOOTED, boot
    console = boot.console
    assert f"guest: hostname={instance.name}" in console
    assert f"{instance.name} login: " in console
    assert "guest: machine-id=[]" in console
    assert f"guest: root=/dev/vda1 fstab=UUID={linux_guest.ROOT_UUID}" in console
    assert "guest: iface eth0 inet dhcp" in console
    assert "stale network rules" not in console
    assert linux_guest.OLD_HOSTNAME not in console


def test_the_report_is_kept_with_the_job(world, good):
    report = world.job(good[0].id).steps[0].progress["adaptation"]
    outcomes = {action["id"]: action["outcome"] for action in report["actions"]}
    applied = {"hostname", "machine-id", "network-dhcp", "stale-mac-rules", "serial-console", "bootloader-console",
               "device-names", "source-tools", "marker"}  # fmt: skip
    assert {name for name, outcome in outcomes.items() if outcome == "applied"} == applied
    assert set(outcomes) - applied == {"virtio-drivers", "selinux-relabel"}
    assert report["os"] == "Debian GNU/Linux 12 (bookworm)" and report["policy"] == "required"


def test_the_next_clone_skips_the_step_and_has_its_own_name(world, good):
    vm = f"{SOURCE}/migratingVms/good"
    report = world.job(good[0].id).steps[0].progress["adaptation"]
    plan = world.services.plans.plan(vm)
    job, instance = clone(world, "good", "good-2")
    said = f"the adapted result of cycle 1 from {report['made_at']} is reused"
    assert said in plan.steps[0].reason and len(plan.steps) == 2
    assert job.state is JobState.SUCCEEDED, job.error
    kinds = [StepKind.PREPARING_VM_DISKS, StepKind.INSTANTIATING_MIGRATED_VM]
    assert [step.kind for step in job.steps] == [step.kind for step in plan.steps] == kinds
    again = job.steps[0].progress["adaptation"]
    assert again["reused"] and again["actions"][1:] == report["actions"][1:]
    [event] = [each for each in world.services.clone_jobs.events(job.name) if each.kind == "adaptation_reused"]
    assert f"adapted result of cycle-1 from {report['made_at']} reused" in event.message
    console = world.runtime.targets["local"].boot_report(instance).console
    assert f"guest: hostname={instance.name}\n" in console.replace("\r", "")
    assert "guest: machine-id=[]" in console
    assert good[1].name not in console


def test_a_guest_reaches_nothing_on_this_machine(world, good, listener):
    """It tries, if it has a network card at all."""
    console = world.runtime.targets["local"].boot_report(good[1]).console
    assert "guest: nc works" in console  # what tries can connect
    assert "guest: network probe done" in console or "guest: no network" in console
    assert "REACHED" not in console
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_a_broken_boot_loader_is_seen(world):
    job, instance = clone(world, "broken")
    assert job.state is JobState.SUCCEEDED, job.error  # it exists as asked
    target = world.runtime.targets["local"]
    assert target.boot_report(instance).verdict is BootVerdict.NO_BOOT
    assert target.screenshot(instance).startswith(b"\x89PNG\r\n\x1a\n")


def test_nothing_is_left_but_the_clones(world, good):
    target = world.runtime.targets["local"]
    assert not list((target.root / "adaptations").iterdir())
    assert "adaptations" not in Path("/proc/self/mountinfo").read_text()
    assert {seen.ref.kind for seen in target.inventory()} == {ResourceKind.DISK, ResourceKind.INSTANCE}


def test_the_adapted_file_system_is_sound(guest_disk, tmp_path):
    """What debugfs leaves passes a full check."""
    overlay = overlay_of(guest_disk, tmp_path)
    linux_guest.adapt_whole(overlay, Request("web-1", tmp_path / "place", "a", 60.0, Policy.REQUIRED))
    whole = tmp_path / "whole.img"
    subprocess.run([shutil.which("qemu-img"), "convert", "-O", "raw", overlay, whole], check=True)
    part = tmp_path / "part.img"
    part.write_bytes(whole.read_bytes()[linux_guest.PARTITION_START * linux_guest.SECTOR :])
    done = subprocess.run(["/usr/sbin/e2fsck", "-fn", part], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_boot_in_a_partition_of_its_own(tools, tmp_path):
    disk, mib, uuids = (
        tmp_path / "disk.img",
        2**20,
        {1: "aaaaaaaa-0000-4000-8000-000000000001", 2: linux_guest.ROOT_UUID},
    )
    trees = {
        1: {"grub/grub.cfg": "linux /vmlinuz-6 root=/dev/sda2 ro\ninitrd /i\n", "vmlinuz-6": "",
            "config-6": "CONFIG_VIRTIO_BLK=y\nCONFIG_VIRTIO_PCI=y\n"},
        2: {"etc/os-release": "ID=debian\n", "etc/fstab": "/dev/sda2 / ext4 x\n/dev/sda1 /boot ext4 x\n", "boot/old": ""},
    }  # fmt: skip
    with disk.open("wb") as file:
        file.truncate(32 * mib)
        table = linux_guest.partition_entry(2048, 8 * mib) + linux_guest.partition_entry(2048 * 9, 8 * mib)
        file.seek(446)
        file.write(table.ljust(64, b"\0") + b"\x55\xaa")
    for number, start in ((1, mib), (2, 9 * mib)):
        for name, text in trees[number].items():
            place = tmp_path / str(number) / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
        options = ["-q", "-t", "ext4", "-U", uuids[number], "-d", tmp_path / str(number), "-E", f"offset={start}"]
        subprocess.run(["/usr/sbin/mke2fs", *options, disk, "8192k"], check=True)
    overlay = overlay_of(disk, tmp_path)
    report = linux_guest.adapt_whole(overlay, Request("web-1", tmp_path / "place", "a", 60.0, Policy.REQUIRED))
    assert report.found == "MBR partitions 1 ext, 2 ext; root on partition 2"
    whole = tmp_path / "whole.img"
    subprocess.run(["qemu-img", "convert", "-O", "raw", overlay, whole], check=True)
    config = debugfs_cat(whole, mib, "/grub/grub.cfg")
    assert f"root=UUID={uuids[2]} ro console=tty0 console=ttyS0,115200n8" in config
    assert f"UUID={uuids[1]} /boot" in debugfs_cat(whole, 9 * mib, "/etc/fstab")
    assert debugfs_cat(whole, 9 * mib, "/etc/hostname") == "web-1\n"


def debugfs_cat(disk, offset, path):
    command = ["/usr/sbin/debugfs", "-R", f"cat {path}", f"{disk}?offset={offset}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def overlay_of(disk, folder):
    overlay = folder / "overlay.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", disk, overlay], check=True)
    return overlay
