"""A worker that has been told to stop hands its job back between two calls; another one goes on at once."""

from __future__ import annotations

import dataclasses

import pytest

from models.states import JobState
from tasks import cleanup, steps
from tasks.steps import Result


def told_to_stop_after(world, looks):
    """The runtime of a worker that is told to stop once its lease was looked at so often."""
    count = iter(range(looks))
    return dataclasses.replace(world.runtime, draining=lambda: next(count, None) is None)


@pytest.mark.parametrize("looks", range(6))
def test_a_step_is_handed_back_and_made_once(world, looks):
    job = world.create()
    for position in range(3):
        ending = steps.run_step(told_to_stop_after(world, looks), job.id, job.epoch, position)
        if ending.result is Result.AGAIN:
            at = world.job(job.id)
            assert (ending.pause_s, at.lease_owner, at.attempts, at.epoch) == (0.0, None, 0, job.epoch)
            assert at.next_check_at is None  # another machine's clock may be behind
            while (ending := steps.run_step(world.runtime, job.id, job.epoch, position)).result is Result.AGAIN:
                world.clock.advance(ending.pause_s)
        assert ending.result is Result.DONE
    assert steps.run_step(told_to_stop_after(world, 0), job.id, job.epoch, 3).result is Result.AGAIN
    assert steps.run_step(world.runtime, job.id, job.epoch, 3).result is Result.DONE
    assert world.job(job.id).state is JobState.SUCCEEDED and world.kinds() == ["disk", "instance"]
    made = [call.name for call in world.target.calls() if call.op == "create" and call.phase == "effect"]
    assert len(made) == len(set(made))


def test_so_many_deploys_that_a_step_never_ends_are_no_failed_attempts(world):
    job = world.create()
    for _ in range(3 * world.runtime.pacing.step_attempts):
        assert steps.run_step(told_to_stop_after(world, 0), job.id, job.epoch, 0).result is Result.AGAIN
    world.target.add_fault(op="create", fault="fail", times=1)
    world.mail.messages = [("step", job.id, job.epoch, 0)]
    assert world.run_to_end(job.id).state is JobState.SUCCEEDED


@pytest.mark.parametrize("looks", range(4))
def test_a_clean_up_is_handed_back_and_sent_again(world, looks):
    job = world.create()
    world.deliver()
    world.deliver()
    world.services.clone_jobs.cancel(job.name)
    while ("cleanup", job.id) != world.mail.messages[0][:2]:
        world.deliver()
    kind, *message = world.mail.messages.pop(0)
    cleanup.run_cleanup(told_to_stop_after(world, looks), *message)
    at = world.job(job.id)
    assert at.lease_owner is None and (kind, job.id, at.epoch) in world.mail.messages
    world.run()
    assert world.job(job.id).state is JobState.CANCELLED and not world.kinds()


def test_a_cancel_that_comes_first_wins(world):
    job = world.create()
    world.deliver()

    def cancelled():
        world.services.clone_jobs.cancel(job.name)
        return True

    ending = steps.run_step(dataclasses.replace(world.runtime, draining=cancelled), job.id, job.epoch, 1)
    assert ending.result is Result.DROPPED
    world.run()
    assert world.job(job.id).state is JobState.CANCELLED and not world.kinds()
