"""A data folder as the service keeps it, with clones in it, and no service."""

from __future__ import annotations

import time
from types import SimpleNamespace

from targets.guest import build_disk
from tasks import steps
from tasks.services import Request, Services
from worker.composition import build_runtime, upgrade_database
from worker.settings import load_settings

PARENT = "projects/clonejob/locations/global"


class Lab:
    """A data folder as the service keeps it, without the service."""

    def __init__(self, data_dir):
        data_dir.mkdir()
        self.settings = load_settings(data_dir=data_dir, inline_wait_s=0.2, poll_s=0.05)
        upgrade_database(self.settings)
        self.sent = []
        publisher = SimpleNamespace(steps=lambda *message: bool(self.sent.append(message)) or True)
        self.runtime = build_runtime(self.settings, publisher)
        self.targets = self.runtime.targets
        self.services = Services(self.runtime)
        self.services.sources.create(PARENT, "default", {}, Request())

    def add_vm(self, vm_id, target, **defaults):
        projects = f"{PARENT}/targetProjects"
        if not self.services.target_projects.list(PARENT).items:
            for each in self.targets:
                self.services.target_projects.create(PARENT, each, {"project": each}, Request())
        body = {"computeEngineTargetDefaults": {"targetProject": f"{projects}/{target}", **defaults}}
        _, vm = self.services.migrating_vms.create(f"{PARENT}/sources/default", vm_id, body, Request())
        self.upload(vm.name)
        return vm.name

    def upload(self, vm_name):
        disk = self.settings.data_dir / "disk.img"
        build_disk(disk, data="cycle 1", size_bytes=1024 * 1024)
        cycle = self.services.cycles.begin(vm_name)
        self.services.cycles.put_disk(cycle.name, 0, "raw", [disk.read_bytes()])
        self.services.cycles.finish(cycle.name)

    def clone(self, vm_id, target="simulated", *, until=99, **defaults):
        """A job of a new VM, brought to the step at position ``until``, or to its end; its row."""
        self.services.clone_jobs.create(self.add_vm(vm_id, target, **defaults), "c1", Request())
        job_id, epoch, _, kinds = self.sent.pop()
        for position in range(min(until, len(kinds) + 1)):
            outcome = steps.run_step(self.runtime, job_id, epoch, position)
            while outcome.result is steps.Result.AGAIN:
                time.sleep(outcome.pause_s)
                outcome = steps.run_step(self.runtime, job_id, epoch, position)
            assert outcome.result is steps.Result.DONE, outcome
        return self.runtime.store.get_job(job_id)

    def names(self, target="simulated"):
        return sorted(seen.ref.name for seen in self.targets[target].inventory())


def instance_of(job):
    return next(row.name for row in job.ledger if row.kind == "instance")


def one_line(result):
    assert result.err.startswith("error: "), result.err
    assert result.err.count("\n") == 1, result.err
    return result.err
