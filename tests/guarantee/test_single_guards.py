"""Guards that stand behind others: each one by itself, because the others would hide that it is gone."""

import time
from collections import Counter

import pytest
from guarantee.machine_stage import Interrupt, Stage, Worker
from sqlalchemy.exc import OperationalError

from models import io_points
from models.states import JobState, LedgerState
from models.store import Lease, NotReady, StaleWrite
from targets.base import LABEL_JOB_ID, ResourceKind
from tasks import steps
from tasks.lease import HeldLease
from tasks.plan import ref_of, spec_of
from tasks.settle import Reason, settle
from tasks.steps import Result


def take_lease(world, job, position=0, owner="zombie"):
    claimed = world.runtime.store.claim_step(job.id, job.epoch, position, owner)
    return Lease(job.id, claimed.epoch, owner)


def creates(world):
    return [call for call in world.target.calls() if call.op == "create" and call.phase == "start"]


def test_a_holder_of_the_same_epoch_who_gave_his_lease_back_cannot_write(world):
    job = world.create()
    earlier = take_lease(world, job)
    world.runtime.store.pause_step(earlier, 0.0)
    later = take_lease(world, job, owner="the next one")
    assert earlier.epoch == later.epoch
    for write in (
        lambda: world.runtime.store.renew(earlier),
        lambda: world.runtime.store.mark_intended(earlier, 0),
        lambda: world.runtime.store.complete_step(earlier, 0),
    ):
        with pytest.raises(StaleWrite):
            write()
    assert world.runtime.store.give_back(earlier) is None
    world.runtime.store.mark_intended(later, 0)


def test_clean_up_does_not_end_while_anything_is_not_seen_absent(world):
    job = world.create()
    world.deliver(), world.deliver()
    world.services.clone_jobs.cancel(job.name)
    cancelled = world.job(job.id)
    claimed = world.runtime.store.claim_cleanup(job.id, cancelled.epoch, "cleaner")
    lease = Lease(job.id, claimed.epoch, "cleaner")
    with pytest.raises(NotReady, match="still there"):
        world.runtime.store.finish_cleanup(lease)
    assert world.job(job.id).state is JobState.CANCELLING


def test_a_product_is_not_marked_for_deletion_before_a_verdict(world):
    job = world.create()
    world.deliver(), world.deliver()
    lease = take_lease(world, job, 2)
    with pytest.raises(NotReady):
        world.runtime.store.mark_deleting(lease, 1)


def test_a_clean_up_message_for_a_job_without_a_verdict_is_dropped(world):
    job = world.create()
    world.deliver(), world.deliver()
    assert world.deliver(("cleanup", job.id, job.epoch)) is False
    assert world.job(job.id).epoch == job.epoch and world.kinds() == ["adapted_image", "disk"]


def test_nothing_is_published_before_the_row_is_committed(light):
    def fail(point, phase):
        if (point, phase) == ("store.create_job", "before"):
            raise OperationalError(point, {}, Exception("injected"))

    io_points.install_hook(fail)
    try:
        with pytest.raises(OperationalError):
            light.create()
    finally:
        io_points.install_hook(None)
    assert not light.mail.messages


def test_what_is_there_already_is_adopted_without_another_create(light):
    job = light.create()
    light.deliver()
    light.target.add_fault(op="create", kind="disk", fault="lose_reply")
    assert light.deliver().result is Result.AGAIN
    before = len(creates(light))
    assert light.deliver().result is Result.DONE
    assert len(creates(light)) == before
    row = light.job(job.id).ledger[1]
    assert row.state is LedgerState.CREATED and row.uid


def test_a_resource_that_a_user_made_anew_is_not_adopted_by_a_repeated_step(light):
    """The step is repeated because its worker was lost; meanwhile a user put something else, with our label, there."""
    job = light.create()
    light.deliver(), light.deliver()
    lease = take_lease(light, light.job(job.id), 2)
    row = light.job(job.id).ledger[2]
    seen = light.target.create(spec_of(light.job(job.id), row))
    light.runtime.store.mark_intended(lease, 2)
    light.runtime.store.mark_created(lease, 2, seen.uid)
    users = light.target.foreign(ResourceKind.INSTANCE, row.name, {LABEL_JOB_ID: job.id})
    job = light.run_to_end(job.id)
    assert job.state is JobState.FAILED and "was not made by this job" in job.error["message"]
    assert light.target.find(ref_of(row)).uid == users.uid


def test_a_message_that_no_worker_can_read_does_not_multiply(light):
    """Each attempt fails before it claims, and is reported twice, by the signal and by link_error."""
    job = light.create()
    for _ in range(8):
        for message in [each for each in light.mail.messages if each[0] == "step"]:
            light.mail.messages.remove(message)
            for _ in range(2):
                settle(light.runtime, job.id, 1, Reason.TASK_FAILED, "TypeError", message[3])
    assert not light.mail.messages
    assert light.run_to_end(job.id).state is JobState.SUCCEEDED  # a worker of the right revision came


def test_a_lease_is_renewed_while_its_holder_works(light):
    job = light.create()
    lease = take_lease(light, job)
    with HeldLease(light.runtime, lease):
        light.clock.advance(10)
        claimed_until = light.job_quietly(job.id).lease_expires_at
        give_up_at = time.monotonic() + 60
        while light.job_quietly(job.id).lease_expires_at <= claimed_until and time.monotonic() < give_up_at:
            time.sleep(0.05)  # the renewal is a thread of the real world
        assert light.job_quietly(job.id).lease_expires_at > claimed_until


@pytest.fixture
def stage(tmp_path):
    stage = Stage(tmp_path, "", Counter())
    stage.set_up()
    yield stage
    stage.close()


def test_a_worker_that_wakes_up_after_its_lease_asks_before_it_calls(stage):
    job = stage.create()
    message = stage.mail.messages.pop()
    worker = Worker(stage, message, lambda: steps.run_step(stage.runtime, *message[1:]))
    stage.played(worker.play(Interrupt("freeze", 0)))
    while worker.frozen_at != "store.mark_intended after":
        assert not worker.ended
        stage.resume(worker, Interrupt("freeze", 0))
    stage.wait(100)
    stage.reconcile()
    assert stage.job(job.id).epoch == 2
    stage.resume(worker)
    assert worker.result.result is Result.DROPPED
    assert not creates(stage)


def test_a_step_at_which_somebody_works_is_not_claimed(world):
    job = world.create()
    take_lease(world, job)
    assert world.runtime.store.claim_step(job.id, job.epoch, 0, "another") is None
    assert world.job(job.id).lease_owner == "zombie"


def test_a_late_report_does_not_take_the_lease_of_the_step_at_work(light):
    job = light.create()
    light.deliver(), light.deliver()
    take_lease(light, light.job(job.id), 2)
    for position in (0, 1):
        settle(light.runtime, job.id, 1, Reason.WORKER_LOST, "late", position)
    assert light.job(job.id).lease_expires_at > light.clock()
