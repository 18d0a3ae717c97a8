"""Lost, duplicate and late messages; workers that die or freeze: who may write, and what is repeated."""

import pytest

from models.states import JobState
from models.store import Lease, StaleWrite
from tasks import steps
from tasks.settle import Reason, settle
from tasks.steps import Result


def take_lease(world, job, position=0):
    claimed = world.runtime.store.claim_step(job.id, job.epoch, position, "zombie")
    return claimed, Lease(job.id, claimed.epoch, "zombie")


def test_a_job_whose_message_was_lost_is_found_by_the_reconciler(world):
    world.mail.broken = True
    job = world.create()
    assert not world.mail.messages and world.job(job.id).state is JobState.PENDING
    world.mail.broken = False
    assert world.run_to_end(job.id).state is JobState.SUCCEEDED


def test_every_message_lost_once_still_ends(world):
    job = world.create()
    for _ in range(20):
        if world.job(job.id).end_time:
            break
        world.mail.messages.clear()
        world.clock.now = world.job(job.id).wake_at
        world.reconcile()
        world.deliver()
    assert world.job(job.id).state is JobState.SUCCEEDED


def test_the_pause_between_messages_for_an_idle_job_grows_and_its_epoch_stays(light):
    job = light.create()
    pauses = []
    for _ in range(6):
        before = light.job(job.id)
        light.clock.now = before.wake_at
        light.reconcile()
        after = light.job(job.id)
        pauses.append((after.wake_at - before.wake_at).total_seconds())
        assert after.epoch == 1
    assert pauses == [40, 80, 160, 320, 320, 320], "messages may have been lost each time: an hour is too long"
    light.run()  # seven messages for one job
    assert light.job(job.id).state is JobState.SUCCEEDED
    assert sum(call.op == "create" and call.phase == "effect" for call in light.target.calls()) == 3


def test_duplicates_of_every_message_are_absorbed(world):
    job = world.create()
    while world.mail.messages:
        message = world.mail.messages[0]
        world.deliver()
        assert world.deliver(message).result is Result.DROPPED
    assert world.job(job.id).state is JobState.SUCCEEDED
    made = [call for call in world.target.calls() if call.phase == "effect" and call.outcome == "made"]
    assert sorted(call.kind for call in made) == ["adapted_image", "disk", "instance"]


def test_a_message_for_a_later_step_is_dropped(light):
    job = light.create()
    assert light.deliver(("step", job.id, 1, 2)).result is Result.DROPPED
    assert light.deliver(("step", job.id, 1, 3)).result is Result.DROPPED
    assert light.deliver(("step", "unknown", 1, 0)).result is Result.DROPPED
    assert light.job(job.id).state is JobState.PENDING


def test_a_lost_lease_is_taken_over_under_a_new_epoch_and_the_zombie_cannot_write(world):
    job = world.create()
    world.mail.messages.clear()
    _, zombie = take_lease(world, job)
    world.reconcile()
    assert world.job(job.id).epoch == 1  # the lease still holds
    world.clock.advance(16)
    world.reconcile()
    assert world.job(job.id).epoch == 2
    store = world.runtime.store
    for write in (
        lambda: store.renew(zombie),
        lambda: store.mark_intended(zombie, 0),
        lambda: store.mark_created(zombie, 0, "uid"),
        lambda: store.note_progress(zombie, 0, percent=1, detail="x"),
        lambda: store.complete_step(zombie, 0),
        lambda: store.pause_step(zombie, 1),
        lambda: store.succeed(zombie),
    ):
        with pytest.raises(StaleWrite):
            write()
    assert world.job(job.id).stale_writes == 7
    assert store.give_back(zombie) is None
    assert world.run_to_end(job.id).state is JobState.SUCCEEDED


def test_a_step_that_kills_its_worker_each_time_fails_after_its_attempts(light):
    job = light.create()
    for _ in range(5):
        light.mail.messages.clear()
        job = light.job(job.id)
        assert light.runtime.store.claim_step(job.id, job.epoch, 0, f"victim {job.epoch}")
        light.clock.advance(16)
        light.reconcile()
    job = light.run_to_end(job.id)
    assert job.state is JobState.FAILED and "did not come back 5 times" in job.error["message"]


