"""How a job ends: who was first, what is not ours, clean-up that cannot finish."""

import pytest
from harness import World

from models.states import JobState, LedgerState, Verdict
from models.store import Lease, NotReady, StaleWrite
from targets.base import ResourceKind, ResourceRef
from targets.errors import TombstonedError
from tasks.plan import spec_of
from tasks.steps import Result


def take_lease(world, job, position=0):
    claimed = world.runtime.store.claim_step(job.id, job.epoch, position, "zombie")
    return claimed, Lease(job.id, claimed.epoch, "zombie")


def test_success_wins_over_a_later_cancel_and_cancel_over_a_later_success(light):
    job = light.create()
    for _ in range(3):
        light.deliver()
    claimed, lease = take_lease(light, light.job(job.id), 3)
    light.services.clone_jobs.cancel(job.name)
    with pytest.raises(StaleWrite):
        light.runtime.store.succeed(lease)
    assert light.job(job.id).verdict is Verdict.CANCEL


def test_success_needs_every_scaffold_gone_and_every_product_seen(light):
    job = light.create()
    for _ in range(3):
        light.deliver()
    _, lease = take_lease(light, light.job(job.id), 3)
    with pytest.raises(NotReady, match="adapted_image"):
        light.runtime.store.succeed(lease)
    assert light.job(job.id).verdict is None


@pytest.mark.parametrize("kind", ["instance", "disk"])
def test_a_product_that_somebody_deleted_meanwhile_fails_the_job(light, kind):
    job = light.create()
    for _ in range(3):
        light.deliver()
    row = next(row for row in job.ledger if row.kind == kind)
    light.target.remove_by_hand(ResourceRef(ResourceKind(kind), row.name))
    job = light.run_to_end(job.id)
    assert job.state is JobState.FAILED and "did not stay" in job.error["message"] and not light.kinds()


def test_a_resource_of_somebody_else_under_our_name_is_left_alone(light):
    job = light.create()
    name = next(row.name for row in job.ledger if row.kind == "instance")
    light.target.foreign(ResourceKind.INSTANCE, name, {"owner": "a user"})
    job = light.run_to_end(job.id)
    assert job.state is JobState.FAILED and "was not made by this job" in job.error["message"]
    left = light.target.find(ResourceRef(ResourceKind.INSTANCE, name))
    assert left.labels == {"owner": "a user"}
    assert "left alone" in next(row.detail for row in job.ledger if row.kind == "instance")


def test_an_instance_that_a_user_made_anew_under_our_name_is_left_alone_even_with_our_label(light):
    job = light.create()
    for _ in range(3):
        light.deliver()
    row = next(row for row in job.ledger if row.kind == "instance")
    ref = ResourceRef(ResourceKind.INSTANCE, row.name)
    light.target.remove_by_hand(ref)
    light.target.foreign(ResourceKind.INSTANCE, row.name, {"clonejob-id": job.id})
    light.services.clone_jobs.cancel(job.name)
    assert light.run_to_end(job.id).state is JobState.CANCELLED
    assert light.target.find(ref) is not None


def test_what_a_lost_reply_created_is_found_and_deleted(light):
    job = light.create()
    light.deliver()
    light.target.add_fault(op="create", kind="disk", fault="lose_reply")
    assert light.deliver().result is Result.AGAIN
    assert light.job(job.id).ledger[1].state is LedgerState.INTENDED and light.job(job.id).ledger[1].uid is None
    light.services.clone_jobs.cancel(job.name)
    assert light.run_to_end(job.id).state is JobState.CANCELLED and not light.kinds()


def test_a_create_that_lands_after_clean_up_began_makes_nothing(light):

    job = light.create()
    light.deliver()
    light.services.clone_jobs.cancel(job.name)
    light.run()
    with pytest.raises(TombstonedError):
        light.target.create(spec_of(job, job.ledger[1]))
    assert not light.kinds()


def test_clean_up_goes_on_for_ever_with_growing_pauses_and_says_why(light):
    job = light.create()
    light.deliver(), light.deliver()
    light.target.add_fault(op="delete", kind="disk", fault="fail", times=None)
    light.services.clone_jobs.cancel(job.name)
    pauses = []
    for _ in range(12):
        light.run()
        waiting = light.job(job.id)
        assert waiting.state is JobState.CANCELLING and "disk" in waiting.cleanup_detail
        pauses.append((waiting.wake_at - light.clock()).total_seconds())
        light.clock.now = waiting.wake_at
        light.reconcile()
    assert pauses[0] < 2 and pauses[-1] > 200 and max(pauses) <= 300 * 1.2
    light.target.clear_faults()
    assert light.run_to_end(job.id).state is JobState.CANCELLED and not light.kinds()


