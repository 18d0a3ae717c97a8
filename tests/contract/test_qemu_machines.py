"""What the machines of the QEMU target are made of: networks, seed, firmware, accelerator, user."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pwd
import shutil
import psutil
import tempfile
import socket
import struct
import subprocess
import time
from pathlib import Path

import pycdlib
import pytest
from contract.conftest import uefi

from targets import qemu_accel, qemu_user
from targets.base import BootVerdict, Status
from targets.errors import RefusedError, UnsupportedError
from targets.qemu import QemuTarget
from targets.qemu_firmware import firmware_of
from targets.qemu_machines import MachineOptions
from targets.qemu_network import Network, mac_address, network_arguments, networks_of
from targets.qemu_options import QemuOptions

GUEST_MAC, GATEWAY = bytes.fromhex("020000000001"), socket.inet_aton("10.0.2.2")
GUEST = socket.inet_aton("10.0.2.15")


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def arp_request() -> bytes:
    return b"\xff" * 6 + GUEST_MAC + b"\x08\x06" + struct.pack(">HHBBH", 1, 0x800, 6, 4, 1) + GUEST_MAC + GUEST \
        + bytes(6) + GATEWAY  # fmt: skip


def syn(gateway_mac: bytes, port: int) -> bytes:
    """The first frame of a connection to the host's own loopback, which slirp offers as its gateway."""
    tcp = struct.pack(">HHIIBBHHH", 40000, port, 1, 0, 5 << 4, 2, 65535, 0, 0)
    tcp = tcp[:16] + struct.pack(">H", checksum(GUEST + GATEWAY + struct.pack(">BBH", 0, 6, len(tcp)) + tcp)) + tcp[18:]
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(tcp), 1, 0, 64, 6, 0) + GUEST + GATEWAY
    ip = ip[:10] + struct.pack(">H", checksum(ip)) + ip[12:]
    return gateway_mac + GUEST_MAC + b"\x08\x00" + ip + tcp


