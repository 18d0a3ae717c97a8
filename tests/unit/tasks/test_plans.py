"""Dry runs: everything that would be made, everything that stands against it, and no effect at all."""

from __future__ import annotations

import hashlib

import pytest
import sqlalchemy as sa
from harness import SOURCE, VM, World

from models.schema import Base
from targets.base import Owner, ResourceKind, ResourceRef
from targets.errors import UnsupportedError
from tasks.errors import NotFound, ServiceError
from tasks.services import Request


def dump(world):
    """All rows of all tables, and what the target and the store hold."""
    with world.engine.connect() as connection:
        rows = {table.name: connection.execute(sa.select(table)).all() for table in Base.metadata.sorted_tables}
    kept = {
        str(path.relative_to(world.target.root)): path.read_bytes()
        for path in world.target.root.rglob("*") if path.is_file() and path.suffix not in (".jsonl", ".lock")
    }  # fmt: skip
    return rows, kept, sorted(str(path) for path in world.snapshots.root.rglob("*")), list(world.mail.messages)


def reasons(plan):
    return [blocker.reason for blocker in plan.blockers]


def test_what_would_be_made(light):
    light.upload(VM, disks=2, content=b"x")
    plan = light.services.plans.plan(VM)
    assert (reasons(plan), plan.target, plan.cycle.cycle_number) == ([], "simulated", 2)
    assert [step.kind for step in plan.steps] == ["adapting_os", "preparing_vm_disks", "instantiating_migrated_vm"]
    assert plan.steps[0].reason == "the snapshots of this cycle are not adapted yet"
    job = light.create()
    made = hashlib.sha256(job.id.encode()).hexdigest()[:10]
    named = [(each.kind, each.name.replace("<hash of the job's id>", made), each.role) for each in plan.resources]
    assert named == [(row.kind, row.name, str(row.role)) for row in job.ledger]
    digest = hashlib.sha256(b"x".ljust(510, b"\0") + b"\x55\xaa").hexdigest()
    assert [snapshot.sha256 for snapshot in plan.cycle.snapshots] == [digest, digest]


def test_no_effect(world):
    for prepare in (lambda: None, world.create, world.run):
        prepare()
        before = dump(world)
        world.services.plans.plan(VM)
        assert dump(world) == before


@pytest.mark.parametrize(
    ("adaptation", "body", "why"),
    [
        ({"licenseType": "COMPUTE_ENGINE_LICENSE_TYPE_DEFAULT", "modifiers": {}}, {}, "are adapted for its licence"),
        (
            {"licenseType": "COMPUTE_ENGINE_LICENSE_TYPE_BYOL"},
            {},
            "licence type COMPUTE_ENGINE_LICENSE_TYPE_BYOL becomes",
        ),
        ({"modifiers": {"a": "1"}}, {}, "modifier a: '1' becomes 'none'"),
        (None, {"policy": {"skipOsAdaptation": True}}, "the VM's policy skips OS adaptation"),
    ],
)
def test_why_it_is_adapted(tmp_path, adaptation, body, why):
    world = World(tmp_path)
    world.set_up(**body)
    world.upload(VM, adaptation=adaptation)
    plan = world.services.plans.plan(VM)
    assert why in plan.steps[0].reason
    assert [step.kind for step in plan.steps] == [str(step.kind) for step in world.create().steps]
    world.close()


def test_all_blockers_at_once(light):
    light.services.migrating_vms.create(SOURCE, "bare", {}, Request())
    assert reasons(light.services.plans.plan(f"{SOURCE}/migratingVms/bare")) == [
        "VM_NOT_CLONEABLE", "NO_SUCCESSFUL_CYCLE", "NO_TARGET_DEFAULTS"]  # fmt: skip
    job = light.create()
    light.runtime.targets["simulated"].check = lambda specs: (_ for _ in ()).throw(UnsupportedError("no such zone"))
    plan = light.services.plans.plan(VM)
    assert reasons(plan) == ["CLONE_JOB_RUNNING", "TARGET_CANNOT_CLONE"]
    assert plan.blockers[0].subject == job.name and "cancel" in plan.blockers[0].action
    assert plan.resources and all(blocker.action for blocker in plan.blockers)


def test_each_blocker_is_what_create_answers(light):
    world, empty = light, light.add_vm("empty")
    first = world.create("first")

    def answered(vm):
        plan = world.services.plans.plan(vm)
        with pytest.raises(ServiceError) as error:
            world.create("second", vm)
        assert error.value.reason in reasons(plan)
        return error.value.reason

    assert [answered(empty), answered(VM)] == ["NO_SUCCESSFUL_CYCLE", "CLONE_JOB_RUNNING"]
    world.run_to_end(first.id)
    world.corrupt("DELETE FROM target_projects")
    assert answered(VM) == "TARGET_PROJECT_NOT_FOUND"


def test_a_name_that_is_taken(light):
    vm = light.add_vm("named", defaults={"vmName": "taken"})
    light.upload(vm)
    assert reasons(light.services.plans.plan(vm)) == []
    light.create("one", vm)
    light.run()
    assert (
        light.target.find(ResourceRef(ResourceKind.INSTANCE, "taken")).labels
        == Owner(light.services.clone_jobs.get(f"{vm}/cloneJobs/one").id, 1).labels()
    )
    (blocker,) = light.services.plans.plan(vm).blockers
    assert (blocker.reason, blocker.subject) == ("INSTANCE_NAME_TAKEN", "taken")


def test_an_unknown_vm(light):
    with pytest.raises(NotFound):
        light.services.plans.plan(f"{SOURCE}/migratingVms/none")
