"""Recipes about who the guest is: its names, and the tools of where it comes from."""

from __future__ import annotations

import re

from targets.adaptation.guest_view import Guest
from targets.adaptation.recipe import Skip

_UNIT_FOLDERS = ("/lib/systemd/system", "/usr/lib/systemd/system", "/etc/systemd/system")
_SOURCE_SERVICES = (
    "open-vm-tools", "vgauth", "vmtoolsd", "vgauthd", "vmware-tools", "vmware-tools-thinprint",
    "xe-daemon", "xe-linux-distribution", "xenservice",
    "hv-kvp-daemon", "hv-vss-daemon", "hv-fcopy-daemon", "hypervkvpd", "hypervvssd",
    "vboxadd", "vboxadd-service", "virtualbox-guest-utils",
)  # fmt: skip
_START_LINK = re.compile(r"S\d\d(.+)")


def hostname(guest: Guest) -> str:
    """Write /etc/hostname, the 127.0.1.1 line of /etc/hosts, and HOSTNAME of old Red Hat systems."""
    name = guest.facts.hostname
    old = guest.text("/etc/hostname").strip() if guest.is_file("/etc/hostname") else ""
    guest.put("/etc/hostname", f"{name}\n")
    if guest.is_file("/etc/hosts"):
        guest.put("/etc/hosts", _hosts(guest.text("/etc/hosts"), name, old))
    if guest.is_file("/etc/sysconfig/network"):
        text = guest.text("/etc/sysconfig/network")
        guest.put("/etc/sysconfig/network", re.sub(r"(?m)^HOSTNAME=.*$", f"HOSTNAME={name}", text))
    if not guest.changes:
        raise Skip(f"the guest is called {name} already")
    return f"{old or 'no name'} became {name}"


def _hosts(text: str, name: str, old: str) -> str:
    """Debian's line of the host's own name; on other systems the old name where it stands."""
    names = name if "." not in name else f"{name} {name.partition('.')[0]}"
    if re.search(r"(?m)^127\.0\.1\.1\s", text):
        return re.sub(r"(?m)^127\.0\.1\.1\s.*$", f"127.0.1.1\t{names}", text)
    if old and re.search(rf"(?m)^\S+\s.*(?<!\S){re.escape(old)}(?!\S)", text):
        return re.sub(rf"(?m)(?<=\s){re.escape(old)}(?!\S)", name, text)
    return f"{text.rstrip()}\n127.0.1.1\t{names}\n"


def machine_id(guest: Guest) -> str:
    """Empty the machine's id; D-Bus's copy goes unless it is a link."""
    if guest.is_file("/etc/machine-id"):
        guest.put("/etc/machine-id", "")
    if guest.exists("/var/lib/dbus/machine-id") and not guest.is_link("/var/lib/dbus/machine-id"):
        guest.drop("/var/lib/dbus/machine-id")
    if not guest.changes:
        raise Skip("the guest has no machine id, or an empty one")
    return "the source's id is gone"


def source_tools(guest: Guest) -> str:
    """Mask units, and remove the start links of init scripts."""
    done = []
    for service in _SOURCE_SERVICES:
        unit, mask = f"{service}.service", f"/etc/systemd/system/{service}.service"
        if any(guest.is_file(f"{folder}/{unit}") for folder in _UNIT_FOLDERS):
            guest.link(mask, "/dev/null")
            done.append(service)
    for level in "2345":
        for path in guest.names(f"/etc/rc{level}.d", "S*"):
            match = _START_LINK.fullmatch(path.rpartition("/")[2])
            if match and match[1] in _SOURCE_SERVICES:
                guest.drop(path)
                done.append(match[1])
    if not guest.changes:
        raise Skip("no tools of another platform were found, or they are off")
    return f"no longer started: {', '.join(sorted(set(done)))}"


def selinux_relabel(guest: Guest) -> str:
    """What is written offline has no SELinux label: have the guest label everything anew."""
    if not guest.is_file("/etc/selinux/config"):
        raise Skip("the guest has no SELinux")
    if re.search(r"(?m)^\s*SELINUX\s*=\s*disabled", guest.text("/etc/selinux/config")):
        raise Skip("SELinux is disabled")
    if guest.exists("/.autorelabel"):
        raise Skip("the guest will be labelled anew already")
    guest.put("/.autorelabel", "")
    return "the first boot labels the files and starts again"
