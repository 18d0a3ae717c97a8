"""What a QEMU machine shows: its console, its screen, how far it came."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import socket
import struct
import time
import zlib
from pathlib import Path

import pytest
from contract.conftest import uefi

from targets import qemu_boot, qemu_vm
from targets.base import BootVerdict, ResourceKind, ResourceRef
from targets.errors import TransientError
from targets.guest import build_disk


def wait_for(condition, what: str, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)  # a guest's clock cannot be moved from here


def size_of(png: bytes) -> tuple[int, int]:
    """Width and height of a PNG that is whole: every chunk's checksum is right, and its pixels are there."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    chunks, at = {}, 8
    while at < len(png):
        (length,) = struct.unpack_from(">I", png, at)
        kind, data = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        assert zlib.crc32(kind + data) == struct.unpack_from(">I", png, at + 8 + length)[0]
        chunks[kind] = chunks.get(kind, b"") + data
        at += 12 + length
    assert kind == b"IEND"
    width, height, depth, colour = struct.unpack_from(">IIBB", chunks[b"IHDR"])
    samples = {0: 1, 2: 3, 6: 4}[colour]
    pixels = zlib.decompress(chunks[b"IDAT"])
    assert len(pixels) == height * (1 + width * samples * depth // 8)
    assert len(set(pixels)) > 1, "nothing is on the screen"
    return width, height


def machine(qemu, *, broken: bool = False, **options) -> ResourceRef:
    """An instance of a disk that was built for the test; a broken one has no boot signature."""
    disk = build_disk(qemu.folder / "new.img", size_bytes=2**20, **options)
    content = bytearray(disk.read_bytes())
    if broken:
        content[510:512] = bytes(2)
    with qemu.snapshots.writer("boot/disk0.raw") as writer:
        writer.write(bytes(content))
    snapshot = dataclasses.replace(qemu.snapshot, key="boot/disk0.raw", sha256=writer.sha256)
    qemu.target.create(dataclasses.replace(qemu.disk(), snapshot=snapshot))
    return qemu.target.create(qemu.instance()).ref


def test_a_guest_that_boots_shows_its_console_and_its_screen(qemu):
    ref = machine(qemu, data="cycle=7", boot_delay_s=0.4)
    wait_for(lambda: "power on" in qemu.target.boot_report(ref).console, "output")  # it comes letter by letter
    first = qemu.target.boot_report(ref)
    assert first.verdict is BootVerdict.WAITING
    qemu.wait_booted(ref)
    report = qemu.target.boot_report(ref)
    assert "BOOTED hostname=NOT-ADAPTED data=cycle=7" in report.console
    assert 0 < first.first_output_seconds < report.boot_seconds == report.last_output_seconds < 10
    width, height = size_of(qemu.target.screenshot(ref))
    assert 600 < width < 2000 and 300 < height < 1200
    assert [path.name for path in qemu.path(ref).iterdir() if path.name.startswith("screen-")] == []


def test_a_broken_boot_sector_gets_no_boot_with_a_screenshot(qemu):
    ref = machine(qemu, broken=True)
    wait_for(lambda: qemu.target.boot_report(ref).verdict is BootVerdict.NO_BOOT, "verdict")
    report = qemu.target.boot_report(ref)
    assert (report.console, report.first_output_seconds) == ("", None) and "no bootable device" in report.detail
    assert size_of(qemu.target.screenshot(ref))[0] > 600


def test_a_guest_that_does_not_boot_under_uefi_gets_no_boot(qemu):
    """Its disk has boot code for a BIOS alone. Two machines at once: firmware takes its time without KVM."""
    said = {"c-plain": "waits in its shell", "c-secure": "found nothing that it can boot."}
    for name in said:
        disk = qemu.target.create(qemu.disk(f"{name}-disk0"))
        spec = qemu.instance(name, disks=(disk.ref.name,), machine_type="custom-1-256")
        qemu.target.create(dataclasses.replace(spec, details=uefi(secure=name == "c-secure")))
    for name, why in said.items():
        ref = ResourceRef(ResourceKind.INSTANCE, name)
        wait_for(lambda ref=ref: qemu.target.boot_report(ref).verdict is BootVerdict.NO_BOOT, "verdict", 120)
        report = qemu.target.boot_report(ref)
        assert why in report.detail and "BdsDxe" in report.console
        assert size_of(qemu.target.screenshot(ref))[0] > 600


SHELL = (
    b'BdsDxe: failed to load Boot0001 "UEFI Misc Device" from PciRoot(0x0)/Pci(0x3,0x0): Not Found\r\n'
    b'BdsDxe: starting Boot0002 "EFI Internal Shell" from Fv(7CB8BDC9)/FvFile(7C04A583)\r\n'
    b"\x1b[2J\x1b[01;01HUEFI Interactive Shell v2.2\r\nEDK II\r\nPress ESC in 1 seconds to skip startup.nsh"
)
PROMPT = b"\r\n\x1b[08;01H\x1b[1m\x1b[33m\x1b[40mShell> \x1b[0m\x1b[37m\x1b[40m"


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        (SHELL[:95], BootVerdict.WAITING),  # one entry failed; the next one may boot
        (SHELL, BootVerdict.WAITING),  # a startup.nsh may boot
        (SHELL + PROMPT, BootVerdict.NO_BOOT),
        (SHELL + PROMPT + b"FS0:\\EFI\\linux.efi\r\n[    0.0] Linux version 6.1\r\n", BootVerdict.WAITING),
        (SHELL + PROMPT + b"exit\r\nhost login: ", BootVerdict.BOOTED),
        (b"user: " + PROMPT, BootVerdict.WAITING),  # a guest's own prompt of that name
        (b"BdsDxe: No bootable option or device was found.\r\nBdsDxe: Press any key", BootVerdict.NO_BOOT),
    ],
)
def test_what_uefi_firmware_says(tmp_path, said, verdict):
    (tmp_path / "serial.log").write_bytes(said)
    assert qemu_boot.report(tmp_path, 0.0, re.compile(qemu_boot.BOOTED_PATTERN.encode())).verdict is verdict


