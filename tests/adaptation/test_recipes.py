"""Recipes on trees of files: what each does to the systems that it knows, and what it says otherwise."""

from __future__ import annotations

import gzip
import json
import lzma
import re
from pathlib import Path

import linux_guest
import pytest

from targets.adaptation import reference
from targets.adaptation.directory import DirectoryFiles
from targets.adaptation.engine import carry_out
from targets.adaptation.guest_view import Facts
from targets.adaptation.recipes import RECIPES

UUID = "3c1b2a90-5d4e-4f60-8a7b-9c0d1e2f3a4b"
KERNEL = {"boot/vmlinuz-6.1": "", "boot/config-6.1": "CONFIG_VIRTIO_BLK=y\nCONFIG_VIRTIO_PCI=y\n"}


def adapt(folder, files, *, only=(), **modifiers):
    """Outcome and reason of each recipe; ``None`` as content is a folder, "-> x" a link."""
    for name, text in {**KERNEL, **files}.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(text, bytes):
            place.write_bytes(text)
        elif text.startswith("-> "):
            place.symlink_to(text[3:])
        else:
            place.write_text(text)
    switched = {recipe.id: "off" for recipe in RECIPES if only and recipe.id not in only}
    facts = Facts("web-1", {1: UUID, 5: "swap-uuid"})
    actions = carry_out(DirectoryFiles(folder), facts, {**switched, **modifiers})
    return {action.recipe: (str(action.outcome), action.reason) for action in actions}


def one(folder, files, recipe):
    return adapt(folder, files, only=(recipe,))[recipe]


def test_the_page_has_the_table_of_recipes():
    path = Path(__file__).parents[2] / "docs" / "adaptation.md"
    assert reference.page(path.read_text()) == path.read_text(), "run: make docs-generated"


def text(folder, name):
    return (folder / name).read_text()


def test_adapting_twice_changes_nothing_the_second_time(tmp_path):
    first = adapt(tmp_path, linux_guest._FILES)
    before = {
        path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != "clonejob-adapted"
    }
    second = adapt(tmp_path, {})
    assert {path: path.read_bytes() for path in before} == before
    assert first["hostname"] == ("applied", "oldhost became web-1")
    assert {outcome for name, (outcome, _) in second.items() if name not in ("marker", "bootloader-console")} == {
        "skipped"
    }


def test_the_marker_says_which_recipes_ran(tmp_path):
    adapt(tmp_path, {"etc/hostname": "old\n"}, only=("hostname",))
    assert json.loads(text(tmp_path, "etc/clonejob-adapted"))["recipes"] == {"hostname": 1}


def test_a_recipe_can_be_switched_off(tmp_path):
    done = adapt(tmp_path, {"etc/hostname": "old\n", "etc/machine-id": "1\n"}, hostname="off")
    assert done["hostname"] == ("skipped", "switched off by an adaptation modifier")
    assert text(tmp_path, "etc/hostname") == "old\n" and text(tmp_path, "etc/machine-id") == ""


def test_what_does_not_read_back_has_failed(tmp_path):
    class Forgetful(DirectoryFiles):
        def apply(self, changes):
            """A tool that says that all is well."""

    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/fstab").write_text("/dev/sda1 / ext4 x\n")
    actions = {action.recipe: action for action in carry_out(Forgetful(tmp_path), Facts("web-1", {1: UUID}), {})}
    assert actions["hostname"].outcome == "failed" and "/etc/hostname" in actions["hostname"].reason
    assert actions["device-names"].blocks and actions["marker"].blocks and not actions["hostname"].blocks


def test_host_name(tmp_path):
    hosts = "127.0.0.1 localhost old\n192.0.2.7 old.example old older\n"
    assert one(tmp_path, {"etc/hostname": "old\n", "etc/hosts": hosts}, "hostname")[0] == "applied"
    assert text(tmp_path, "etc/hosts") == "127.0.0.1 localhost web-1\n192.0.2.7 old.example web-1 older\n"


def test_machine_id_and_its_copy(tmp_path):
    files = {"etc/machine-id": "abc\n", "var/lib/dbus/machine-id": "abc\n"}
    assert one(tmp_path, files, "machine-id")[0] == "applied"
    assert text(tmp_path, "etc/machine-id") == "" and not (tmp_path / "var/lib/dbus/machine-id").exists()


