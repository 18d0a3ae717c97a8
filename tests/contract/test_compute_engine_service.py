"""Whole jobs on Compute Engine: the real service and Google's own client against the stand-in, judged from its log."""

from __future__ import annotations

import pytest
from compute_world import ComputeWorld
from guarantee.judge import judge

from models.states import JobState, LedgerState
from targets.base import ResourceKind, ResourceRef

SLOW = {
    "images.insert": 20.0, "disks.insert": 30.0, "regionDisks.insert": 30.0, "instances.insert": 15.0,
    "disks.delete": 5.0, "instances.delete": 10.0, "images.delete": 3.0,
}  # fmt: skip


@pytest.fixture
def made(tmp_path):
    worlds = []

    def make(**options):
        worlds.append(ComputeWorld(tmp_path, **options))
        return worlds[-1]

    yield make
    for world in worlds:
        assert world.stand_in.refused == []
        world.close()


def settled(world):
    """Nothing that the rules forbid has happened at the provider."""
    found = judge(world.engine, world.stand_in, final=True, calls=world.stand_in.calls())
    assert found.violations == []


def test_a_job_succeeds_and_nothing_is_waited_for(made):
    world = made(durations=SLOW)
    world.set_up(disks=2, defaults={"labels": {"team": "blue"}, "machineType": "n2-standard-2"})
    job = world.create()
    done = world.run_to_end(job.id)
    assert done.state is JobState.SUCCEEDED, done.error
    assert world.kinds() == ["disk", "disk", "instance"]
    assert len(world.stand_in.made(ResourceKind.ADAPTED_IMAGE)) == 1
    [instance] = [seen for seen in world.target.inventory() if seen.ref.kind is ResourceKind.INSTANCE]
    assert instance.labels["clonejob-id"] == job.id and instance.labels["team"] == "blue"
    body = world.stand_in.resource(instance.ref).body
    assert [disk["autoDelete"] for disk in body["disks"]] == [False, False]
    assert done.steps[-1].progress["boot"]["verdict"] == "BOOTED"
    settled(world)


def test_after_success_no_call_changes_anything(made):
    world = made()
    world.set_up()
    world.run_to_end(world.create().id)
    before = len(world.stand_in.calls())
    for _ in range(5):
        world.clock.advance(600)
        world.reconcile()
        world.run()
    assert len(world.stand_in.calls()) == before
    settled(world)


@pytest.mark.parametrize("delivered", [1, 3, 5, 8])
def test_a_cancel_at_any_moment_leaves_nothing(made, delivered):
    world = made(durations=SLOW)
    world.set_up(disks=2)
    job = world.create()
    for _ in range(delivered):
        world.deliver()
        world.clock.advance(12)
    world.services.clone_jobs.cancel(job.name)
    done = world.run_to_end(job.id)
    assert done.state is JobState.CANCELLED
    assert world.stand_in.everything() == []
    settled(world)


def test_a_job_that_fails_leaves_nothing_and_says_why(made):
    world = made(durations=SLOW, quotas={"instances": 0})
    world.set_up(disks=2)
    done = world.run_to_end(world.create().id)
    assert done.state is JobState.FAILED
    assert "Quota 'INSTANCES' exceeded" in str(done.error)
    assert world.stand_in.everything() == []
    assert len(world.stand_in.made(ResourceKind.DISK)) == 2
    settled(world)


def test_a_quota_that_only_the_operation_tells_of_fails_the_job_with_its_words(made):
    world = made(durations=SLOW, quotas={"disks": 1}, quota_by_operation=True)
    world.set_up(disks=2)
    done = world.run_to_end(world.create().id)
    assert done.state is JobState.FAILED
    assert "Quota 'DISKS' exceeded" in str(done.error)
    assert world.stand_in.everything() == []
    settled(world)


@pytest.mark.parametrize("kind", ["lose", "drop"])
def test_lost_replies_make_nothing_twice(made, kind):
    world = made(durations=SLOW)
    world.set_up(disks=2)
    for method in ("images.insert", "disks.insert", "instances.insert", "images.delete"):
        world.stand_in.fault(method, kind)
    done = world.run_to_end(world.create().id)
    assert done.state is JobState.SUCCEEDED, done.error
    counts = [
        len(world.stand_in.made(each))
        for each in (ResourceKind.ADAPTED_IMAGE, ResourceKind.DISK, ResourceKind.INSTANCE)
    ]
    assert counts == [1, 2, 1]
    settled(world)


@pytest.mark.parametrize("method", ["disks.delete", "instances.delete"])
def test_clean_up_survives_what_the_api_does(made, method):
    world = made(durations=SLOW, list_lag_s=30)
    world.set_up(disks=2)
    world.stand_in.fault(
        "instances.insert", "operation", reason="PERMISSIONS_ERROR", message="not allowed to use the key"
    )
    for kind, more in (
        ("lose", {}),
        ("drop", {}),
        ("http", {"status": 429, "reason": "rateLimitExceeded"}),
        ("http", {}),
    ):
        world.stand_in.fault(method, kind, **more)
    done = world.run_to_end(world.create().id)
    assert done.state is JobState.FAILED and "not allowed to use the key" in str(done.error)
    assert world.stand_in.everything() == []
    settled(world)


def test_an_insert_that_is_not_visible_yet_is_waited_for_by_clean_up(made):
    """R1: its operation runs, a get shows nothing, and yet it is not gone."""
    world = made(durations=SLOW)
    world.set_up()
    world.stand_in.fault("disks.insert", "hidden", delay_s=200.0)
    job = world.create()
    while not world.stand_in.made(ResourceKind.DISK):
        world.deliver()
    world.services.clone_jobs.cancel(job.name)
    done = world.run_to_end(job.id)
    assert done.state is JobState.CANCELLED and world.stand_in.everything() == []
    settled(world)


def test_a_zone_without_room_for_now_is_tried_again(made):
    world = made(durations=SLOW)
    world.set_up()
    world.stand_in.fault(
        "instances.insert", "operation", reason="ZONE_RESOURCE_POOL_EXHAUSTED", message="no room", times=2
    )
    done = world.run_to_end(world.create().id)
    assert done.state is JobState.SUCCEEDED, done.error
    assert len(world.stand_in.made(ResourceKind.INSTANCE)) == 3
    settled(world)


def test_what_a_user_made_anew_under_our_name_stays(made):
    world = made(durations=SLOW)
    world.set_up()
    job = world.create()
    while not world.stand_in.made(ResourceKind.DISK):
        world.deliver()
    world.clock.advance(60)
    name = next(row.name for row in world.job(job.id).ledger if row.kind == ResourceKind.DISK)
    theirs = world.stand_in.foreign(ResourceRef(ResourceKind.DISK, name))
    done = world.run_to_end(job.id)
    assert done.state is JobState.FAILED
    assert [seen.uid for seen in world.stand_in.everything()] == [theirs.uid]
    assert LedgerState.CREATED not in {row.state for row in done.ledger}
    settled(world)


def test_a_snapshot_that_is_gone_is_told_before_anything_is_made(made):
    from tasks.errors import ServiceError

    world = made()
    world.set_up()
    world.stand_in.methods.sources.clear()
    with pytest.raises(ServiceError, match="does not exist"):
        world.create()
    assert world.stand_in.calls() == []
