"""The clone's network interfaces: isolated unless the target's options map their network to something else.

A test clone must not talk to production, and must not meet its source's address there: an isolated interface has DHCP and a
gateway that answers, and no way to the host or anywhere else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from targets.errors import UnsupportedError
from targets.registry import Finding


class Network(BaseModel):
    """What a network of the target details means here."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["isolated", "bridge", "none"] = "isolated"
    bridge: str = Field(
        default="", pattern=r"^[A-Za-z0-9_.-]{0,15}$", description="The host's bridge, for mode bridge."
    )

    @model_validator(mode="after")
    def _whole(self) -> Network:
        if (self.mode == "bridge") != bool(self.bridge):
            raise ValueError("mode bridge needs a bridge, and no other mode has one")
        return self


_ISOLATED = Network()
_INTERFACES = Path("/sys/class/net")  # the kernel's own list
_HELPER_RULES = Path("/etc/qemu/bridge.conf")


def networks_of(details: Mapping[str, Any], configured: Mapping[str, Network]) -> list[Network]:
    """What each interface of the details is connected to; one isolated interface if they name none.

    A network is configured by its full name or by its last part. Raises: UnsupportedError for one that is not, unless
    none is.
    """
    interfaces: Sequence[Mapping[str, Any]] = details.get("networkInterfaces", ())
    return [_network(each, configured) for each in interfaces] or [_ISOLATED]


def bridge_findings(configured: Mapping[str, Network]) -> Iterator[Finding]:
    """Bridges that this machine does not have, or that QEMU's helper may not use."""
    for name, network in configured.items():
        bridge = network.bridge
        if not bridge:
            continue
        if not (_INTERFACES / bridge / "bridge").is_dir():
            what = "is no bridge" if (_INTERFACES / bridge).exists() else "does not exist on this machine"
            yield Finding(
                f"network {name}: {bridge} {what}",
                f"make it (ip link add {bridge} type bridge; ip link set {bridge} up), or name another bridge in networks",
            )
        elif not _is_allowed(bridge):
            yield Finding(
                f"network {name}: {_HELPER_RULES} does not allow QEMU's helper to use {bridge}",
                f"add the line 'allow {bridge}' to it",
                is_certain=False,  # a QEMU of another make reads the file elsewhere
            )


def _is_allowed(bridge: str) -> bool:
    """By the helper's rules; one that we may not read, or that includes another file, says nothing against it."""
    try:
        rules = [line.split() for line in _HELPER_RULES.read_text(errors="replace").splitlines()]
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return any(rule[:1] == ["include"] or rule[:2] in (["allow", bridge], ["allow", "all"]) for rule in rules)


def network_arguments(networks: Sequence[Network], job_id: str) -> list[str]:
    """QEMU's arguments. Without a boot ROM: a clone boots from its disks, and must not wait for a network."""
    arguments = ["-nic", "none"]
    for number, network in enumerate(networks):
        if network.mode == "none":
            continue
        back = f"bridge,id=net{number},br={network.bridge}"
        if network.mode == "isolated":
            back = f"user,id=net{number},restrict=on"
        front = f"virtio-net-pci,netdev=net{number},mac={mac_address(job_id, number)},romfile="
        arguments += ["-netdev", back, "-device", front]
    return arguments


def mac_address(job_id: str, number: int) -> str:
    """The interface's own address, the same at every start, never the source's: locally administered, 40 bits of hash."""
    digest = hashlib.sha256(f"{job_id}/{number}".encode()).digest()
    return ":".join(f"{byte:02x}" for byte in (0x02, *digest[:5]))


def _network(interface: Mapping[str, Any], configured: Mapping[str, Network]) -> Network:
    names = [name for key in ("subnetwork", "network") if (name := interface.get(key, ""))]
    for name in names:
        for known in (name, name.rpartition("/")[2]):
            if known in configured:
                return configured[known]
    if configured and names:
        raise UnsupportedError(
            f"Network {names[0]!r} is not configured on this target; there are: {', '.join(sorted(configured))}. "
            "Name one of them in the VM's target details, or configure it in the target's option networks."
        )
    return _ISOLATED