def reaches_the_host(folder: Path, netdev: str) -> bool:
    """Whether frames of a guest on this network make a connection to a listener on the host."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(type=socket.SOCK_DGRAM) as wire:
        wire.bind(("127.0.0.1", 0))
        wire.settimeout(0.2)
        with socket.socket(type=socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", 0))
            theirs = free.getsockname()[1]
        ours, port = wire.getsockname()[1], listener.getsockname()[1]
        peer = f"socket,id=wire,udp=127.0.0.1:{ours},localaddr=127.0.0.1:{theirs}"
        qemu = subprocess.Popen(
            ["qemu-system-x86_64", "-nodefaults", "-machine", "none", "-display", "none", "-netdev", netdev,
             "-netdev", "hubport,id=h0,hubid=0,netdev=net0", "-netdev", peer,
             "-netdev", "hubport,id=h1,hubid=0,netdev=wire"],
            cwd=folder, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            frame, deadline = b"", time.monotonic() + 10
            while frame[12:14] != b"\x08\x06" or frame[28:32] != GATEWAY:  # the gateway answers: frames do arrive
                assert time.monotonic() < deadline
                wire.sendto(arp_request(), ("127.0.0.1", theirs))
                try:
                    frame = wire.recv(2000)
                except OSError:
                    frame = b""
            listener.settimeout(1.0)
            wire.sendto(syn(frame[6:12], port), ("127.0.0.1", theirs))
            try:
                listener.accept()[0].close()
            except TimeoutError:
                return False
            return True
        finally:
            qemu.kill()
            qemu.wait()


def test_an_isolated_guest_cannot_reach_the_host(qemu):
    arguments = network_arguments(networks_of({}, {}), "job-1")
    isolated = arguments[arguments.index("-netdev") + 1]
    assert not reaches_the_host(qemu.folder, isolated)
    assert reaches_the_host(qemu.folder, isolated.replace("restrict=on", "restrict=off"))  # so the look can tell


def test_networks_are_mapped_and_unknown_ones_refused(qemu):
    configured = {"lab": Network(mode="bridge", bridge="br0"), "off": Network(mode="none")}
    details = {"networkInterfaces": [{"network": "projects/p/global/networks/lab"}, {"subnetwork": "off"}, {}]}
    arguments = network_arguments(networks_of(details, configured), "job-1")
    assert [each for each in arguments if "id=net" in each] == ["bridge,id=net0,br=br0", "user,id=net2,restrict=on"]
    assert f"mac={mac_address('job-1', 0)}" in arguments[5]
    assert networks_of({"networkInterfaces": [{"network": "any"}]}, {}) == [Network()]
    target = QemuTarget(qemu.root, qemu.snapshots, machines=MachineOptions(networks=configured))
    spec = dataclasses.replace(qemu.instance(), details={"networkInterfaces": [{"network": "prod"}]})
    with pytest.raises(UnsupportedError, match="'prod' is not configured.*there are: lab, off"):
        target.check([spec])
    with pytest.raises(ValueError, match="needs a bridge"):
        QemuOptions(networks={"lab": {"mode": "bridge"}})
    with pytest.raises(ValueError, match="pattern"):
        QemuOptions(networks={"lab": {"mode": "bridge", "bridge": "br0,script=/x"}})


def test_a_bridge_that_does_not_exist_is_refused_by_qemus_helper(qemu):
    networks = {"lab": Network(mode="bridge", bridge="clonejob-none")}
    target = QemuTarget(qemu.root, qemu.snapshots, machines=MachineOptions(networks=networks), call_timeout_s=20)
    spec = dataclasses.replace(qemu.instance(disks=()), details={"networkInterfaces": [{"network": "lab"}]})
    with pytest.raises(RefusedError, match="bridge"):
        target.create(spec)
    assert target.find(spec.ref) is None


def test_addresses_are_the_clones_own():
    first = mac_address("job-1", 0)
    assert first == mac_address("job-1", 0) and int(first[:2], 16) & 3 == 2  # locally administered, of one machine
    assert len({first, mac_address("job-1", 1), mac_address("job-2", 0)}) == 3


def test_the_guest_is_told_its_name_by_a_seed(qemu):
    qemu.target.create(qemu.disk())
    metadata = {
        "team": "blue",
        "startup-script": "rm -rf /",
        "ssh-keys": "x",
        "db-password": "x",
        "enable-oslogin": "1",
    }
    spec = dataclasses.replace(qemu.instance(), metadata=metadata, hostname="web-1.example.org")
    made = qemu.target.create(spec)
    qemu.wait_booted(made.ref)
    iso, files = pycdlib.PyCdlib(), {}
    iso.open(str(qemu.path(made.ref) / "seed.iso"))
    assert iso.pvd.volume_identifier.strip() == b"CIDATA"
    for name in ("meta-data", "user-data", "network-config"):
        out = io.BytesIO()
        iso.get_file_from_iso_fp(out, joliet_path=f"/{name}")
        files[name] = out.getvalue().decode()
    iso.close()
    assert json.loads(files["meta-data"]) == {
        "instance-id": "job-1", "local-hostname": "web-1", "labels": {"team": "blue"}, "metadata": {"team": "blue"},
    }  # fmt: skip
    assert files["user-data"].startswith("#cloud-config\n") and '"fqdn": "web-1.example.org"' in files["user-data"]
    assert json.loads(files["network-config"])["ethernets"]["all"]["dhcp4"] is True
    off = QemuTarget(qemu.root, qemu.snapshots, machines=MachineOptions(seed="off"))
    made = off.create(qemu.instance("c-bare", disks=()))
    assert not (qemu.path(made.ref) / "seed.iso").exists()


def test_disks_boot_in_their_order(qemu):
    empty = dataclasses.replace(qemu.disk("c-disk1"), disk_number=1)
    for spec in (qemu.disk(), empty):
        qemu.target.create(spec)
    made = qemu.target.create(qemu.instance(disks=("c-disk0", "c-disk1")))
    command = Path(f"/proc/{qemu.processes()[0].pid}/cmdline").read_text().split("\0")
    assert [each for each in command if "bootindex" in each] == [
        "virtio-blk-pci,drive=disk0,bootindex=1", "virtio-blk-pci,drive=disk1,bootindex=2",
    ]  # fmt: skip
    assert "BOOTED" in qemu.wait_booted(made.ref)


def test_qemu_has_no_rights_to_start_or_become_anything(qemu):
    made = qemu.target.create(qemu.instance(disks=()))
    status = Path(f"/proc/{qemu.processes()[0].pid}/status").read_text()
    assert "Seccomp:\t2" in status
    command = Path(f"/proc/{qemu.processes()[0].pid}/cmdline").read_text()
    assert "elevateprivileges=deny,spawn=deny" in command
    assert qemu.target.find(made.ref).status is Status.READY


def test_firmware_that_is_missing_or_contradicts_itself(tmp_path):
    efi = {"bootOption": "COMPUTE_ENGINE_BOOT_OPTION_EFI"}
    with pytest.raises(UnsupportedError, match="apt-get install .* ovmf"):
        firmware_of(efi, tmp_path)
    with pytest.raises(UnsupportedError, match="Secure boot needs"):
        firmware_of({"secureBoot": True})
    assert firmware_of({"bootOption": "COMPUTE_ENGINE_BOOT_OPTION_BIOS"}, tmp_path).code is None


def test_a_machine_with_secure_boot(qemu):
    made = qemu.target.create(dataclasses.replace(qemu.instance(disks=()), details=uefi(secure=True)))
    command = Path(f"/proc/{qemu.processes()[0].pid}/cmdline").read_text().split("\0")
    assert "q35,smm=on" in command and "driver=cfi.pflash01,property=secure,value=on" in command
    assert qemu.target.find(made.ref).status is Status.READY


def test_a_machine_with_uefi(qemu):
    details = uefi(secure=False)
    spec = dataclasses.replace(qemu.instance(disks=(), machine_type="custom-1-256"), details=details)
    qemu.target.check([spec])
    made = qemu.target.create(spec)
    variables = qemu.path(made.ref) / "efi-vars.fd"
    before = variables.read_bytes()
    deadline = time.monotonic() + 30
    while variables.read_bytes() == before:  # the firmware runs: it notes its boot options
        assert time.monotonic() < deadline
        time.sleep(0.05)
    changed = variables.read_bytes()
    qemu.power_off(made.ref)
    qemu.target.create(spec)
    assert len(variables.read_bytes()) == len(changed) and variables.read_bytes() != before


def test_kvm_is_used_only_where_a_machine_booted_under_it(tmp_path, monkeypatch):
    monkeypatch.setattr(qemu_accel, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(qemu_accel, "_DEVICE", tmp_path / "kvm")
    (tmp_path / "cpuinfo").write_text("flags\t\t: fpu sse vmxnet\n")
    assert "neither vmx nor svm" in qemu_accel.probe("qemu-system-x86_64", tmp_path).why
    (tmp_path / "cpuinfo").write_text("flags\t\t: fpu vmx sse\n")
    assert "cannot be opened" in qemu_accel.probe("qemu-system-x86_64", tmp_path).why
    (tmp_path / "kvm").touch()
    monkeypatch.setattr(qemu_accel, "_PROBE_TIMEOUT_S", 0.5)
    for name, text, accel in (
        ("aborts", "exit 1", "tcg"), ("hangs", "exec sleep 30", "tcg"),
        ("boots", "echo 'clonejob guest: power on' > serial.log; exec sleep 30", "kvm"),
    ):  # fmt: skip
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
        assert qemu_accel.probe(str(program), tmp_path).accel == accel
    found = qemu_accel.accelerator(tmp_path, str(tmp_path / "boots"))
    assert qemu_accel.accelerator(tmp_path, str(tmp_path / "aborts")) == found  # once per start of the host
    monkeypatch.setattr(qemu_accel, "_BOOT_ID", tmp_path / "boot_id")
    (tmp_path / "boot_id").write_text("another\n")
    assert qemu_accel.accelerator(tmp_path, str(tmp_path / "aborts")).accel == "tcg"
    assert [path.name for path in tmp_path.glob("probe-*")] == []


def test_accel_auto_makes_a_machine_that_boots(qemu):
    target = QemuTarget(qemu.root, qemu.snapshots, machines=MachineOptions(accel="auto"), call_timeout_s=20)
    target.create(qemu.disk())
    assert "BOOTED" in qemu.wait_booted(target.create(qemu.instance()).ref)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_qemu_runs_as_another_user(qemu):
    user = pwd.getpwnam("nobody")
    system = Path(tempfile.gettempdir()).resolve()
    for parent in (
        each for each in (qemu.folder, *qemu.folder.parents) if each.is_relative_to(system) and each != system
    ):
        parent.chmod(parent.stat().st_mode | 0o011)  # relative names would do, but qcow2's checks look at the folder
    target = QemuTarget(qemu.root, qemu.snapshots, machines=MachineOptions(run_as="nobody"), call_timeout_s=20)
    target.check([qemu.instance()])
    target.create(qemu.disk())
    made = target.create(qemu.instance())
    assert "BOOTED" in qemu.wait_booted(made.ref)
    status = Path(f"/proc/{qemu.processes()[0].pid}/status").read_text()
    assert f"Uid:\t{user.pw_uid}\t{user.pw_uid}\t{user.pw_uid}" in status and "NoNewPrivs:\t1" in status
    assert qemu.snapshots.path(qemu.snapshot.key).stat().st_uid == 0
    assert target.boot_report(made.ref).verdict is BootVerdict.BOOTED
    with pytest.raises(UnsupportedError, match="no user 'no-such'"):
        QemuTarget(qemu.root, qemu.snapshots, machines=MachineOptions(run_as="no-such")).check([qemu.instance()])


def test_a_scope_of_its_own_only_where_systemd_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(qemu_user, "_SYSTEMD", tmp_path / "none")
    assert qemu_user.scope_of("auto", "clonejob-1") == []
    monkeypatch.setattr(qemu_user, "_SYSTEMD", tmp_path)
    monkeypatch.setattr(qemu_user, "find_tool", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert qemu_user.scope_of("auto", "clonejob-1")[:2] == ["/usr/bin/systemd-run", "--scope"]
    assert qemu_user.scope_of("off", "clonejob-1") == []


def test_a_machine_is_found_where_its_folders_were_moved_to(qemu):
    qemu.target.create(qemu.disk())
    made = qemu.target.create(qemu.instance())
    [machine] = qemu.processes()
    moved = qemu.root.rename(qemu.folder / "moved")
    try:
        target = QemuTarget(moved, qemu.snapshots, call_timeout_s=20)
        assert target.find(made.ref) == made
        assert sorted(each.ref.kind for each in target.inventory()) == ["disk", "instance"]
        disk = target.find(qemu.disk().ref)
        assert target.flatten(disk.ref, job_id="job-1", uid=disk.uid, progress=lambda percent: None)
        target.delete(made.ref, job_id="job-1", uid=made.uid)
        assert target.find(made.ref) is None
        assert not psutil.pid_exists(machine.pid) or psutil.Process(machine.pid).status() == psutil.STATUS_ZOMBIE
    finally:
        moved.rename(qemu.root)


def test_a_machine_stays_when_a_copy_of_its_folders_is_deleted(qemu):
    qemu.target.create(qemu.disk())
    made = qemu.target.create(qemu.instance())
    copied = qemu.folder / "copied"
    shutil.copytree(qemu.root, copied, ignore=lambda folder, names: [name for name in names if name.endswith(".sock")])
    target = QemuTarget(copied, qemu.snapshots, call_timeout_s=20)
    target.delete(made.ref, job_id="job-1", uid=made.uid)
    assert target.find(made.ref) is None
    assert qemu.target.find(made.ref) == made and len(qemu.processes()) == 1
