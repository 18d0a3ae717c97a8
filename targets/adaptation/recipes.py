"""The recipes, in the order in which they are carried out."""

from __future__ import annotations

from targets.adaptation.recipe import Recipe
from targets.adaptation.recipes_boot import bootloader_console, device_names, serial_console, virtio_drivers
from targets.adaptation.recipes_identity import hostname, machine_id, selinux_relabel, source_tools
from targets.adaptation.recipes_network import network_dhcp, stale_mac_rules

RECIPES: tuple[Recipe, ...] = (
    Recipe("hostname", 1, "The clone's host name, and its line in /etc/hosts.", "/etc/hostname, /etc/hosts", hostname,
           per_clone=True),
    Recipe("machine-id", 1, "Emptied, so that the clone makes its own at its first boot.", "/etc/machine-id, /var/lib/dbus/machine-id", machine_id),
    Recipe("network-dhcp", 1, "Static addresses become DHCP; ties to the source's network card go.",
           "ifupdown, netplan, systemd-networkd, NetworkManager, ifcfg files", network_dhcp),
    Recipe("stale-mac-rules", 1, "Rules that name network cards by the source's MAC addresses are removed.",
           "/etc/udev/rules.d/*persistent-net*, /etc/systemd/network/*.link", stale_mac_rules),
    Recipe("serial-console", 1, "A login on the first serial port.", "systemd, inittab of SysV and busybox", serial_console),
    Recipe("bootloader-console", 1, "The kernel's console on the first serial port as well.",
           "GRUB, boot loader entries, extlinux, syslinux", bootloader_console),
    Recipe("device-names", 1, "Device names of the boot disk become UUIDs, in fstab and on the kernel's command line.",
           "/etc/fstab, GRUB, boot loader entries, extlinux, syslinux", device_names, boot_needs=True),
    Recipe("virtio-drivers", 1, "The kernel that boots must have virtio_blk and virtio_pci, built in or in its initramfs.",
           "/boot/config-*, initramfs (gzip, xz, bzip2, none, zstd where installed)", virtio_drivers, boot_needs=True),
    Recipe("source-tools", 1, "Services of the source platform are masked or no longer started.",
           "VMware Tools, Xen, Hyper-V, VirtualBox on systemd and SysV", source_tools),
    Recipe("selinux-relabel", 1, "Files that were written get their labels at the first boot.", "/etc/selinux/config", selinux_relabel),
)  # fmt: skip

SHARED = tuple(recipe for recipe in RECIPES if not recipe.per_clone)  # the result is kept for the next clone
PER_CLONE = tuple(recipe for recipe in RECIPES if recipe.per_clone)
MARKER = "/etc/clonejob-adapted"  # written last: recipes and their versions, as JSON