@pytest.mark.parametrize(
    ("files", "name", "now"),
    [
        ({"etc/network/interfaces.d/eth0": "auto eth0\niface eth0 inet static\n address 192.0.2.1/24\n up true\n"},
         "etc/network/interfaces.d/eth0", "auto eth0\niface eth0 inet dhcp\n up true\n"),
        ({"etc/systemd/network/20-lan.network": "[Match]\nName=ens192\n[Network]\nAddress=192.0.2.1/24\n"},
         "etc/systemd/network/10-clonejob.network", "DHCP=yes"),
        ({"etc/netplan/50.yaml": "network:\n  ethernets:\n    ens192:\n      addresses: [192.0.2.1/24]\n"},
         "etc/netplan/90-clonejob.yaml", "dhcp4: true"),
        ({"etc/NetworkManager/system-connections/lan.nmconnection":
          "[connection]\ntype=ethernet\ninterface-name=ens192\n[ipv4]\nmethod=manual\naddress1=192.0.2.1/24,192.0.2.254\ndns=192.0.2.3;\n"},
         "etc/NetworkManager/system-connections/lan.nmconnection", "[connection]\ntype=ethernet\n[ipv4]\nmethod=auto\n"),
        ({"etc/sysconfig/network-scripts/ifcfg-ens192": "DEVICE=ens192\nBOOTPROTO=none\nIPADDR=192.0.2.1\nPREFIX=24\nHWADDR=00:50:56:00:00:01\n"},
         "etc/sysconfig/network-scripts/ifcfg-ens192", "DEVICE=ens192\nBOOTPROTO=dhcp\n"),
    ],
)  # fmt: skip
def test_networks_become_dhcp(tmp_path, files, name, now):
    assert one(tmp_path, files, "network-dhcp")[0] == "applied"
    assert now in text(tmp_path, name)
    used = [path for path in tmp_path.rglob("*") if path.is_file() and not path.name.endswith(".before-clonejob")]
    assert not any("192.0.2" in path.read_text() or "00:50" in path.read_text() for path in used)


def test_rules_by_mac_address_go(tmp_path):
    files = {"etc/udev/rules.d/70-persistent-net.rules": "x", "etc/udev/rules.d/60-other.rules": "x",
             "etc/systemd/network/70-a.link": "[Match]\nMACAddress=00:50\n", "etc/systemd/network/80-b.link": "[Match]\nDriver=x\n"}  # fmt: skip
    assert one(tmp_path, files, "stale-mac-rules") == ("applied", "removed 70-a.link, 70-persistent-net.rules")
    assert (tmp_path / "etc/udev/rules.d/60-other.rules").exists() and (
        tmp_path / "etc/systemd/network/80-b.link"
    ).exists()


def test_serial_console_of_systemd(tmp_path):
    assert (
        one(tmp_path, {"usr/lib/systemd/system/serial-getty@.service": "", "lib": "-> usr/lib"}, "serial-console")[0]
        == "applied"
    )
    wanted = tmp_path / "etc/systemd/system/getty.target.wants/serial-getty@ttyS0.service"
    assert str(wanted.readlink()) == "/lib/systemd/system/serial-getty@.service"


def test_serial_console_of_sysv(tmp_path):
    files = {"etc/inittab": "id:2:initdefault:\n#T0:23:respawn:/sbin/getty -L ttyS0\n", "etc/securetty": "tty1\n"}
    assert one(tmp_path, files, "serial-console")[0] == "applied"
    assert "\nT0:2345:respawn:/sbin/getty -L ttyS0 115200 vt100\n" in text(tmp_path, "etc/inittab")
    assert text(tmp_path, "etc/securetty") == "tty1\nttyS0\n"


def test_serial_console_without_any_init_that_is_known(tmp_path):
    assert one(tmp_path, {}, "serial-console")[0] == "unsupported"


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("boot/grub2/grub.cfg", "\tlinux16 /vmlinuz-6.1 root=/dev/sda1 ro\n\tinitrd16 /x\n",
         f"\tlinux16 /vmlinuz-6.1 root=UUID={UUID} ro console=tty0 console=ttyS0,115200n8\n\tinitrd16 /x\n"),
        ("boot/loader/entries/a.conf", "linux /vmlinuz-6.1\noptions root=/dev/vda1 $x\n",
         f"linux /vmlinuz-6.1\noptions root=UUID={UUID} $x console=tty0 console=ttyS0,115200n8\n"),
        ("boot/extlinux/extlinux.conf", "LABEL l\n KERNEL /v\n APPEND root=/dev/sda1 initrd=/i console=ttyS0\n",
         f"LABEL l\n KERNEL /v\n APPEND root=UUID={UUID} initrd=/i console=ttyS0\n"),
    ],
)  # fmt: skip
def test_boot_loaders(tmp_path, name, before, after):
    adapt(tmp_path, {name: before}, only=("bootloader-console", "device-names"))
    assert text(tmp_path, name) == after


