"""Ec2Target against the stand-in: specs, and what clean-up does."""

from __future__ import annotations

import time

from targets.base import BootImageSpec, InstanceSpec, Owner, ResourceKind, ResourceRef, Snapshot
from targets.ec2.options import Ec2Options
from targets.ec2.target import Ec2Target

GIB = 1024**3
IMAGE = ResourceRef(ResourceKind.BOOT_IMAGE, "c-boot")
CLONE = ResourceRef(ResourceKind.INSTANCE, "c-vm")


class Ec2Kit:
    def __init__(self, stand_in):
        self.stand_in = stand_in
        self.snapshots = tuple(Snapshot(stand_in.make_snapshot(), "reference", 8 * GIB, "") for _ in range(2))
        stand_in.forget()
        self.target = self.connect()

    def options(self, **options):
        stand_in = self.stand_in
        base = {"region": stand_in.region, "subnet": stand_in.subnet, "security_groups": (stand_in.closed_group,),
                "endpoint": stand_in.endpoint, "settle_s": 0.1}  # fmt: skip
        return Ec2Options(**(base | options))

    def connect(self, *, call_timeout_s=10, **options):
        return Ec2Target(self.options(**options), call_timeout_s=call_timeout_s)

    def image(self, name="c-boot", job_id="job-1", *, epoch=1, snapshots=None, details=None):
        return BootImageSpec(ResourceRef(ResourceKind.BOOT_IMAGE, name), Owner(job_id, epoch),
                             snapshots or self.snapshots, {"team": "blue"}, details or {})  # fmt: skip

    def instance(
        self, name="c-vm", job_id="job-1", *, epoch=1, image="c-boot", machine_type="", metadata=None, details=None
    ):
        return InstanceSpec(ResourceRef(ResourceKind.INSTANCE, name), Owner(job_id, epoch), (), "web-1", machine_type,
                            {"team": "blue"}, metadata or {}, image, details or {})  # fmt: skip

    def clone(self, **how):
        self.target.create(self.image())
        return self.target.create(self.instance(**how))

    def delete_until_gone(self, ref, job_id="job-1"):
        deadline = time.monotonic() + 5
        while (seen := self.target.find(ref)) is not None:
            assert time.monotonic() < deadline, seen
            self.target.delete(ref, job_id=job_id, uid=seen.uid)