def test_clean_up_waits_for_a_lease_that_nobody_gives_back_and_for_one_provider_call(light):
    job = light.create()
    light.deliver()
    _, zombie = take_lease(light, light.job(job.id), 1)
    light.services.clone_jobs.cancel(job.name)
    light.mail.messages.clear()
    cancelled = light.job(job.id)
    assert cancelled.state is JobState.CANCELLING
    assert light.deliver(("cleanup", job.id, cancelled.epoch)) is False
    light.clock.advance(15 + 29)
    assert light.deliver(("cleanup", job.id, cancelled.epoch)) is False
    assert light.kinds() == ["adapted_image"]
    light.clock.advance(2)
    assert light.deliver(("cleanup", job.id, cancelled.epoch)) is True
    assert light.job(job.id).state is JobState.CANCELLED and not light.kinds()


def test_clean_up_begins_at_once_when_the_holder_gives_its_lease_back(light):
    job = light.create()
    light.deliver()
    _, holder = take_lease(light, light.job(job.id), 1)
    light.services.clone_jobs.cancel(job.name)
    light.mail.messages.clear()
    with pytest.raises(StaleWrite):
        light.runtime.store.renew(holder)  # how it hears of the cancel
    steps._hand_back(light.runtime, holder)
    assert [message[0] for message in light.mail.messages] == ["cleanup"]
    light.run()
    assert light.job(job.id).state is JobState.CANCELLED


def test_an_absence_seen_while_a_lost_workers_call_may_land_does_not_count(light):
    """A worker froze, its lease was taken over, then the job is cancelled and the new holder gives its lease back."""
    job = light.create()
    light.mail.messages.clear()
    take_lease(light, job)
    light.clock.advance(16)
    light.reconcile()
    fence = light.job(job.id).fence_until
    assert fence > light.clock()
    light.services.clone_jobs.cancel(job.name)
    assert light.deliver(("cleanup", job.id, light.job(job.id).epoch)) is False
    assert light.job(job.id).wake_at == fence
    job = light.run_to_end(job.id)
    assert job.state is JobState.CANCELLED and job.end_time >= fence


def test_a_lost_clean_up_is_repeated_after_its_lease_alone(light):
    job = light.create()
    light.deliver(), light.deliver()
    light.services.clone_jobs.cancel(job.name)
    light.mail.messages.clear()
    cancelled = light.job(job.id)
    assert light.runtime.store.claim_cleanup(job.id, cancelled.epoch, "dies")
    light.clock.advance(16)
    light.reconcile()
    light.run()
    assert light.job(job.id).state is JobState.CANCELLED and not light.kinds()


@pytest.mark.parametrize("reason", [Reason.WORKER_LOST, Reason.TIME_LIMIT, Reason.TASK_FAILED])
def test_a_reported_death_is_repaired_without_waiting_for_the_lease(light, reason):
    job = light.create()
    light.mail.messages.clear()
    take_lease(light, job)
    settle(light.runtime, job.id, 1, reason, "SIGKILL")
    settle(light.runtime, job.id, 1, reason, "SIGKILL")  # hooks are at-least-once
    assert light.mail.messages == [("step", job.id, 2, 0)]
    light.run()
    assert light.job(job.id).state is JobState.SUCCEEDED


def test_a_next_link_that_was_not_published_is_sent_again(light):
    job = light.create()
    light.deliver()
    light.mail.messages.clear()
    settle(light.runtime, job.id, 1, Reason.TASK_FAILED, "the broker was down")
    assert light.mail.messages == [("step", job.id, 1, 1)]


def test_a_revoked_task_cancels_its_job(light):
    job = light.create()
    light.deliver()
    settle(light.runtime, job.id, 1, Reason.REVOKED, "from Flower")
    light.run()
    assert light.job(job.id).state is JobState.CANCELLED and not light.kinds()


def test_a_late_report_about_an_earlier_step_does_not_disturb_the_one_at_work(light):
    job = light.create()
    light.deliver(), light.deliver()
    take_lease(light, light.job(job.id), 2)
    light.mail.messages.clear()
    for position in (0, 1):
        settle(light.runtime, job.id, 1, Reason.WORKER_LOST, "late", position)
    at_work = light.job(job.id)
    assert (at_work.epoch, at_work.lease_owner) == (1, "zombie") and not light.mail.messages
    settle(light.runtime, job.id, 1, Reason.WORKER_LOST, "now", 2)
    assert light.mail.messages == [("step", job.id, 2, 2)]
