"""A real Linux guest of Debian's packages: GRUB, Debian's cloud kernel, an initramfs, an ext4 root with busybox.

It looks like a machine that comes from another hypervisor: its disk is called /dev/sda, its address is static and tied
to a network card's number, it has no serial console, and VMware's tools are installed. ``make linux-guest-tools``
installs what the builder needs; no root, no mount.

The serial console of the adapted guest shows ``guest: hostname=…``, what it finds of its network, and ``login:``.
"""

from __future__ import annotations

import gzip
import os
import shutil
import struct
import subprocess
from pathlib import Path

from targets.adaptation import Report, Request, adapt, personalise, programs

CACHE = Path(__file__).parents[1] / ".cache" / "linux-guest"
TOOLS = (
    "grub-mkimage",
    "mke2fs",
    "debugfs",
    "e2fsck",
    "qemu-storage-daemon",
    "qemu-img",
    "busybox",
    "setpriv",
    "prlimit",
)
GRUB = Path("/usr/lib/grub/i386-pc")
ROOT_UUID = "3c1b2a90-5d4e-4f60-8a7b-9c0d1e2f3a4b"
OLD_HOSTNAME = "oldhost"
SECTOR, PARTITION_START = 512, 2048
PARTITION_BYTES = 40 * 2**20
DISK_BYTES = PARTITION_START * SECTOR + PARTITION_BYTES
_KERNEL_SECTOR = 0x5C  # where GRUB's boot.img says at which sector core.img lies
# In the order in which they are loaded.
_MODULES = ("virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk",
            "failover", "net_failover", "virtio_net")  # fmt: skip

_INIT = """#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
for module in MODULES; do /bin/busybox insmod /modules/$module.ko; done
for word in $(/bin/busybox cat /proc/cmdline); do case $word in root=*) root=${word#root=} ;; esac; done
case $root in UUID=*) root=$(/bin/busybox findfs "$root") ;; esac
/bin/busybox mount -t ext4 "$root" /root || { echo "initramfs: cannot mount root $root"; exec /bin/busybox sleep 1000; }
/bin/busybox mount --move /dev /root/dev
exec /bin/busybox switch_root /root /sbin/init
""".replace("MODULES", " ".join(_MODULES))

_RCS = """#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
hostname -F /etc/hostname
echo "guest: hostname=$(hostname)"
echo "guest: machine-id=[$(cat /etc/machine-id)]"
echo "guest: root=$(grep ' / ' /proc/mounts | cut -d' ' -f1) fstab=$(grep -v '^#' /etc/fstab | cut -d' ' -f1)"
echo "guest: $(grep '^iface e' /etc/network/interfaces)"
[ -e /etc/udev/rules.d/70-persistent-net.rules ] && echo "guest: stale network rules"
set -- $(sed -n 's/^clonejob-probe //p' /etc/probe 2>/dev/null)
ip link set lo up
nc -l -p 9 >/dev/null </dev/null &
sleep 0.2
nc -w 1 127.0.0.1 9 </dev/null && echo "guest: nc works"
if [ -e /sys/class/net/eth0 ]; then
    ip link set eth0 up
    ip addr add 10.0.2.15/24 dev eth0
    ip route add default via 10.0.2.2
    ping -c 1 -W 1 10.0.2.2 >/dev/null 2>&1 && echo "guest: QEMU's own gateway answers"
    [ $# = 1 ] && nc -w 1 10.0.2.2 $1 </dev/null >/dev/null 2>&1 && echo "guest: REACHED 10.0.2.2:$1"
    echo "guest: network probe done"
else
    echo "guest: no network"
fi
"""

_GRUB_CFG = f"""set timeout=0
search --no-floppy --fs-uuid --set=root {ROOT_UUID}
menuentry 'Debian GNU/Linux' {{
    linux /boot/vmlinuz-VERSION root=/dev/sda1 ro quiet
    initrd /boot/initrd.img-VERSION
}}
"""

_FILES = {
    "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\nVERSION_ID="12"\n',
    "etc/hostname": f"{OLD_HOSTNAME}\n",
    "etc/hosts": f"127.0.0.1 localhost\n127.0.1.1 {OLD_HOSTNAME}.example.org {OLD_HOSTNAME}\n",
    "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
    "etc/fstab": "# <file system> <mount point>\n/dev/sda1 / ext4 errors=remount-ro 0 1\n",
    "etc/network/interfaces": "auto lo\niface lo inet loopback\n\nauto eth0\niface eth0 inet static\n"
    "    address 192.0.2.10\n    netmask 255.255.255.0\n    gateway 192.0.2.1\n    hwaddress 00:50:56:aa:bb:cc\n",
    "etc/udev/rules.d/70-persistent-net.rules": 'SUBSYSTEM=="net", ATTR{address}=="00:50:56:aa:bb:cc", NAME="eth0"\n',
    "etc/inittab": "::sysinit:/etc/init.d/rcS\ntty1::respawn:/sbin/getty 38400 tty1\n::ctrlaltdel:/sbin/reboot\n",
    "etc/default/grub": 'GRUB_TIMEOUT=0\nGRUB_CMDLINE_LINUX_DEFAULT="quiet"\nGRUB_CMDLINE_LINUX=""\n',
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "lib/systemd/system/open-vm-tools.service": "[Service]\nExecStart=/usr/bin/vmtoolsd\n",
    "etc/systemd/system/.keep": "",
}


