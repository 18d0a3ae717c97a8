"""A VM whose target is disks, on the simulated target: what the job keeps, what clean-up and the auditor make of it."""

from __future__ import annotations

import pytest
from audit_world import look
from guarantee.judge import judge
from harness import PARENT, SOURCE, VM, refused

from models.states import JobState, LedgerState
from targets.base import ResourceKind, ResourceRef, Status
from targets.simulated import SimulatedTarget
from tasks.errors import FailedPrecondition, NotFound
from tasks.services import Request

PROJECT = {"targetProject": f"{PARENT}/targetProjects/simulated"}
ATTACHED = {"vmTargetDefaults": {"vmName": "shop", "machineType": "e2-small"}}


def disks_target(world, **defaults):
    defaults = {**PROJECT, "disksTargetDefaults": {}, **defaults}
    if "vmTargetDefaults" in defaults:
        del defaults["disksTargetDefaults"]
    body = {"computeEngineDisksTargetDefaults": defaults}
    world.services.migrating_vms.update(VM, lambda _: body, Request())


def judged(world):
    assert judge(world.engine, world.target, final=True).violations == []


def test_disks_of_a_job_that_succeeded_are_products_for_ever(light):
    disks_target(light)
    job = light.run_to_end(light.create().id)
    assert job.state is JobState.SUCCEEDED and [str(step.kind) for step in job.steps] == ["preparing_vm_disks"]
    assert light.kinds() == ["disk"] and {row.state for row in job.ledger} == {LedgerState.KEPT}
    for _ in range(4):
        found = look(light, delete=True, pause_s=3600)
        assert found.orphans == [] and found.missing == []
        light.reconcile(), light.run()
    assert light.kinds() == ["disk"]
    judged(light)


def test_the_auditor_misses_a_disk_of_a_job_of_disks_alone(light):
    disks_target(light)
    job = light.run_to_end(light.create().id)
    light.target.remove_by_hand(ResourceRef(ResourceKind.DISK, job.ledger[0].name))
    assert [row.name for row in look(light).missing] == [job.ledger[0].name]


@pytest.mark.parametrize("defaults", [{}, ATTACHED], ids=["alone", "attached"])
@pytest.mark.parametrize("delivered", [0, 1, 2])
def test_a_cancel_at_any_moment_leaves_nothing_or_all(light, defaults, delivered):
    disks_target(light, **defaults)
    job = light.create()
    for _ in range(delivered):
        light.deliver()
    try:
        light.services.clone_jobs.cancel(job.name)
    except FailedPrecondition:
        pass
    job = light.run_to_end(job.id)
    due = [] if job.state is JobState.CANCELLED else ["disk"]
    assert light.kinds() == due and (job.state is JobState.CANCELLED or not defaults)
    judged(light)


def test_attached_disks_have_their_vm(light):
    disks_target(light, **ATTACHED, disks=[{"sourceDiskNumber": 0, "diskName": "shop-root"}])
    job = light.run_to_end(light.create().id)
    assert job.state is JobState.SUCCEEDED and light.kinds() == ["disk", "instance"]
    assert light.target.find(ResourceRef(ResourceKind.INSTANCE, "shop")).status is Status.READY
    assert light.target.find(ResourceRef(ResourceKind.DISK, "shop-root")).job_id == job.id
    judged(light)


def test_the_metadata_of_the_new_vm_may_require_its_boot(light):
    vm = {**ATTACHED["vmTargetDefaults"], "metadata": {"clonejob-require-boot": "true"}}
    disks_target(light, vmTargetDefaults=vm)
    light.target.add_fault(op="boot_report", fault="no_boot", times=None)
    job = light.run_to_end(light.create().id)
    assert job.state is JobState.FAILED and light.kinds() == []


def test_a_target_that_keeps_no_disks_apart_is_refused_and_others_are_named(light, tmp_path):
    light.runtime.targets["cloud"] = SimulatedTarget(tmp_path / "cloud", name="cloud", boots_from_image=True)
    light.services.target_projects.create(PARENT, "cloud", {"project": "cloud"}, Request())
    disks_target(light, targetProject=f"{PARENT}/targetProjects/cloud")
    error = refused(light, FailedPrecondition, light.create)
    assert error.reason == "TARGET_CANNOT_CLONE" and error.message.endswith("can be cloned to: simulated")
    assert "TARGET_CANNOT_CLONE" in [each.reason for each in light.services.plans.plan(VM).blockers]


def test_a_disks_target_needs_its_target_project(light):
    body = {"computeEngineDisksTargetDefaults": {"disksTargetDefaults": {}}}
    light.services.migrating_vms.create(SOURCE, "bare", body, Request())
    with pytest.raises(NotFound):
        light.services.plans.plan(f"{SOURCE}/migratingVms/none")
    blockers = {each.reason for each in light.services.plans.plan(f"{SOURCE}/migratingVms/bare").blockers}
    assert "NO_TARGET_DEFAULTS" in blockers
