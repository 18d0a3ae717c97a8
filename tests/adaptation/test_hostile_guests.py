"""Guests that want to be adapted into writing on this machine, into looping, or into filling it."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest
from linux_guest import adapt_whole

from targets.adaptation import Outcome, Policy, Request
from targets.adaptation.debugfs import DebugfsFiles
from targets.adaptation.directory import DirectoryFiles
from targets.adaptation.files import GuestFileError, Remove, Symlink, Write, resolve
from targets.adaptation.programs import Deadline
from targets.errors import AdaptationError

RELEASE = {"etc/os-release": "ID=debian\nPRETTY_NAME='Hostile \x1b[31m'\n"}


def make_tree(folder: Path, files) -> Path:
    for name, content in files.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            place.symlink_to(content)
        elif isinstance(content, int):
            with place.open("wb") as file:
                file.truncate(content)
        else:
            place.write_text(content)
    return folder


def overlay(tmp_path: Path, files, *, commands: tuple[str, ...] = ()) -> Path:
    """An overlay on a disk that holds these files in ext4, without a partition table."""
    tree = make_tree(tmp_path / "tree", files)
    disk = tmp_path / "disk.img"
    subprocess.run(["/usr/sbin/mke2fs", "-q", "-t", "ext4", "-d", tree, disk, "8M"], check=True)
    if commands:
        debugfs(disk, *commands)
    made = tmp_path / "overlay.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", disk, made], check=True)
    return made


def debugfs(disk: Path, *commands: str) -> str:
    """Carry out the commands on an image; what it says."""
    done = subprocess.run(["/usr/sbin/debugfs", "-w", "-f", "-", disk], input="\n".join([*commands, ""]), text=True,
                          check=True, capture_output=True, env={"DEBUGFS_PAGER": "__none__"})  # fmt: skip
    return done.stdout


def adapted(tmp_path: Path, files, policy=Policy.BEST_EFFORT, **options):
    place = tmp_path / "place"
    try:
        return adapt_whole(overlay(tmp_path, files, **options), Request("web-1", place, "a", 60.0, policy))
    finally:
        assert list(place.iterdir()) == []
        assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def outcomes(report):
    return {action.recipe: action.outcome for action in report.actions}


def reason(report, recipe: str) -> str:
    return next(action.reason for action in report.actions if action.recipe == recipe)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def host(tmp_path):
    """Files of this machine that a guest's links point at; they must stay as they are."""
    folder = make_tree(
        tmp_path / "host", {"os-release": "ID=host\n", "hostname": "host\n", "hosts": "host\n", "machine-id": "host\n"}
    )
    before = contents(folder)
    yield folder
    assert contents(folder) == before and sorted(os.listdir(folder)) == [
        "hostname",
        "hosts",
        "machine-id",
        "os-release",
    ]


def test_links_lead_to_the_guests_own_files_whatever_they_say(tools, host, tmp_path):
    up = Path("../" * 30)
    files = {**RELEASE, "etc/hostname": host / "hostname", "etc/hosts": up / str(host)[1:] / "hosts",
             "etc/machine-id": host / "machine-id", "etc/network": host}  # fmt: skip
    report = adapted(tmp_path, files)
    assert outcomes(report)["hostname"] is Outcome.APPLIED  # in the guest, at that path: nothing there had to exist
    assert outcomes(report)["marker"] is Outcome.APPLIED


def test_etc_as_a_link_out_of_the_guest(tools, host, tmp_path):
    report = adapted(tmp_path, {"etc": host, "usr/x": ""})
    assert outcomes(report) == {"inspect": Outcome.UNSUPPORTED}  # the os-release of this machine is not the guest's


def test_links_to_devices_are_not_written_through(tools, tmp_path):
    report = adapted(tmp_path, {**RELEASE, "etc/hostname": Path("/dev/sda")})
    assert outcomes(report)["hostname"] is Outcome.UNSUPPORTED
    assert "/dev/sda, which is not on the disk" in reason(report, "hostname")


def test_device_nodes_are_not_written(tools, tmp_path):
    report = adapted(tmp_path, RELEASE, commands=("cd /etc", "mknod hostname b 8 0"))
    assert outcomes(report)["hostname"] is Outcome.UNSUPPORTED
    assert "no regular file" in reason(report, "hostname")


def test_loops_end(tools, tmp_path):
    files = {**RELEASE, "etc/hostname": Path("hostname"), "etc/hosts": Path("/a/b"), "a": Path("/c"), "c": Path("/a"),
             "etc/fstab": Path("../" * 300 + "etc/fstab")}  # fmt: skip
    report = adapted(tmp_path, files)
    assert "loop of symbolic links" in reason(report, "hostname")
    assert outcomes(report)["device-names"] is Outcome.UNSUPPORTED


