"""Clone jobs on EC2 from the request to their end, judged by what EC2 itself saw."""

from __future__ import annotations

import contextlib

import pytest
from standins.ec2.fixtures import stand_in
from standins.ec2.world import Ec2World

from models import io_points
from models.states import JobState
from targets.base import Status
from tasks.services import Request


@pytest.fixture
def world(tmp_path, stand_in):
    made = Ec2World(tmp_path, stand_in)
    made.set_up()
    yield made
    made.close()


class Killed(BaseException):
    """A SIGKILL, as far as a test in one process can have it."""


@contextlib.contextmanager
def killed_after(point):
    def hook(name, phase):
        if (name, phase) == (point, "after"):
            raise Killed

    io_points.install_hook(hook)
    try:
        with pytest.raises(Killed):
            yield
    finally:
        io_points.install_hook(None)


def nothing_is_left(world, job):
    seen = world.stand_in
    assert (seen.instances(), seen.images(), seen.volumes()) == ({}, {}, [])
    assert world.target.inventory() == []
    assert all(each.key in seen.backend.snapshots for each in world.kit.snapshots)
    assert seen.most_alive(job.id) <= 1
    gone = [effect.time for effect in seen.effects if effect.what == "gone"]
    assert all(time <= job.end_time.timestamp() for time in gone)


def the_clone_is_kept(world, job):
    assert job.state is JobState.SUCCEEDED, job.error
    (uid,) = world.stand_in.instances()
    assert world.stand_in.images() == {}
    assert len(world.stand_in.volumes()) == len(world.kit.snapshots)
    kept = world.target.find(world.kit.instance(name=job.target_details["vmName"]).ref)
    assert (kept.uid, kept.status, kept.job_id) == (uid, Status.READY, job.id)
    assert world.stand_in.most_alive(job.id) == 1
    ended = job.end_time.timestamp()
    assert [effect for effect in world.stand_in.effects if effect.time > ended] == []


def test_a_job_succeeds_and_its_temporary_image_is_gone(world):
    job = world.run_to_end(world.create().id)
    the_clone_is_kept(world, job)
    (volumes,) = [sorted(each.snapshot_id for each in world.stand_in.backend.volumes.values())]
    assert volumes == sorted(each.key for each in world.kit.snapshots)
    assert [effect.what for effect in world.stand_in.effects if effect.kind == "image"] == ["made", "gone"]
    assert "BOOTED" in str(job.steps[-1].progress)


def test_slow_starts_hold_no_worker_and_slow_ends_are_waited_for(world):
    world.stand_in.start_s = world.stand_in.end_s = 9
    the_clone_is_kept(world, world.run_to_end(world.create().id))


@pytest.mark.parametrize("delivered", [0, 1, 2, 3])
def test_a_job_that_is_cancelled_half_way_leaves_nothing(world, delivered):
    world.stand_in.start_s, world.stand_in.end_s = 3, 3
    job = world.create()
    for _ in range(delivered):
        world.deliver()
    world.cancel(job)
    job = world.run_to_end(job.id)
    assert job.state is JobState.CANCELLED
    nothing_is_left(world, job)


@pytest.mark.parametrize(
    ("action", "code"),
    [("RegisterImage", "InvalidParameterValue"), ("RunInstances", "VcpuLimitExceeded"),
     ("RunInstances", "UnauthorizedOperation"), ("DeregisterImage", "UnauthorizedOperation")],
)  # fmt: skip
def test_a_job_that_is_refused_fails_with_the_words_of_ec2_and_leaves_nothing(world, action, code):
    world.stand_in.fail(action, "refuse", code=code)
    job = world.run_to_end(world.create().id)
    assert job.state is JobState.FAILED and code in job.error["message"]
    nothing_is_left(world, job)


@pytest.mark.parametrize("honours_tokens", [True, False])
def test_lost_replies_make_nothing_twice(world, honours_tokens):
    world.stand_in.honours_tokens = honours_tokens
    for action in ("RegisterImage", "RunInstances", "DeregisterImage", "DescribeInstances", "DescribeImages"):
        world.stand_in.fail(action, "lose_reply")
    the_clone_is_kept(world, world.run_to_end(world.create().id))
    assert len(world.stand_in.made("instance")) == len(world.stand_in.made("image")) == 1


def test_lost_replies_and_lists_that_lag_make_nothing_twice(world):
    world.stand_in.lag_s = 2
    world.stand_in.fail("RunInstances", "lose_reply")
    world.stand_in.fail("RegisterImage", "lose_reply")
    the_clone_is_kept(world, world.run_to_end(world.create().id))
    assert len(world.stand_in.made("instance")) == len(world.stand_in.made("image")) == 1


