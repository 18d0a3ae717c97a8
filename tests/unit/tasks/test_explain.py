"""Explain, for each state that a job can be found in."""

from __future__ import annotations

import pytest
from harness import World

from models.states import Verdict
from models.store import Lease
from targets.base import ResourceKind
from tasks.errors import NotFound
from tasks.runtime import Pacing


def explain(world, job):
    return world.services.explain.explain(job.name)


def waits(world, job):
    found = explain(world, job)
    assert found.next_steps and found.summary.endswith(".")
    return found.waits.reason, found


def test_queued(light):
    job = light.create()
    reason, found = waits(light, job)
    assert (reason, found.waits.since, found.waits.holder) == ("QUEUED", job.create_time, None)
    assert "no worker has taken it yet" in found.summary
    light.clock.advance(60)
    light.reconcile()
    assert "asked for 1 more times" in explain(light, job).summary


def test_working(light):
    job = light.create()
    light.runtime.store.claim_step(job.id, 1, 0, "host:7/abc")
    reason, found = waits(light, job)
    assert (reason, found.waits.holder, found.waits.since) == ("WORKING", "host:7/abc", light.clock())
    assert "host:7/abc works on step adapting os" in found.summary


def test_a_lost_lease_and_the_step_to_be_repeated(light):
    job = light.create()
    light.runtime.store.claim_step(job.id, 1, 0, "host:7/abc")
    light.clock.advance(20)
    assert waits(light, job)[0] == "LEASE_EXPIRED"
    light.reconcile()
    reason, found = waits(light, job)
    assert reason == "QUEUED" and "host:7/abc did not come back" in found.summary


def test_waiting_for_the_target(tmp_path):
    world = World(tmp_path, durations={ResourceKind.ADAPTED_IMAGE: 100.0})
    world.set_up()
    job = world.create()
    world.deliver()
    reason, found = waits(world, job)
    assert reason == "WAITING_FOR_TARGET" and "waiting for adapted_image" in found.summary
    assert found.waits.until is not None and [each.state for each in found.left] == ["INTENDED"]
    world.close()


def test_retrying(light):
    light.target.add_fault(op="create", fault="fail")
    job = light.create()
    light.deliver()
    reason, found = waits(light, job)
    assert (reason, found.waits.attempts) == ("RETRYING", 1)
    assert "attempt 1:" in found.summary


def test_between_two_steps(light):
    job = light.create()
    light.deliver()
    reason, found = waits(light, job)
    assert reason == "QUEUED" and "step preparing vm disks" in found.summary


def test_cancelled_while_a_worker_is_at_it(light):
    job = light.create()
    light.runtime.store.claim_step(job.id, 1, 0, "host:7/abc")
    light.services.clone_jobs.cancel(job.name)
    reason, found = waits(light, job)
    assert reason == "WAITING_FOR_WORKER" and found.summary.startswith("It was cancelled, and")


def test_waiting_for_the_fence(light):
    job = light.create()
    light.runtime.store.claim_step(job.id, 1, 0, "host:7/abc")
    light.clock.advance(16)
    light.reconcile()
    light.services.clone_jobs.cancel(job.name)
    reason, found = waits(light, job)
    assert reason == "WAITING_FOR_FENCE" and "may still land until" in found.summary
    light.clock.advance(60)
    assert waits(light, job)[0] == "CLEANUP_QUEUED"


def test_cleaning_and_waiting_clean_up(light):
    job = light.create()
    light.deliver()
    light.services.clone_jobs.cancel(job.name)
    lease = Lease(job.id, 3, "host:9/def")
    light.runtime.store.claim_cleanup(job.id, 2, "host:9/def")
    assert waits(light, job)[0] == "CLEANING_UP"
    light.runtime.store.pause_cleanup(lease, 60, "disk d: the provider says no", attempts=1)
    reason, found = waits(light, job)
    assert (reason, found.waits.attempts) == ("CLEANUP_WAITS", 1)
    assert "disk d: the provider says no" in found.summary
    assert (found.waits.until - light.clock()).total_seconds() == 60


def test_cancelled(light):
    job = light.create()
    light.deliver()
    light.services.clone_jobs.cancel(job.name)
    light.run_to_end(job.id)
    found = explain(light, job)
    assert (found.state, found.waits, found.failure, found.left, found.kept) == ("CANCELLED", None, None, (), ())
    assert found.summary.startswith("It was cancelled; nothing that it made exists any more, as seen at 2026-01-01")
    assert [each.kind for each in found.cleaned] == ["adapted_image", "disk", "instance"]
    assert all(each.absent_time for each in found.cleaned)


def test_cancelled_before_anything_began(light):
    job = light.create()
    light.services.clone_jobs.cancel(job.name)
    assert explain(light, job).summary == "It was cancelled; it had made nothing."


@pytest.mark.parametrize("fault", ["refuse", "fail"])
def test_failed(tmp_path, fault):
    world = World(tmp_path, pacing=Pacing(inline_wait_s=0.0, poll_s=1.0, step_attempts=3, retry_pause_s=0.1))
    world.set_up()
    world.target.add_fault(op="create", fault=fault, kind="disk", times=None)
    job = world.create()
    world.run_to_end(job.id)
    found = explain(world, job)
    assert (found.state, found.failure.step, found.failure.code) == ("FAILED", "preparing_vm_disks", "CLONE_ERROR")
    assert found.failure.attempts == (1 if fault == "refuse" else 3)
    assert found.summary.startswith("It failed in step preparing vm disks: ")
    assert "nothing that it made exists any more" in found.summary and found.next_steps == (found.failure.action,)
    world.close()


def test_failing(light):
    job = light.create()
    light.runtime.store.claim_step(job.id, 1, 0, "w/1")
    error = {"code": "CLONE_ERROR", "message": "no room", "action": "Make room."}
    light.runtime.store.settle(job.id, Verdict.FAIL, epoch=1, lease=Lease(job.id, 1, "w/1"), error=error)
    reason, found = waits(light, job)
    assert reason == "CLEANUP_QUEUED" and found.summary.startswith("It was failed (no room), and what it made")


def test_succeeded(light):
    job = light.create()
    light.run()
    found = explain(light, job)
    assert (found.state, [each.kind for each in found.kept]) == ("SUCCEEDED", ["disk", "instance"])
    assert [each.kind for each in found.cleaned] == ["adapted_image"] and found.left == ()
    assert "never touches it again" in found.summary


def test_an_unknown_job(light):
    with pytest.raises(NotFound):
        light.services.explain.explain(light.create().name + "x")
