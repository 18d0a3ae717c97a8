"""Recipes about the network: the clone must not come up with its source's addresses."""

from __future__ import annotations

import re

from targets.adaptation.guest_view import Guest
from targets.adaptation.recipe import Skip

_SUFFIX = ".before-clonejob"
_STATIC_OPTIONS = (
    "address", "netmask", "broadcast", "network", "gateway", "hwaddress", "dns-nameservers", "dns-search", "dns-domain",
    "metric", "pointopoint", "mtu", "scope",
)  # fmt: skip
_IFCFG_STATIC = re.compile(
    r"(?m)^\s*(IPADDR|NETMASK|PREFIX|GATEWAY|NETWORK|BROADCAST|DNS|DOMAIN|HWADDR|MACADDR)\d*=.*\n?"
)
_NM_ADDRESSES = re.compile(r"(address|addresses|gateway|dns|dns-search|route|routes)\d*\s*=")
_NM_HARDWARE = re.compile(r"(mac-address|cloned-mac-address|interface-name)\s*=")
_NETPLAN = """# Written by clonejob: every network card gets its address by DHCP.
network:
  version: 2
  ethernets:
    all:
      match: {name: "e*"}
      dhcp4: true
"""
_NETWORKD = (
    "# Written by clonejob: every network card gets its address by DHCP.\n[Match]\nName=e*\n\n[Network]\nDHCP=yes\n"
)


def network_dhcp(guest: Guest) -> str:
    """Whatever configures the network there is told to use DHCP; what was replaced stays beside as a copy."""
    kinds = {"ifupdown": _ifupdown, "netplan": _netplan, "systemd-networkd": _networkd, "NetworkManager": _manager,
             "ifcfg files": _ifcfg}  # fmt: skip
    found = [name for name, adapt in kinds.items() if adapt(guest)]
    if not found:
        raise Skip("no network configuration was found that is known here")
    if not guest.changes:
        raise Skip(f"{', '.join(found)}: uses DHCP already")
    return f"{', '.join(found)}: set to DHCP"


def stale_mac_rules(guest: Guest) -> str:
    """Remove what gives names by MAC address."""
    for path in guest.names("/etc/udev/rules.d", "7?-persistent-net*.rules"):
        guest.drop(path)
    for path in guest.names("/etc/systemd/network", "*.link"):
        if re.search(r"(?mi)^\s*(Permanent)?MACAddress\s*=", guest.text(path)):
            guest.drop(path)
    if not guest.changes:
        raise Skip("no such rules were found")
    return f"removed {', '.join(sorted(path.rpartition('/')[2] for path in guest.changes))}"


def _ifupdown(guest: Guest) -> bool:
    paths = [path for path in ["/etc/network/interfaces"] if guest.is_file(path)]
    paths += guest.names("/etc/network/interfaces.d", "*")
    for path in paths:
        guest.put(path, _interfaces(guest.text(path)))
    return bool(paths)


def _interfaces(text: str) -> str:
    """Every static stanza becomes a DHCP stanza without its addresses; those of IPv6 become automatic."""
    lines, is_ours = [], False
    for line in text.splitlines():
        words = line.split()
        if (words and words[0] in ("iface", "auto", "mapping", "source", "source-directory")) or line.startswith(
            "allow-"
        ):
            is_ours = words[0] == "iface" and len(words) >= 4 and words[3] == "static"
            if is_ours:
                line = f"iface {words[1]} {words[2]} {'auto' if words[2] == 'inet6' else 'dhcp'}"  # noqa: PLW2901
        elif (words and words[0] == "hwaddress") or (is_ours and words and words[0] in _STATIC_OPTIONS):
            continue
        lines.append(line)
    return "\n".join([*lines, ""]) if text else text


def _netplan(guest: Guest) -> bool:
    paths = guest.names("/etc/netplan", "*.yaml")
    if paths and [guest.text(path) for path in paths] != [_NETPLAN]:
        for path in paths:
            _aside(guest, path)
        guest.put("/etc/netplan/90-clonejob.yaml", _NETPLAN)
    return bool(paths)


def _networkd(guest: Guest) -> bool:
    paths = guest.names("/etc/systemd/network", "*.network")
    static = [path for path in paths if re.search(r"(?m)^\s*(Address|MACAddress)\s*=", guest.text(path))]
    for path in static:
        _aside(guest, path)
    if static:
        guest.put("/etc/systemd/network/10-clonejob.network", _NETWORKD)
    return bool(paths)


def _manager(guest: Guest) -> bool:
    found = False
    for path in guest.names("/etc/NetworkManager/system-connections", "*"):
        text = guest.text(path)
        if re.search(r"(?m)^\s*type\s*=\s*(ethernet|802-3-ethernet)\s*$", text):
            guest.put(path, _connection(text))
            found = True
    return found


def _connection(text: str) -> str:
    lines, section = [], ""
    for line in text.splitlines():
        words = line.strip()
        if words.startswith("["):
            section = words
        elif section in ("[ipv4]", "[ipv6]"):
            if _NM_ADDRESSES.match(words):
                continue
            line = re.sub(r"^\s*method\s*=\s*manual\s*$", "method=auto", line)  # noqa: PLW2901
        elif section in ("[connection]", "[ethernet]", "[802-3-ethernet]") and _NM_HARDWARE.match(words):
            continue
        lines.append(line)
    return "\n".join([*lines, ""]) if text else text


def _ifcfg(guest: Guest) -> bool:
    paths = guest.names("/etc/sysconfig/network-scripts", "ifcfg-*") + guest.names("/etc/sysconfig/network", "ifcfg-*")
    paths = [path for path in paths if not path.endswith("/ifcfg-lo")]
    for path in paths:
        text = _IFCFG_STATIC.sub("", guest.text(path))
        changed = re.sub(r"(?mi)^\s*BOOTPROTO=.*$", "BOOTPROTO=dhcp", text)
        guest.put(path, changed if "BOOTPROTO=" in changed else f"{changed.rstrip()}\nBOOTPROTO=dhcp\n")
    return bool(paths)


def _aside(guest: Guest, path: str) -> None:
    """Keep what stands there under a name that nothing reads."""
    guest.put(f"{path}{_SUFFIX}", guest.text(path))
    guest.drop(path)
