"""The options of a QEMU host."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from targets.adaptation.policy import Policy
from targets.base import Target
from targets.qemu_network import Network, bridge_findings
from targets.qemu_user import user_findings
from targets.registry import Finding, Place, TargetOptions

if TYPE_CHECKING:
    from targets.qemu_machines import MachineOptions


class QemuOptions(TargetOptions):
    """See ``targets.qemu.QemuTarget``."""

    is_billable: ClassVar[bool] = False

    accel: Literal["tcg", "kvm", "hvf", "auto"] = Field(
        default="tcg", description="QEMU's accelerator; auto: kvm where a machine was seen to boot under it, else tcg."
    )
    networks: dict[str, Network] = Field(
        default_factory=dict,
        description="What a network of the target details means here, by its name; without any, all are isolated.",
    )
    seed: Literal["auto", "off"] = Field(
        default="auto", description="Whether a guest is told its host name, labels and metadata by a NoCloud seed."
    )
    run_as: str = Field(default="", description="User that QEMU runs as, where the worker is root.")
    scope: Literal["auto", "off"] = Field(
        default="auto", description="Whether a machine gets a scope of its own where systemd runs."
    )
    vmhost: bool = Field(
        default=False,
        description="Whether `clonejob vmhost` runs the machines, for workers in containers: then they outlive a worker's.",
    )
    clone_mode: Literal["overlay", "full"] = Field(
        default="overlay",
        description="overlay: a clone's disks lie on the snapshot, at once; full: copies that need nothing else.",
    )

    os_adaptation: Policy = Field(
        default=Policy.REQUIRED, description="What becomes of a guest that cannot be adapted; see docs/adaptation.md."
    )

    def make(self, place: Place) -> Target:
        """The target in the place's folder."""
        from targets.qemu import QemuTarget

        machines = self.machines()
        return QemuTarget(
            place.root, place.snapshots, name=place.name, machines=machines, clone_mode=self.clone_mode,
            call_timeout_s=place.call_timeout_s, os_adaptation=self.os_adaptation,
        )  # fmt: skip

    def machines(self) -> MachineOptions:
        """The part of it that is about machines."""
        from targets.qemu_machines import MachineOptions

        return MachineOptions(
            accel=self.accel, networks=self.networks, seed=self.seed, run_as=self.run_as, scope=self.scope,
            vmhost=self.vmhost,
        )  # fmt: skip

    def findings(self) -> Iterator[Finding]:
        """A user or a bridge that this machine does not have."""
        yield from user_findings(self.run_as)
        yield from bridge_findings(self.networks)
