"""How a clone's disks are made is chosen per target project, and its job keeps what was chosen when it was created."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from harness import PARENT, VM, refused

from models.schema import TargetProject
from targets.base import ResourceKind
from targets.qemu import QemuTarget
from tasks.errors import FailedPrecondition, InvalidArgument, NotFound
from tasks.plan import spec_of
from tasks.services import Request

PROJECT = f"{PARENT}/targetProjects/simulated"
HOST = f"{PARENT}/targetProjects/host"


@pytest.fixture
def host(light, tmp_path):
    """The world with a QEMU host beside its simulated target; the VM's clones go there."""
    light.runtime.targets["host"] = QemuTarget(tmp_path / "host", light.snapshots, name="host")
    light.services.target_projects.create(PARENT, "host", {"project": "host"}, Request())
    body = {"computeEngineTargetDefaults": {"targetProject": HOST}}
    light.services.migrating_vms.update(VM, lambda had: had | body, Request())
    return light


def modes_of(job):
    return {spec_of(job, row).clone_mode for row in job.ledger if row.kind == ResourceKind.DISK}


def clone_modes(world):
    job = world.create()
    return modes_of(job), world.services.explain.explain(job.name).clone_mode


def test_the_target_is_the_default(host):
    found = host.services.target_projects.clone_modes(HOST)
    assert (found.target, found.chosen, found.used, found.modes) == ("host", "", "overlay", ("overlay", "full"))
    assert host.services.plans.plan(VM).clone_mode == "overlay"
    assert clone_modes(host) == ({"overlay"}, "overlay")


def test_a_target_project_chooses_and_a_job_keeps_it(host):
    projects = host.services.target_projects
    assert projects.set_clone_mode(HOST, "full").used == "full"
    assert host.services.plans.plan(VM).clone_mode == "full"
    job = host.create()
    assert projects.set_clone_mode(HOST, "").used == "overlay"
    assert host.services.plans.plan(VM).clone_mode == "overlay"
    assert modes_of(host.job(job.id)) == {"full"}
    assert host.services.explain.explain(job.name).clone_mode == "full"


@pytest.mark.parametrize(
    ("project", "mode", "why"),
    [(HOST, "fulll", "'fulll' is not a clone mode of target host; there are: overlay, full"),
     (PROJECT, "full", "does not go with target simulated, which makes disks in one way: leave the clone mode empty")],
)  # fmt: skip
def test_a_mode_that_the_target_does_not_have_is_refused(host, project, mode, why):
    said = refused(host, InvalidArgument, lambda: host.services.target_projects.set_clone_mode(project, mode))
    assert why in said.message
    assert host.services.target_projects.clone_modes(project).chosen == ""


def test_no_project_no_mode(host):
    refused(host, NotFound, lambda: host.services.target_projects.set_clone_mode(f"{HOST}x", "full"))
    refused(host, NotFound, lambda: host.services.target_projects.clone_modes(f"{HOST}x"))


def test_a_target_project_with_a_mode_cannot_go_to_a_target_without(host):
    projects = host.services.target_projects
    projects.set_clone_mode(HOST, "full")
    refused(host, InvalidArgument, lambda: projects.update(HOST, lambda had: had | {"project": "simulated"}, Request()))
    projects.set_clone_mode(HOST, "")
    assert projects.update(HOST, lambda had: had | {"project": "simulated"}, Request())[1].target == "simulated"
    assert projects.clone_modes(HOST).modes == ()


def test_a_target_that_lost_the_mode_is_told_before_anything_is_made(host):
    with host.engine.begin() as connection:  # as if the settings named another type under the same name
        chosen = sa.update(TargetProject).where(TargetProject.name == HOST)
        connection.execute(chosen.values(clone_mode="mirror"))
    said = refused(host, FailedPrecondition, host.create)
    assert (said.reason, "target host has overlay, full" in said.message) == ("TARGET_CANNOT_CLONE", True)
    plan = host.services.plans.plan(VM)
    assert "TARGET_CANNOT_CLONE" in [blocker.reason for blocker in plan.blockers]


def test_a_target_with_one_way_has_no_mode(light):
    assert light.services.plans.plan(VM).clone_mode == ""
    assert clone_modes(light) == ({""}, "")