def test_huge_files_are_not_read(tools, tmp_path):
    report = adapted(tmp_path, {**RELEASE, "etc/fstab": 3 * 2**30, "etc/hostname": "old\n"})
    assert outcomes(report)["device-names"] is Outcome.UNSUPPORTED
    assert "more than the 1048576 that are read" in reason(report, "device-names")
    assert outcomes(report)["hostname"] is Outcome.APPLIED
    with pytest.raises(AdaptationError, match=r"device-names: /etc/fstab has 3221225472 bytes.*skip_os_adaptation"):
        again = tmp_path / "again"
        again.mkdir()
        adapted(again, {**RELEASE, "etc/fstab": 3 * 2**30}, Policy.REQUIRED)


def test_a_length_that_lies_is_not_believed(tools, tmp_path):
    report = adapted(
        tmp_path,
        {**RELEASE, "etc/hosts": "x\n", "etc/hostname": "old\n"},
        commands=("sif /etc/hosts size 1000000000000",),
    )
    assert outcomes(report)["hostname"] is Outcome.UNSUPPORTED


def test_names_are_no_commands(tools, tmp_path):
    out = tmp_path / "stolen"
    odd = [f"a\ndump <12> {out}", "b c", "<2>", "-R", 'd"e', "f\\g"]
    files = {
        **RELEASE,
        "etc/hostname": "old\n",
        **{f"etc/network/interfaces.d/{name}".replace(str(out), "x"): "iface e inet static\n" for name in odd},
    }
    report = adapted(tmp_path, files)
    assert outcomes(report)["marker"] is Outcome.APPLIED
    assert not out.exists()


def test_the_report_is_short_and_plain(tools, tmp_path):
    links = {f"etc/rc2.d/S20{'x' * 200}{n}": "" for n in range(150)}
    report = adapted(tmp_path, {**RELEASE, "etc/hostname": "o\x1b]0;evil\x07" + "y" * 5000, **links}).as_json()
    text = str(report)
    assert len(text) < 20_000 and text.isprintable()


def test_a_journal_that_was_not_replayed_is(tools, tmp_path):
    """What lies in it would otherwise come over what is written later."""
    disk, raw = overlay(tmp_path, {**RELEASE, "etc/hostname": "old\n", "etc/issue": "before\n"}), tmp_path / "disk.img"
    block = debugfs(raw, "blocks /etc/issue").split()[-1]
    (tmp_path / "block").write_bytes(b"journal\n".ljust(1024, b"\0"))
    debugfs(raw, "jo", f"jw -b {block} {tmp_path / 'block'}", "jc")
    assert "needs_recovery" in debugfs(raw, "features") and "before" in debugfs(raw, "cat /etc/issue")
    report = adapt_whole(
        disk, Request("web-1", tmp_path / "place", "a", 60.0, Policy.REQUIRED, {"virtio-drivers": "off"})
    )
    assert outcomes(report)["hostname"] is Outcome.APPLIED
    whole = tmp_path / "whole.img"
    subprocess.run(["qemu-img", "convert", "-O", "raw", disk, whole], check=True)
    assert "needs_recovery" not in debugfs(whole, "features")
    assert "journal" in debugfs(whole, "cat /etc/issue") and "web-1" in debugfs(whole, "cat /etc/hostname")
    done = subprocess.run(["/usr/sbin/e2fsck", "-fn", whole], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_damaged_file_system_is_refused(tools, tmp_path):
    disk = overlay(tmp_path, RELEASE)
    with (tmp_path / "disk.img").open("r+b") as file:
        file.seek(1024 + 58)
        file.write(b"\2\0")  # not clean, with errors
        file.seek(2048)
        file.write(os.urandom(256 * 1024))  # group descriptors, bitmaps, inodes
    with pytest.raises(AdaptationError, match="damaged file system|Linux that says who it is"):
        adapt_whole(disk, Request("web-1", tmp_path / "place", "a", 60.0, Policy.REQUIRED))


# The door itself


@pytest.mark.parametrize("path", ["/etc/a b", "/a\nb", "/<2>", "/a/../b", "etc", "/é", "/a//b", "/" + "x" * 300])
def test_only_plain_paths_pass_the_door(tools, tmp_path, path):
    overlay(tmp_path, RELEASE)
    files = DebugfsFiles(tmp_path / "disk.img", 0, tmp_path / "scratch", Deadline(30))
    digest = hashlib.sha256((tmp_path / "disk.img").read_bytes()).digest()
    for change in (Write(path, b"x"), Remove(path), Symlink(path, "/dev/null")):
        with pytest.raises(GuestFileError):
            files.apply([change])
        with pytest.raises(GuestFileError):
            DirectoryFiles(tmp_path / "tree").apply([change])
    assert hashlib.sha256((tmp_path / "disk.img").read_bytes()).digest() == digest


def test_a_folder_of_this_machine_is_no_way_out_either(host, tmp_path):
    tree = make_tree(tmp_path / "tree", {"etc/os-release": "x", "out": host})
    files = DirectoryFiles(tree)
    assert resolve(files, "/out/hostname") == f"{host}/hostname"  # below the tree
    with pytest.raises(GuestFileError):
        files.apply([Write("/out/hostname", b"x")])
    with pytest.raises(GuestFileError), files.open("/out/hostname", 100):
        pass