def test_once_the_target_answers_again_clean_up_does_not_wait_as_it_did_for_a_dead_one(tmp_path):
    slow = {ResourceKind.DISK: 0.7, ResourceKind.INSTANCE: 0.7, ResourceKind.ADAPTED_IMAGE: 0.7}
    world = World(tmp_path, delete_durations=slow)
    world.set_up()
    job = world.create()
    for _ in range(3):
        world.deliver()
    world.target.add_fault(op="find", fault="fail", times=None)
    world.services.clone_jobs.cancel(job.name)
    for _ in range(12):
        world.run()
        waiting = world.job(job.id)
        world.clock.now = waiting.wake_at
        world.reconcile()
    assert waiting.cleanup_attempts == 12
    world.target.clear_faults()
    back_at = world.clock.now
    assert world.run_to_end(job.id).state is JobState.CANCELLED and not world.target.everything()
    assert (world.clock.now - back_at).total_seconds() < 30, "it waited minutes for deletes that take a second"
    world.close()


def test_a_delete_that_is_taken_and_does_nothing_is_asked_for_with_growing_pauses(light, monkeypatch):
    job = light.create()
    light.deliver(), light.deliver()
    monkeypatch.setattr(light.target, "delete", lambda *_, **__: None)
    light.services.clone_jobs.cancel(job.name)
    for _ in range(8):
        light.run()
        waiting = light.job(job.id)
        pause_s = (waiting.wake_at - light.clock()).total_seconds()
        light.clock.now = waiting.wake_at
        light.reconcile()
    assert waiting.cleanup_attempts == 8 and pause_s > 60


def test_clean_up_on_a_target_that_is_not_configured_waits_and_says_so(light):
    job = light.create()
    light.deliver()
    targets = dict(light.runtime.targets)
    light.runtime.targets.clear()
    light.services.clone_jobs.cancel(job.name)
    light.run()
    assert "not configured" in light.job(job.id).cleanup_detail
    light.runtime.targets.update(targets)
    assert light.run_to_end(job.id).state is JobState.CANCELLED and not light.kinds()


def test_slow_deletes_are_waited_for(tmp_path):
    world = World(tmp_path, delete_durations={ResourceKind.DISK: 10, ResourceKind.INSTANCE: 10})
    world.set_up()
    job = world.create()
    for _ in range(3):
        world.deliver()
    world.services.clone_jobs.cancel(job.name)
    world.run()
    assert world.job(job.id).end_time is None and "still deleting" in world.job(job.id).cleanup_detail
    assert world.run_to_end(job.id).state is JobState.CANCELLED and not world.target.everything()
    world.close()


@pytest.mark.parametrize("vm_defaults", [{"vmName": "my-clone"}, {"hostname": "h.example"}, {}])
def test_names_follow_the_users_wish_or_the_job(light, vm_defaults):
    vm = light.add_vm("web-2", defaults=vm_defaults)
    light.upload(vm)
    job = light.create(vm=vm)
    instance = next(row for row in job.ledger if row.kind == "instance")
    assert instance.name == vm_defaults.get("vmName", instance.name) and instance.name.startswith(
        ("my-clone", "web-2-")
    )
    assert instance.spec["hostname"] == vm_defaults.get("hostname", instance.name)
    light.run()
    assert light.job(job.id).state is JobState.SUCCEEDED


def test_a_second_clone_under_the_same_wished_name_fails_and_leaves_the_first_alone(light):
    vm = light.add_vm("web-2", defaults={"vmName": "my-clone"})
    light.upload(vm)
    first = light.create("one", vm)
    light.run()
    second = light.create("two", vm)
    second = light.run_to_end(second.id)
    assert second.state is JobState.FAILED and "my-clone exists" in second.error["message"]
    assert light.target.find(ResourceRef(ResourceKind.INSTANCE, "my-clone")).job_id == first.id


def test_a_scaffold_that_a_frozen_worker_makes_late_does_not_come_back_after_success(light):

    job = light.create()
    light.run()
    with pytest.raises(TombstonedError):
        light.target.create(spec_of(job, job.ledger[0]))
    assert light.kinds() == ["disk", "instance"]


def test_an_instance_that_powered_itself_off_is_a_clone_all_the_same(light):
    job = light.create()
    for _ in range(3):
        light.deliver()
    light.target.power_off(ResourceRef(ResourceKind.INSTANCE, job.ledger[-1].name))
    light.run()
    assert light.job(job.id).state is JobState.SUCCEEDED