def test_logs_can_be_cut_short_while_the_machine_runs(qemu):
    """Whoever appends goes on at the new end; otherwise a log that was cut would be as long as before, with a hole."""
    ref = machine(qemu)
    qemu.wait_booted(ref)
    pid = qemu.processes()[0].pid
    appends = {}
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        if (name := Path(os.readlink(fd)).name).endswith(".log"):
            flags = Path(f"/proc/{pid}/fdinfo/{fd.name}").read_text().split("flags:")[1].split()[0]
            appends[name] = bool(int(flags, 8) & os.O_APPEND)
    assert appends == {"serial.log": True, "firmware.log": True, "stderr.log": True}


def test_a_machine_that_is_started_again_has_a_log_of_its_own(qemu):
    ref = machine(qemu)
    first = qemu.wait_booted(ref)
    qemu.power_off(ref)
    qemu.target.create(qemu.instance())
    qemu.wait_booted(ref)
    assert (qemu.path(ref) / "serial.log").read_text().count("BOOTED") == first.count("BOOTED") == 1


@pytest.mark.parametrize("said", ["Kernel panic - not syncing", "grub rescue>"])
def test_a_guest_that_gives_up_on_its_console(qemu, said):
    """Our guest says what its config sector tells it to."""
    ref = machine(qemu, data=f"x {said}"[:127], boot_delay_s=600)
    log = qemu.path(ref) / "serial.log"
    wait_for(lambda: log.exists() and log.stat().st_size, "output")
    assert qemu.target.boot_report(ref).verdict is BootVerdict.WAITING
    with log.open("ab") as file:
        file.write(f"[    1.2] {said}: VFS: Unable to mount root fs\n".encode())
    report = qemu.target.boot_report(ref)
    assert (report.verdict, said in report.detail) == (BootVerdict.NO_BOOT, True)


def test_a_screenshot_of_a_machine_that_is_paused_or_has_ended(qemu):
    ref = machine(qemu)
    qemu.wait_booted(ref)
    before = qemu.target.screenshot(ref)
    assert qemu_vm._qmp(qemu.path(ref), "stop")
    assert size_of(qemu.target.screenshot(ref)) == size_of(before)
    qemu.power_off(ref)
    assert qemu.target.screenshot(ref) is None
    assert qemu.target.screenshot(ResourceRef(ResourceKind.INSTANCE, "none")) is None
    assert "BOOTED" in qemu.target.boot_report(ref).console


def test_a_screenshot_waits_for_a_monitor_that_is_busy(qemu, monkeypatch):
    monkeypatch.setattr(qemu_vm, "QUIT_WAIT_S", 0.3)
    ref = machine(qemu)
    qemu.wait_booted(ref)
    with qemu_vm._socket_path(qemu.path(ref)) as path, socket.socket(socket.AF_UNIX) as other:
        other.connect(path)
        assert b"QMP" in other.recv(4096)  # the monitor is ours now
        runs = 0

        def let_go_later():
            nonlocal runs
            runs += 1
            if runs == 2:
                other.close()
            return True

        assert size_of(qemu_vm.screenshot(qemu.path(ref), let_go_later, timeout_s=10))[0] > 600
        assert runs == 2


def test_a_machine_that_is_frozen_gives_no_screenshot_and_says_so(qemu, monkeypatch):
    monkeypatch.setattr(qemu_vm, "QUIT_WAIT_S", 0.2)
    ref = machine(qemu)
    [process] = qemu.processes()
    os.kill(process.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        with pytest.raises(TransientError, match="busy"):
            qemu_vm.screenshot(qemu.path(ref), lambda: True, timeout_s=0.5)
        assert time.monotonic() - began < 5
    finally:
        os.kill(process.pid, signal.SIGCONT)