def test_twins_fail_the_job_and_both_go(world):
    """No token, no list, no reply: then EC2 makes two, and the job ends without either."""
    job = world.create()
    world.deliver()
    world.stand_in.honours_tokens, world.stand_in.lag_s, world.stand_in.end_s = False, 30, 5
    world.stand_in.fail("RunInstances", "lose_reply", times=2)
    while len(world.stand_in.made("instance")) < 2:
        world.deliver()
    world.clock.advance(31)
    job = world.run_to_end(job.id)
    assert job.state is JobState.FAILED and "client token" in job.error["message"]
    assert world.stand_in.most_alive(job.id) == len(world.stand_in.made("instance")) == 2
    assert (world.stand_in.instances(), world.stand_in.images(), world.stand_in.volumes()) == ({}, {}, [])
    assert all(effect.time <= job.end_time.timestamp() for effect in world.stand_in.effects)


def test_lost_replies_while_cleaning_up(world):
    world.stand_in.end_s = 5
    for action in ("TerminateInstances", "DeregisterImage"):
        world.stand_in.fail(action, "lose_reply")
    job = world.create()
    world.deliver(), world.deliver()
    world.cancel(job)
    job = world.run_to_end(job.id)
    assert job.state is JobState.CANCELLED
    nothing_is_left(world, job)


def test_volumes_that_outlive_their_instance_are_deleted_before_the_end(world):
    world.stand_in.leaves_volumes = True
    job = world.create()
    world.deliver(), world.deliver()
    assert len(world.stand_in.instances()) == 1
    world.cancel(job)
    job = world.run_to_end(job.id)
    assert job.state is JobState.CANCELLED
    nothing_is_left(world, job)


@pytest.mark.parametrize("every", [10, 3])
def test_a_throttled_run_ends(world, every):
    """Calls are refused for being too many, by chance; a job that has no attempts left is cleaned up all the same."""
    job = world.create()
    world.stand_in.fail(".*", "throttle", times=None, every=every)
    job = world.run_to_end(job.id)
    assert world.stand_in.faults.pop().hits > 0
    if every == 10:
        the_clone_is_kept(world, job)
    elif job.state is JobState.FAILED:
        assert "RequestLimitExceeded" in job.error["message"]
        nothing_is_left(world, job)


def test_ec2_that_is_out_of_capacity_is_asked_again(world):
    world.stand_in.fail("RunInstances", "busy", code="InsufficientInstanceCapacity", times=2)
    the_clone_is_kept(world, world.run_to_end(world.create().id))


def test_a_snapshot_that_is_gone_fails_the_job(world):
    job = world.create()
    world.stand_in.user.delete_snapshot(SnapshotId=world.kit.snapshots[1].key)
    job = world.run_to_end(job.id)
    assert job.state is JobState.FAILED and "InvalidSnapshot.NotFound" in job.error["message"]
    assert (world.stand_in.instances(), world.stand_in.images()) == ({}, {})


def test_two_clones_of_a_vm_get_their_own_names(world):
    first = world.run_to_end(world.create("one").id)
    second = world.run_to_end(world.create("two").id)
    assert {first.state, second.state} == {JobState.SUCCEEDED}
    assert set(world.stand_in.instances().values()) == {first.id, second.id}


def test_of_two_jobs_that_took_one_name_at_once_one_is_cleaned_up_whoever_dies(world):
    """Both found the name free, and the worker that was to yield died before it looked again. EC2 tells times to the
    second: where they are the same, either may have to yield, and never is one job's taken or left for the other's."""
    named = {
        "targetProject": "projects/p/locations/global/targetProjects/ec2",
        "vmName": "shop",
        "machineType": "e2-medium",
    }
    jobs = [world.create(vm=world.refer(name, defaults=named)).id for name in ("shop-1", "shop-2")]
    while not world.stand_in.instances():
        world.deliver()
    (kept,) = world.stand_in.instances()
    world.stand_in.hide(kept, 3600)
    with killed_after("target.create.instance"):
        while len(world.stand_in.instances()) < 2:
            world.deliver()
    world.stand_in.hide(kept, 0)
    ends = {job_id: world.run_to_end(job_id) for job_id in jobs}
    failed = [job for job in ends.values() if job.state is JobState.FAILED]
    assert failed and all("same moment" in job.error["message"] for job in failed)
    succeeded = sorted(set(jobs) - {job.id for job in failed})
    assert sorted(world.stand_in.instances().values()) == succeeded
    assert len(world.stand_in.volumes()) == len(world.kit.snapshots) * len(world.stand_in.instances())
    assert world.stand_in.images() == {}


def test_a_plan_that_cannot_work_is_refused_before_a_job_exists(world):
    vm = world.add_vm("raw-1", defaults={"targetProject": "projects/p/locations/global/targetProjects/ec2"},
                      policy={"skipOsAdaptation": True})  # fmt: skip
    world.upload(vm)
    with pytest.raises(Exception, match="registered by reference"):
        world.services.clone_jobs.create(vm, "clone-1", Request())
    assert world.stand_in.requests("RegisterImage") == []