def test_a_root_that_only_the_kernel_would_look_for_stays(tmp_path):
    outcome, reason = one(tmp_path, {"boot/grub/grub.cfg": "linux /vmlinuz-6.1 root=/dev/sda1\n"}, "device-names")
    assert outcome == "unsupported" and "root=/dev/sda1" in reason
    assert "root=/dev/sda1" in text(tmp_path, "boot/grub/grub.cfg")


def test_fstab(tmp_path):
    fstab = "/dev/sda1 / ext4 defaults 0 1\n/dev/sda5  none swap sw 0 0\nLABEL=x /y ext4 defaults 0 0\n/dev/sdb1 /z ext4 nofail 0 0\n"
    assert one(tmp_path, {"etc/fstab": fstab}, "device-names")[0] == "applied"
    assert text(tmp_path, "etc/fstab") == fstab.replace("/dev/sda1", f"UUID={UUID}").replace(
        "/dev/sda5", "UUID=swap-uuid"
    )
    outcome, reason = one(tmp_path, {"etc/fstab": "/dev/sdb1 /z ext4 defaults 0 0\n"}, "device-names")
    assert outcome == "unsupported" and "/dev/sdb1" in reason
    half = "/dev/sda1 / ext4 defaults 0 1\n/dev/sdb1 /z ext4 defaults 0 0\n"
    assert one(tmp_path, {"etc/fstab": half}, "device-names")[0] == "unsupported"
    assert text(tmp_path, "etc/fstab") == half.replace("/dev/sda1", f"UUID={UUID}")  # what can be done is done


def packed(*names):
    return linux_guest.cpio([(f"lib/modules/6.1/{name}", 0o644, bytes(3000)) for name in names])


MICROCODE = linux_guest.cpio([("kernel/x86/microcode/GenuineIntel.bin", 0o644, bytes(5000))]) + bytes(512)
MODULES = {"boot/config-6.1": "CONFIG_VIRTIO_BLK=m\nCONFIG_VIRTIO_PCI=m\n"}


@pytest.mark.parametrize(
    ("image", "outcome", "says"),
    [
        (gzip.compress(packed("virtio_blk.ko", "virtio_pci.ko"), mtime=0), "skipped", "has them in its initramfs"),
        (MICROCODE + lzma.compress(packed("virtio_blk.ko.xz", "virtio_pci.ko.xz")), "skipped", "has them"),
        (packed("virtio_blk.ko", "virtio_pci.ko"), "skipped", "has them"),
        (MICROCODE + gzip.compress(packed("virtio_pci.ko"), mtime=0), "unsupported", "lacks virtio_blk.ko"),
        (gzip.compress(packed("virtio_blk.ko"), mtime=0)[:40], "unsupported", "lacks|damaged"),
        (b"\x02\x21\x4c\x18" + bytes(100), "unsupported", "lz4"),
        (b"070701" + b"Z" * 200, "unsupported", "damaged"),
        (b"", "unsupported", "cannot be looked into|lacks"),
    ],
)  # fmt: skip
def test_drivers_in_the_initramfs(tmp_path, image, outcome, says):
    found = one(tmp_path, {**MODULES, "boot/initrd.img-6.1": image}, "virtio-drivers")
    assert found[0] == outcome and re.search(says, found[1]), found


def test_drivers_in_the_kernel_or_nowhere(tmp_path):
    assert one(tmp_path, {}, "virtio-drivers") == ("skipped", "kernel 6.1 has them built in")
    off = "CONFIG_VIRTIO_PCI=y\n# CONFIG_VIRTIO_BLK is not set\n"
    assert one(tmp_path, {"boot/config-6.1": off}, "virtio-drivers") == (
        "unsupported",
        "kernel 6.1 was built without virtio_blk",
    )


def test_tools_of_the_source(tmp_path):
    files = {"usr/lib/systemd/system/vmtoolsd.service": "", "etc/rc2.d/S20open-vm-tools": "-> ../init.d/open-vm-tools"}
    assert one(tmp_path, files, "source-tools") == ("applied", "no longer started: open-vm-tools, vmtoolsd")
    assert str((tmp_path / "etc/systemd/system/vmtoolsd.service").readlink()) == "/dev/null"
    assert not (tmp_path / "etc/rc2.d/S20open-vm-tools").is_symlink()


def test_selinux_labels_are_made_anew(tmp_path):
    assert one(tmp_path, {"etc/selinux/config": "SELINUX=enforcing\n"}, "selinux-relabel")[0] == "applied"
    assert (tmp_path / ".autorelabel").is_file()