def missing_tools() -> list[str]:
    """What ``make linux-guest-tools`` would install, and the device that it cannot install."""
    gone = [tool for tool in TOOLS if programs.find(tool) is None]
    gone += [] if os.access("/dev/fuse", os.R_OK | os.W_OK) else ["/dev/fuse"]
    gone += [] if (GRUB / "boot.img").is_file() else ["grub-pc-bin"]
    return gone + ([] if list(CACHE.glob("boot/vmlinuz-*")) else ["a Debian kernel"])


def build(target: Path, *, probe_port: int | None = None, **files: str) -> Path:
    """Write the raw disk to ``target``; ``files`` are further files of the root, or others instead of ours ("a/b")."""
    work = target.with_name(f"{target.name}.work")
    try:
        _root(
            work / "root",
            {**_FILES, **files, **({} if probe_port is None else {"etc/probe": f"clonejob-probe {probe_port}\n"})},
        )
        with target.open("wb") as disk:
            disk.truncate(DISK_BYTES)
        _run("mke2fs", "-q", "-t", "ext4", "-U", ROOT_UUID, "-d", str(work / "root"),
             "-E", f"offset={PARTITION_START * SECTOR}", str(target), f"{PARTITION_BYTES // 1024}k")  # fmt: skip
        _run("grub-mkimage", "-O", "i386-pc", "-o", str(work / "core.img"), "-p", "(hd0,msdos1)/boot/grub",
             "biosdisk", "part_msdos", "ext2", "normal", "linux", "search", "search_fs_uuid", "configfile")  # fmt: skip
        core = (work / "core.img").read_bytes()
        assert len(core) < (PARTITION_START - 1) * SECTOR
        with target.open("r+b") as disk:
            disk.write(
                (GRUB / "boot.img").read_bytes()[:440] + bytes(6) + partition_entry(PARTITION_START, PARTITION_BYTES)
            )
            disk.seek(510)
            disk.write(b"\x55\xaa" + core)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def adapt_whole(image: Path, request: Request) -> Report:
    """What a first clone's guest goes through, both parts."""
    return personalise(image, request, adapt(image, request))


def break_bootloader(disk: Path) -> None:
    """Have GRUB's first stage look for its second one beyond the disk's end, as after a move that lost it."""
    with disk.open("r+b") as file:
        file.seek(_KERNEL_SECTOR)
        file.write(struct.pack("<Q", 2**31))


def partition_entry(start: int, size_bytes: int, kind: int = 0x83) -> bytes:
    """One active entry of an MBR."""
    return struct.pack("<B3sB3sII", 0x80, b"\xfe\xff\xff", kind, b"\xfe\xff\xff", start, size_bytes // SECTOR)


def _root(root: Path, files: dict[str, str]) -> None:
    kernel = next(CACHE.glob("boot/vmlinuz-*"))
    version = kernel.name.removeprefix("vmlinuz-")
    for folder in ("bin", "sbin", "proc", "sys", "dev", "root", "tmp", "run", "boot/grub", "etc/init.d"):
        (root / folder).mkdir(parents=True)
    for name, text in {**files, "boot/grub/grub.cfg": files.get("boot/grub/grub.cfg", _GRUB_CFG).replace("VERSION", version),
                       "etc/init.d/rcS": _RCS}.items():  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "etc/init.d/rcS").chmod(0o755)
    busybox = Path(programs.find("busybox") or "")
    shutil.copy(busybox, root / "bin/busybox")
    for name in ("bin/sh", "sbin/init", "sbin/getty", "bin/mount", "bin/hostname", "bin/grep", "bin/cut", "bin/cat",
                 "bin/sed", "bin/ip", "bin/nc", "bin/ping", "bin/sleep", "bin/login"):  # fmt: skip
        (root / name).symlink_to("/bin/busybox")
    shutil.copy(kernel, root / "boot" / kernel.name)
    shutil.copy(CACHE / "boot" / f"config-{version}", root / "boot")
    (root / "boot" / f"initrd.img-{version}").write_bytes(_initramfs(busybox))


def _initramfs(busybox: Path) -> bytes:
    modules = {path.stem: path for path in (CACHE / "lib/modules").rglob("*.ko")}
    entries = [(name, 0o040755, b"") for name in ("bin", "dev", "proc", "sys", "root", "modules")]
    entries += [("bin/busybox", 0o100755, busybox.read_bytes()), ("init", 0o100755, _INIT.encode())]
    entries += [(f"modules/{name}.ko", 0o100644, modules[name].read_bytes()) for name in _MODULES]
    return gzip.compress(cpio(entries), compresslevel=1)


def cpio(entries: list[tuple[str, int, bytes]]) -> bytes:
    """An archive of the format that the kernel unpacks (newc)."""
    out = bytearray()
    for number, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        raw = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(raw), 0)
        out += b"070701" + "".join(f"{field:08x}" for field in fields).encode() + raw
        out += bytes(-len(out) % 4) + data
        out += bytes(-len(out) % 4)
    return bytes(out)


def _run(*command: str) -> None:
    program = programs.find(command[0]) or command[0]
    done = subprocess.run([program, *command[1:]], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
