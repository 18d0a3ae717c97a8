"""The harness's world with a Compute Engine project in place of the simulated target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness import PARENT, VM, World
from standins.compute_engine import StandIn
from standins.compute_engine.server import PROJECT, ZONE
from targets.base import (
    AdaptedImageSpec,
    DiskSpec,
    InstanceSpec,
    Owner,
    ResourceKind,
    ResourceRef,
    Snapshot,
)
from targets.compute_engine.options import ComputeEngineOptions
from targets.compute_engine.target import ComputeEngineTarget
from tasks.runtime import Pacing
from tasks.services import Request

GIB = 1 << 30


def target_of(stand_in: StandIn, call_timeout_s: float = 20.0, **options: Any) -> ComputeEngineTarget:
    """A target as one worker sees it."""
    options = {"project": PROJECT, "zone": ZONE, "endpoint": stand_in.endpoint, **options}
    return ComputeEngineTarget(ComputeEngineOptions(**options), name="ce", call_timeout_s=call_timeout_s)


class Specs:
    """Specs of one job's resources, from one snapshot."""

    def __init__(self, key: str) -> None:
        self.snapshot = Snapshot(key, "reference", 10 * GIB, "")

    def image(self, name: str = "c-adapted", job: str = "job-1", **details: Any) -> AdaptedImageSpec:
        ref = ResourceRef(ResourceKind.ADAPTED_IMAGE, name)
        return AdaptedImageSpec(
            ref, Owner(job, 1), self.snapshot, "web-1", details.get("licenseType", ""), details=details
        )

    def disk(
        self, name: str = "c-disk0", job: str = "job-1", number: int = 0, image: str | None = None, **details: Any
    ) -> DiskSpec:
        ref = ResourceRef(ResourceKind.DISK, name)
        return DiskSpec(ref, Owner(job, 1), number, self.snapshot, image, details.get("labels", {}), details)

    def instance(
        self, name: str = "c-vm", job: str = "job-1", disks: tuple[str, ...] = ("c-disk0",), **details: Any
    ) -> InstanceSpec:
        ref = ResourceRef(ResourceKind.INSTANCE, name)
        return InstanceSpec(
            ref, Owner(job, 1), disks, "web-1", details.get("machineType", ""), details.get("labels", {}),
            details.get("metadata", {}), None, details,
        )  # fmt: skip


class ComputeWorld(World):
    """The real store and services, Google's own client, and the stand-in on the world's clock."""

    def __init__(self, tmp_path: Path, *, options: dict[str, Any] | None = None, **behaviour: Any) -> None:
        super().__init__(tmp_path, pacing=Pacing(inline_wait_s=0.0, delete_wait_s=0.0, poll_s=8.0, boot_timeout_s=30.0))
        self.stand_in = StandIn(self.clock.timestamp, **behaviour)
        self.snapshot = self.stand_in.add_snapshot()
        self.target = target_of(self.stand_in, **(options or {}))
        self.runtime.targets["ce"] = self.target  # type: ignore[index]

    def close(self) -> None:
        self.target.close()
        self.stand_in.close()
        super().close()

    def set_up(self, *, disks: int = 1, defaults: dict[str, Any] | None = None, **body: Any) -> None:
        none = Request()
        self.services.sources.create(PARENT, "s", {}, none)
        self.services.target_projects.create(PARENT, "ce", {"project": "ce"}, none)
        self.add_vm("web-1", defaults={"targetProject": f"{PARENT}/targetProjects/ce", **(defaults or {})}, **body)
        self.refer(VM, disks=disks)

    def refer(self, vm: str, *, disks: int = 1) -> str:
        cycle = self.services.cycles.begin(vm)
        for number in range(disks):
            self.services.cycles.put_reference(cycle.name, number, self.snapshot, 10 * GIB)
        return self.services.cycles.finish(cycle.name).name
