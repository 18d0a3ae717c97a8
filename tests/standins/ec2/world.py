"""The real store, services and EC2 target against the stand-in; all of them share one clock that the test moves."""

from __future__ import annotations

from harness import PARENT, SOURCE, World
from standins.ec2.kit import Ec2Kit

from tasks.runtime import Pacing
from tasks.services import Request


class Ec2World(World):
    def __init__(self, tmp_path, stand_in, **options):
        super().__init__(tmp_path, pacing=Pacing(inline_wait_s=0.0, delete_wait_s=0.0, poll_s=1.0))
        stand_in.clock = self.clock.timestamp
        self.stand_in, self.kit = stand_in, Ec2Kit(stand_in)
        self.target = self.kit.connect(settle_s=0.1, **options)
        self.runtime.targets["ec2"] = self.target

    def set_up(self, *, defaults=None, **body):
        none = Request()
        self.services.sources.create(PARENT, "s", {}, none)
        self.services.target_projects.create(PARENT, "ec2", {"project": "ec2"}, none)
        self.refer("web-1", defaults=defaults, **body)

    def refer(self, vm_id, *, defaults=None, **body):
        """A VM with one cycle of the kit's snapshots."""
        defaults = {"targetProject": f"{PARENT}/targetProjects/ec2", "machineType": "e2-medium", **(defaults or {})}
        body = {"computeEngineTargetDefaults": defaults, "policy": {"skipOsAdaptation": True}, **body}
        self.services.migrating_vms.create(SOURCE, vm_id, body, Request())
        vm = f"{SOURCE}/migratingVms/{vm_id}"
        cycle = self.services.cycles.begin(vm).name
        for number, snapshot in enumerate(self.kit.snapshots):
            self.services.cycles.put_reference(cycle, number, snapshot.key, snapshot.virtual_size_bytes)
        self.services.cycles.finish(cycle)
        self.stand_in.forget()
        return vm

    def cancel(self, job):
        return self.services.clone_jobs.cancel(job.name)
