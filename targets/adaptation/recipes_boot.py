"""Recipes about how the guest starts: consoles, names of its disks, drivers of the clone's hardware."""

from __future__ import annotations

import re

from targets.adaptation.files import GuestFileError
from targets.adaptation.guest_view import Guest
from targets.adaptation.initramfs import CannotUnpack, names_in
from targets.adaptation.recipe import Skip, Unsupported

PORT, SPEED = "ttyS0", 115200
_CONSOLES = f"console=tty0 console={PORT},{SPEED}n8"
_DRIVERS = ("virtio_blk", "virtio_pci")
_GETTY = "serial-getty@.service"
_WANTS = f"/etc/systemd/system/getty.target.wants/serial-getty@{PORT}.service"
# Of each boot loader: where its files are, and which lines of them hold the kernel's command line.
_KERNEL = re.compile(r"(?m)^([ \t]*(?:linux|linux16|linuxefi)[ \t]+\S+)([^\n]*)$")
_LEGACY = re.compile(r"(?m)^([ \t]*kernel[ \t]+\S+)([^\n]*)$")
_OPTIONS = re.compile(r"(?m)^(options)([^\n]*)$")
_APPEND = re.compile(r"(?mi)^([ \t]*append)([^\n]*)$")
_LOADERS = (
    ("/boot/grub", "grub.cfg", _KERNEL),
    ("/boot/grub2", "grub.cfg", _KERNEL),
    ("/boot/grub", "menu.lst", _LEGACY),
    ("/boot/loader/entries", "*.conf", _OPTIONS),
    ("/boot/extlinux", "extlinux.conf", _APPEND),
    ("/boot/syslinux", "syslinux.cfg", _APPEND),
    ("/boot", "extlinux.conf", _APPEND),
    ("/boot", "syslinux.cfg", _APPEND),
    ("/", "syslinux.cfg", _APPEND),
)
_DEFAULTS = re.compile(r"(?m)^(GRUB_CMDLINE_LINUX=)([\"']?)([^\"'\n]*)([\"']?)[ \t]*$")
_OF_BOOT_DISK = re.compile(r"/dev/(?:(?:sd|hd|vd|xvd)a|nvme0n1p|mmcblk0p)(\d{1,3})")
_OF_SOME_DISK = re.compile(r"/dev/(?:(?:sd|hd|vd|xvd)[a-z]+\d*|nvme\w+|mmcblk\w+|disk/by-(?:path|id)/\S+)")
_ROOT = re.compile(r"(?<!\S)root=(/dev/\S+)")
_MOST_INITRAMFS_BYTES = 192 * 2**20


def serial_console(guest: Guest) -> str:
    """A getty on the first serial port."""
    if unit := next((f"{f}/{_GETTY}" for f in ("/lib/systemd/system", "/usr/lib/systemd/system") if guest.is_file(f"{f}/{_GETTY}")), ""):  # fmt: skip
        guest.link(_WANTS, unit)
    elif guest.is_file("/etc/inittab"):
        text = guest.text("/etc/inittab")
        if not re.search(rf"(?m)^[^#\n]*\b{PORT}\b", text):
            sysv = re.search(r"(?m)^\w{1,4}:\d*:initdefault:", text)
            line = (
                f"T0:2345:respawn:/sbin/getty -L {PORT} {SPEED} vt100"
                if sysv
                else f"{PORT}::respawn:/sbin/getty -L {PORT} {SPEED} vt100"
            )
            guest.put("/etc/inittab", f"{text.rstrip()}\n{line}\n")
    else:
        raise Unsupported("neither systemd's serial-getty@.service nor /etc/inittab was found")
    if guest.is_file("/etc/securetty") and not re.search(rf"(?m)^{PORT}$", text := guest.text("/etc/securetty")):
        guest.put("/etc/securetty", f"{text.rstrip()}\n{PORT}\n")
    if not guest.changes:
        raise Skip(f"there is a login on {PORT} already")
    return f"a login on {PORT}"


def bootloader_console(guest: Guest) -> str:
    """``console=`` on every kernel's command line."""
    found = _loader_files(guest)
    if not found:
        raise Unsupported("no configuration of a boot loader was found in the file systems that can be read")
    for path, lines in found:
        guest.put(path, lines.sub(lambda m: m[1] + _with_console(m[2]), guest.text(path)))
    if guest.is_file("/etc/default/grub"):
        text = guest.text("/etc/default/grub")
        guest.put("/etc/default/grub", _DEFAULTS.sub(lambda m: f'{m[1]}"{_with_console(m[3]).strip()}"', text))
    if not guest.changes:
        raise Skip(f"the kernel's console is on {PORT} already")
    return f"{_CONSOLES} in {_listed(guest)}"


