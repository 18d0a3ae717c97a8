"""A wall clock that is set back, as time servers do: what is written down stays in order (R6)."""

import pytest

from models.states import JobState
from targets.base import ResourceKind, Status


def times(job):
    steps = [time for step in job.steps for time in (step.start_time, step.end_time)]
    return [time for time in (job.create_time, *steps, job.verdict_time, job.end_time) if time is not None]


def set_back_between_messages(world):
    while world.mail.messages:
        world.clock.advance(-5)
        world.deliver()


def test_times_of_a_success_never_go_backwards(world):
    job = world.create()
    set_back_between_messages(world)
    job = world.job(job.id)
    assert job.state is JobState.SUCCEEDED and times(job) == sorted(times(job))


@pytest.mark.parametrize("delivered", [0, 1, 2, 3])
def test_times_of_a_cancel_never_go_backwards(light, delivered):
    job = light.create()
    for _ in range(delivered):
        light.clock.advance(-5)
        light.deliver()
    light.clock.advance(-5)
    operation = light.services.clone_jobs.cancel(job.name)
    set_back_between_messages(light)
    job = light.run_to_end(job.id)
    assert job.state is JobState.CANCELLED and times(job) == sorted(times(job))
    done, _ = light.services.operations.get(operation.name)
    assert done.end_time >= done.create_time


def test_times_of_a_failure_never_go_backwards(light):
    job = light.create()
    light.target.add_fault(op="create", kind=ResourceKind.INSTANCE, fault="refuse")
    set_back_between_messages(light)
    job = light.run_to_end(job.id)
    assert job.state is JobState.FAILED and times(job) == sorted(times(job))


def test_what_the_simulated_target_made_at_once_stays_ready(light):
    light.create()
    light.deliver(), light.deliver()
    light.clock.advance(-5)
    assert {each.status for each in light.target.everything()} == {Status.READY}
