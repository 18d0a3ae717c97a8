"""The life of a clone job, with the broker in the test's hand: R1-R9 where one process can show them."""

import pytest
from harness import START, World

from models.states import JobState, LedgerState, Role, Verdict
from targets.base import ResourceKind
from tasks.errors import FailedPrecondition
from tasks.settle import Reason, settle
from tasks.steps import Result


def deleted_at_target(world, job):
    return [call for call in world.target.calls() if call.op == "delete" and call.job_id == job.id]


def test_a_clone_runs_its_steps_in_order_and_is_kept(world):
    job = world.create()
    assert (job.state, job.epoch, [step.start_time for step in job.steps]) == (JobState.PENDING, 1, [None] * 3)
    states = []
    while world.mail.messages:
        world.deliver()
        states.append(world.job(job.id).state)
    assert states == [JobState.ADAPTING_OS, JobState.ACTIVE, JobState.ACTIVE, JobState.SUCCEEDED]
    job = world.job(job.id)
    assert job.verdict is Verdict.SUCCEED and job.end_time and job.wake_at is None and job.lease_owner is None
    assert {row.role: row.state for row in job.ledger} == {
        Role.SCAFFOLD: LedgerState.ABSENT,
        Role.PRODUCT: LedgerState.KEPT,
    }
    assert world.kinds() == ["disk", "instance"]
    times = [time for step in job.steps for time in (step.start_time, step.end_time)]
    assert times == sorted(times)
    assert job.steps[-1].progress["boot"]["verdict"] == "BOOTED"


def test_nothing_is_sent_for_a_succeeded_job_whatever_arrives_late(world):
    job = world.create()
    seen = []
    while world.mail.messages:
        seen.append(world.mail.messages[0])
        world.deliver()
    before = len(world.target.calls())
    for message in [*seen, ("cleanup", job.id, 1), ("cleanup", job.id, 2)]:
        world.deliver(message)
    for reason in Reason:
        settle(world.runtime, job.id, job.epoch, reason, "late")
    with pytest.raises(FailedPrecondition, match="never touches its instance"):
        world.services.clone_jobs.cancel(job.name)
    world.clock.advance(100_000)
    world.reconcile()
    world.run()
    assert len(world.target.calls()) == before and world.job(job.id).state is JobState.SUCCEEDED


@pytest.mark.parametrize("delivered", [0, 1, 2, 3])
def test_cancel_between_any_two_steps_leaves_nothing(world, delivered):
    job = world.create()
    for _ in range(delivered):
        world.deliver()
    operation = world.services.clone_jobs.cancel(job.name)
    assert (operation.end_time is not None) == (delivered == 0)  # a job that owns nothing ends at once
    world.run()
    job = world.job(job.id)
    assert job.state is JobState.CANCELLED and not world.kinds()
    assert {row.state for row in job.ledger} == {LedgerState.ABSENT}
    done, _ = world.services.operations.get(operation.name)
    assert done.end_time and done.error is None
    assert world.services.clone_jobs.cancel(job.name).end_time  # again: succeeds again


@pytest.mark.parametrize("kind", list(ResourceKind))
def test_a_refused_create_fails_the_job_and_leaves_nothing(world, kind):
    world.target.boots_from_image = kind is ResourceKind.BOOT_IMAGE
    job = world.create()
    world.target.add_fault(op="create", kind=kind, fault="refuse")
    job = world.run_to_end(job.id)
    assert job.state is JobState.FAILED and not world.kinds()
    assert job.error["code"] == ("OS_ADAPTATION_ERROR" if kind is ResourceKind.ADAPTED_IMAGE else "CLONE_ERROR")
    assert "refused" in job.error["message"]
    # What was made before is deleted backwards: the instance before the disks, those before the image.
    assert [call.kind for call in deleted_at_target(world, job) if call.phase == "start"] == {
        ResourceKind.ADAPTED_IMAGE: [], ResourceKind.DISK: ["adapted_image"], ResourceKind.BOOT_IMAGE: ["adapted_image"],
        ResourceKind.INSTANCE: ["disk", "adapted_image"]}[kind]  # fmt: skip


def test_between_failure_and_absence_the_job_is_active_with_an_error(light):
    job = light.create()
    light.target.add_fault(op="create", kind="instance", fault="refuse")
    light.target.add_fault(op="delete", fault="fail", times=1)
    while light.job(job.id).verdict is None:
        light.deliver()
    job = light.job(job.id)
    assert job.state is JobState.ACTIVE and job.error and job.end_time is None
    light.run()
    waiting = light.job(job.id)
    assert waiting.end_time is None and "disk" in waiting.cleanup_detail and waiting.cleanup_attempts == 1
    assert light.run_to_end(job.id).state is JobState.FAILED and not light.kinds()


@pytest.mark.parametrize("fault", ["fail", "lose_reply", "half_made"])
@pytest.mark.parametrize("kind", list(ResourceKind))
def test_a_passing_fault_is_retried_and_makes_nothing_twice(world, kind, fault):
    world.target.boots_from_image = kind is ResourceKind.BOOT_IMAGE
    job = world.create()
    world.target.add_fault(op="create", kind=kind, fault=fault, times=2)
    job = world.run_to_end(job.id)
    kept = ["instance"] if kind is ResourceKind.BOOT_IMAGE else ["disk", "instance"]
    assert job.state is JobState.SUCCEEDED and world.kinds() == kept
    assert "attempt_failed" in [event.kind for event in world.services.clone_jobs.events(job.name)]


def test_a_fault_that_does_not_pass_fails_the_job_after_its_attempts(light):
    job = light.create()
    light.target.add_fault(op="create", kind="disk", fault="fail", times=None)
    job = light.run_to_end(job.id)
    assert job.state is JobState.FAILED and "gave up after 5 attempts" in job.error["message"] and not light.kinds()


def test_a_slow_target_gives_the_worker_slot_back(tmp_path):
    world = World(tmp_path, durations={ResourceKind.DISK: 30})
    world.set_up()
    job = world.create()
    world.deliver()
    assert world.deliver().result is Result.AGAIN
    waiting = world.job(job.id)
    assert (
        waiting.lease_owner is None
        and waiting.next_check_at
        and waiting.steps[1].progress["detail"].startswith("waiting")
    )
    early = ("step", job.id, 1, 1)
    world.clock.now = waiting.next_check_at.replace() - (waiting.next_check_at - START) / 2
    assert (
        world.deliver(early).result is Result.DROPPED
    )  # a duplicate that is too early starts no second stream of looks
    assert world.run_to_end(job.id).state is JobState.SUCCEEDED
    world.close()
