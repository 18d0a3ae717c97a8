"""The orphan auditor: what it reports, and what proof it needs before it deletes."""

import datetime as dt

from audit_world import cancelled, deletes, lands_late, look, succeeded
from harness import World

from models.orphans import OrphanStore
from models.states import JobState
from targets.base import ResourceKind
from tasks.audit import audit_periodically
from tasks.orphans import Proof, Why
from tasks.target_calls import TargetCalls


def test_a_service_in_order_has_nothing_to_report(world):
    succeeded(world)
    cancelled(world, "clone-2")
    running = world.create("clone-3")
    world.deliver()
    found = look(world)
    assert not found.orphans and not found.missing and not found.strangers and not found.cleanups
    assert [(each.good, each.things) for each in found.targets] == [(True, 3)], world.job(running.id).ledger


def test_a_frozen_workers_call_that_lands_after_the_end_is_deleted_with_proof(cloud, hook):
    """R1's residual window, on a target without tombstones: closed by the worker pool's own audit."""
    job = cloud.create()
    landed = []

    def freeze(point, phase):
        if (point, phase) == ("target.create.disk", "before") and not landed:
            landed.append(point)  # the worker is frozen inside its call, while everything else goes on
            cloud.services.clone_jobs.cancel(job.name)
            cloud.clock.advance(15 + 30 + 1)
            assert cloud.run_to_end(job.id).state is JobState.CANCELLED

    hook(freeze)
    cloud.deliver(cloud.mail.messages.pop(0))
    hook(None)
    assert landed and cloud.kinds() == ["disk"] and cloud.job(job.id).state is JobState.CANCELLED
    ends = []
    for _ in range(4):
        cloud.clock.advance(300)
        ends.append(audit_periodically(cloud.runtime, "worker", 750, delete=True))
    assert [len(each.deleted) for each in ends] == [0, 0, 1, 0] and not cloud.kinds()
    assert [len(each.orphans) for each in ends] == [1, 1, 0, 0]
    assert [each.kind for each in cloud.runtime.catalog.events(job.id)][-2:] == ["orphan_deleting", "orphan_gone"]
    assert cloud.job(job.id).state is JobState.CANCELLED


def test_without_being_told_to_it_only_reports(cloud):
    job = cancelled(cloud)
    seen = lands_late(cloud, job)
    for _ in range(5):
        found = look(cloud)
        assert not found.deleted
    (orphan,) = found.orphans
    assert (orphan.why, orphan.uid, orphan.job_name, orphan.job_state) == (
        Why.CLEANED_UP, seen.uid, job.name, "CANCELLED")  # fmt: skip
    assert (
        orphan.proven
        and orphan.good_inventories == 5
        and orphan.last_seen - orphan.first_seen == dt.timedelta(seconds=240)
    )
    assert audit_periodically(cloud.runtime, "w", 1, delete=False).orphans
    assert cloud.kinds() == ["disk"]


def test_proof_needs_so_many_inventories_and_so_long(cloud):
    job = cancelled(cloud)
    lands_late(cloud, job)
    for _ in range(10):  # often enough, not long enough
        assert not look(cloud, delete=True, proof=Proof(3, 60), pause_s=5).deleted
    assert look(cloud, delete=True, proof=Proof(30, 60), pause_s=100).orphans  # long enough, not often enough
    assert [each.kind for each in look(cloud, delete=True, proof=Proof(3, 60), pause_s=1).deleted] == ["disk"]
    assert not look(cloud).orphans and not cloud.kinds()


def test_sightings_of_different_processes_add_up(cloud, tmp_path):
    job = cancelled(cloud)
    lands_late(cloud, job)
    assert not look(cloud, delete=True).deleted
    other = OrphanStore(cloud.engine, clock=cloud.clock)
    (row,) = other.sightings("simulated").values()
    assert (row.job_id, row.good_inventories, row.deleting_time) == (job.id, 1, None)
    assert look(cloud, delete=True, pause_s=7 * 3600).deleted
    assert not other.sightings("simulated")


def test_an_instance_goes_before_the_disk_that_it_uses(cloud):
    job = cancelled(cloud)
    calls = TargetCalls(cloud.runtime, "simulated")
    for row in job.ledger:
        calls.create(job, row)
    cloud.target.clear()
    look(cloud, delete=True)
    assert len(look(cloud, delete=True).deleted) == 2
    assert [call.kind for call in deletes(cloud)] == ["instance", "disk"]


def test_a_disk_waits_for_an_instance_that_is_not_proven_yet(cloud):
    job = cancelled(cloud)
    calls = TargetCalls(cloud.runtime, "simulated")
    calls.create(job, job.ledger[0])
    look(cloud, delete=True)
    calls.create(job, job.ledger[1])
    cloud.target.clear()
    found = look(cloud, delete=True)
    assert not deletes(cloud) and {each.proven for each in found.orphans} == {True, False}
    assert len(look(cloud, delete=True).deleted) == 2
    assert [call.kind for call in deletes(cloud)] == ["instance", "disk"]


def test_a_disk_waits_for_the_instance_that_does_not_go(tmp_path):
    world = World(tmp_path, keeps_tombstones=False, delete_durations={ResourceKind.INSTANCE: 100})
    world.set_up(policy={"skipOsAdaptation": True})
    try:
        job = cancelled(world)
        for row in job.ledger:
            TargetCalls(world.runtime, "simulated").create(job, row)
        look(world, delete=True)
        found = look(world, delete=True)
        assert not found.deleted and "waits until" in found.orphans[0].next + found.orphans[1].next
        assert {each.status for each in look(world, delete=True, pause_s=1).orphans} == {"deleting", "ready"}
        world.clock.advance(100)
        assert [each.kind for each in look(world, delete=True).deleted] == ["disk"] and not world.kinds()
        events = [each.message for each in world.runtime.catalog.events(job.id) if each.kind == "orphan_gone"]
        assert len(events) == 2
    finally:
        world.close()
