"""What jobs, plans and pruning make of an adapted result that a QEMU target keeps."""

from __future__ import annotations

import pytest
from harness import PARENT, VM, World

from models.states import JobState, StepKind
from targets.guest import build_disk
from targets.qemu import QemuTarget
from tasks import services
from tasks.runtime import Pacing

TWO = [StepKind.PREPARING_VM_DISKS, StepKind.INSTANTIATING_MIGRATED_VM]
THREE = [StepKind.ADAPTING_OS, *TWO]


@pytest.fixture
def world(tools, tmp_path):
    """A VM with a guest of ours, and a QEMU target."""
    world = World(tmp_path, pacing=Pacing(inline_wait_s=20.0, boot_timeout_s=0.0))
    world.local = world.runtime.targets["local"] = QemuTarget(tmp_path / "local", world.snapshots, call_timeout_s=60)
    world.services.sources.create(PARENT, "s", {}, services.Request())
    world.services.target_projects.create(PARENT, "local", {"project": "local"}, services.Request())
    world.add_vm("web-1", defaults={"targetProject": f"{PARENT}/targetProjects/local"})
    world.guest = build_disk(tmp_path / "guest.img", size_bytes=2**20)
    upload(world)
    yield world
    remove_all(world)
    world.close()


def upload(world) -> None:
    cycle = world.services.cycles.begin(VM, None)
    world.services.cycles.put_disk(cycle.name, 0, "raw", iter([world.guest.read_bytes()]))
    world.services.cycles.finish(cycle.name)


def remove_all(world) -> None:
    for seen in world.local.inventory():
        world.local.delete(seen.ref, job_id=seen.job_id, uid=seen.uid)
    assert world.local.inventory() == []


def clone(world, job_id: str):
    return world.run_to_end(world.create(job_id).id)


def kinds(job) -> list[StepKind]:
    return [step.kind for step in job.steps]


def kept(world) -> int:
    folder = world.local.root / "adapted"
    return len(list(folder.iterdir())) if folder.exists() else 0


def said(world, **options) -> dict[str, str]:
    return {report.cycle.rpartition("/")[2]: report.kept for report in world.services.snapshots.prune(**options)}


def test_only_the_first_clone_of_a_cycle_has_the_step(world):
    first, second = clone(world, "c1"), clone(world, "c2")
    assert (first.state, kinds(first)) == (JobState.SUCCEEDED, THREE)
    assert (second.state, kinds(second)) == (JobState.SUCCEEDED, TWO)
    assert second.steps[0].progress["adaptation"]["reused"] is True
    upload(world)
    assert kinds(clone(world, "c3")) == THREE


def test_other_modifiers_need_the_step_again(world):
    clone(world, "c1")
    changed = {"targetProject": f"{PARENT}/targetProjects/local",
               "adaptationModifiers": [{"modifier": "source-tools", "value": "off"}]}  # fmt: skip
    change = {"computeEngineTargetDefaults": changed}
    world.services.migrating_vms.update(VM, lambda body: {**body, **change}, services.Request())
    assert kinds(clone(world, "c2")) == THREE
    assert kept(world) == 2


def test_a_job_that_fails_leaves_the_result_to_the_next(world):
    job = world.create("c1")
    world.deliver()
    world.services.clone_jobs.cancel(job.name)
    assert world.run_to_end(job.id).state is JobState.CANCELLED
    assert world.local.inventory() == [] and kept(world) == 1
    second = clone(world, "c2")
    assert (second.state, kinds(second)) == (JobState.SUCCEEDED, TWO)


def test_a_result_that_went_after_the_plan_is_made_again(world):
    clone(world, "c1")
    job = world.create("c2")
    world.local.drop_adaptations(
        {each.store_key for each in world.runtime.catalog.last_cycle(VM).snapshots}, dry_run=False
    )
    job = world.run_to_end(job.id)
    assert (job.state, kinds(job)) == (JobState.SUCCEEDED, TWO)
    assert job.steps[0].progress["adaptation"]["reused"] is False and kept(world) == 1


def test_a_guest_that_cannot_be_adapted_any_more_is_told_as_that(world):
    """The code is that of the adaptation, whichever step it came to be in."""
    clone(world, "c1")
    job = world.create("c2")
    world.local.drop_adaptations(
        {each.store_key for each in world.runtime.catalog.last_cycle(VM).snapshots}, dry_run=False
    )
    path = world.snapshots.path(world.runtime.catalog.last_cycle(VM).snapshots[0].store_key)
    path.chmod(0o600)
    path.write_bytes(bytes(2**20))
    job = world.run_to_end(job.id)
    assert (job.state, job.error["code"]) == (JobState.FAILED, "OS_ADAPTATION_ERROR")


def test_pruning_is_refused_while_a_clone_uses_the_result_and_takes_it_along(world):
    clone(world, "c1")
    upload(world)
    assert said(world)["cycle-1"] == "1 clone needs it"
    assert kept(world) == 1
    remove_all(world)
    assert said(world, dry_run=True)["cycle-1"] == "" and kept(world) == 1
    [would, _] = world.services.snapshots.prune(dry_run=True)
    result = next((world.local.root / "adapted").glob("*/disk.qcow2"))
    snapshot = world.snapshots.path(next(iter(world.runtime.catalog.stored_cycles(1))).cycle.snapshots[0].store_key)
    assert would.freed_bytes == 512 * (result.stat().st_blocks + snapshot.stat().st_blocks)
    [report, _] = world.services.snapshots.prune()
    assert (report.kept, report.freed_bytes) == ("", would.freed_bytes)
    assert kept(world) == 0 and not snapshot.exists()


def test_the_result_of_the_latest_cycle_is_not_pruned(world):
    clone(world, "c1")
    remove_all(world)
    assert said(world) == {"cycle-1": "it is the VM's latest successful cycle"}
    assert kept(world) == 1 and kinds(clone(world, "c2")) == TWO