def device_names(guest: Guest) -> str:
    """What names a partition by its disk's place names it by its UUID: the clone's disks have other names."""
    stays: list[str] = []
    if guest.is_file("/etc/fstab"):
        guest.put("/etc/fstab", _fstab(guest, stays))
    for path, lines in _loader_files(guest):
        text = guest.text(path)
        # Only an initramfs finds a UUID; the kernel alone does not.
        finds_uuids = lines is _OPTIONS or re.search(r"(?mi)\binitrd", text) is not None

        def renamed(match: re.Match[str], finds_uuids: bool = finds_uuids) -> str:
            name = _uuid_of(guest, match[1]) if finds_uuids else None
            if name is None:
                stays.append(f"root={match[1]}")
            return match[0] if name is None else f"root={name}"

        guest.put(path, lines.sub(lambda m: m[1] + _ROOT.sub(renamed, m[2]), text))
    if stays:
        rest = f"; UUIDs in {_listed(guest)}" if guest.changes else ""
        raise Unsupported(f"no UUID is known for {', '.join(sorted(set(stays)))}{rest}")
    if not guest.changes:
        raise Skip("no file system is named by its disk's place")
    return f"UUIDs in {_listed(guest)}"


def virtio_drivers(guest: Guest) -> str:
    """Look, without changing anything, whether the kernel that boots can read the clone's disk."""
    version = _kernel_version(guest)
    config = f"/boot/config-{version}"
    text = guest.text(config) if guest.is_file(config) else ""
    needed = [name for name in _DRIVERS if f"CONFIG_{name.upper()}=y" not in text]
    if not needed:
        raise Skip(f"kernel {version} has them built in")
    off = [name for name in needed if text and f"CONFIG_{name.upper()}=m" not in text]
    if off:
        raise Unsupported(f"kernel {version} was built without {' and '.join(off)}")
    images = [f"/boot/{name.format(version)}" for name in ("initrd.img-{}", "initramfs-{}.img", "initrd-{}")]
    image = next((path for path in images if guest.is_file(path)), None)
    if image is None:
        raise Unsupported(f"no initramfs of kernel {version} was found, and {' and '.join(needed)} are not built in")
    wanted = [f"{name}.ko" for name in needed]
    try:
        with guest.open(image, _MOST_INITRAMFS_BYTES) as file:
            gone = sorted(set(wanted) - names_in(file, wanted))
    except CannotUnpack as error:
        raise Unsupported(f"{image} cannot be looked into: {error}") from None
    if gone:
        raise Unsupported(
            f"{image} lacks {' and '.join(gone)}; it would have to be built anew inside the guest: "
            "add them there (initramfs-tools: /etc/initramfs-tools/modules, dracut: add_drivers) before the next cycle"
        )
    raise Skip(f"kernel {version} has them in its initramfs")


def _with_console(options: str) -> str:
    if re.search(rf"(?<!\S)console={PORT}\b", options):
        return options
    return f"{options.rstrip()} {_CONSOLES}"


def _loader_files(guest: Guest) -> list[tuple[str, re.Pattern[str]]]:
    found: dict[str, re.Pattern[str]] = {}
    for folder, pattern, lines in _LOADERS:
        for path in guest.names(folder, pattern):
            if guest.is_file(path) and lines.search(guest.text(path)):
                found[path] = lines
    return list(found.items())


def _fstab(guest: Guest, stays: list[str]) -> str:
    out = []
    for line in guest.text("/etc/fstab").split("\n"):
        words = line.split()
        if (
            len(words) >= 2
            and _OF_SOME_DISK.fullmatch(words[0])
            and words[1] not in ("/media/cdrom0", "/media/floppy0")
        ):
            name = _uuid_of(guest, words[0])
            options = words[3].split(",") if len(words) > 3 else []
            if name is None and not {"nofail", "noauto"} & set(options):
                stays.append(words[0])
            line = line if name is None else line.replace(words[0], name, 1)  # noqa: PLW2901
        out.append(line)
    return "\n".join(out)


def _uuid_of(guest: Guest, device: str) -> str | None:
    match = _OF_BOOT_DISK.fullmatch(device)
    uuid = guest.facts.uuids.get(int(match[1])) if match else None
    return f"UUID={uuid}" if uuid else None


def _kernel_version(guest: Guest) -> str:
    """Of the kernel that the boot loader starts first, or the newest."""
    for path, lines in _loader_files(guest):
        if match := lines.search(guest.text(path)):
            kernel = match[1].split()[-1].rpartition("/")[2]
            if kernel.startswith("vmlinuz-"):
                return kernel.removeprefix("vmlinuz-")
    kernels = [path.rpartition("/vmlinuz-")[2] for path in guest.names("/boot", "vmlinuz-*")]
    if not kernels:
        raise GuestFileError("no kernel was found below /boot")
    return max(kernels, key=lambda text: [(int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", text)])


def _listed(guest: Guest) -> str:
    return ", ".join(sorted(guest.changes))
