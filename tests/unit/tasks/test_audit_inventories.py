"""Inventories that do not count, what is missing, and what waits."""

from audit_world import cancelled, labels, lands_late, look, succeeded, whys

from targets.base import ResourceKind, ResourceRef
from targets.simulated import SimulatedTarget
from tasks.audit import audit
from tasks.orphans import Why


def test_a_target_that_does_not_answer_counts_neither_for_nor_against(cloud):
    job = cancelled(cloud)
    lands_late(cloud, job)
    look(cloud, delete=True)
    cloud.target.add_fault(op="inventory", fault="fail", times=3)
    for _ in range(3):
        found = look(cloud, delete=True)
        assert not found.deleted and not found.targets[0].good
        assert whys(found) == [Why.NOT_SEEN] and found.orphans[0].good_inventories == 1
    assert look(cloud, delete=True).deleted  # the second good one


def test_a_target_with_a_defect_does_not_keep_the_others_from_being_audited(light, monkeypatch, caplog):
    job = cancelled(light)

    def broken():
        raise ValueError("the provider sent nonsense")

    monkeypatch.setattr(light.target, "inventory", broken)
    other = SimulatedTarget(light.target.root.parent / "other", name="other")
    other.foreign(ResourceKind.DISK, "d", labels(job))
    light.runtime.targets["other"] = other
    found = look(light, delete=True)
    assert {each.name: each.good for each in found.targets} == {"other": True, "simulated": False}
    assert [each.target for each in found.strangers] == ["other"]
    assert "internal error (ValueError)" in found.targets[1].detail and "nonsense" in caplog.text


def test_an_inventory_that_misses_what_exists_does_not_count(cloud, monkeypatch):
    kept = succeeded(cloud)
    job = cancelled(cloud, "clone-2")
    lands_late(cloud, job)
    whole = cloud.target.inventory

    def flapping(lost):
        monkeypatch.setattr(cloud.target, "inventory", lambda: [each for each in whole() if each.ref.name not in lost])

    look(cloud, delete=True)
    for lost in ([kept.ledger[0].name], [job.ledger[0].name], [row.name for row in (*kept.ledger, *job.ledger)]):
        flapping(lost)
        found = look(cloud, delete=True)
        assert not found.targets[0].good and "which exists" in found.targets[0].detail, lost
        assert not found.deleted and not found.missing and found.orphans[0].good_inventories == 1
    flapping([])
    assert look(cloud, delete=True).deleted


def test_what_a_good_inventory_does_not_show_begins_anew(cloud):
    job = cancelled(cloud)
    seen = lands_late(cloud, job)
    look(cloud, delete=True)
    cloud.target.remove_by_hand(seen.ref)
    assert not look(cloud, delete=True).orphans
    again = lands_late(cloud, job)
    found = look(cloud, delete=True)
    assert (found.orphans[0].uid, found.orphans[0].good_inventories) == (again.uid, 1) and again.uid != seen.uid


def test_another_thing_under_the_name_begins_anew(cloud):
    job = cancelled(cloud)
    seen = lands_late(cloud, job)
    look(cloud, delete=True)
    cloud.target.remove_by_hand(seen.ref)
    lands_late(cloud, job)
    found = look(cloud, delete=True)
    assert not found.deleted and found.orphans[0].good_inventories == 1


def test_a_target_that_is_not_configured_any_more_is_told(cloud):
    found = audit(cloud.runtime, targets=["gone"])
    assert not found.targets[0].good and "not configured" in found.targets[0].detail


# Missing, waiting


def test_a_clone_that_its_user_deleted_is_information(world):
    job = succeeded(world)
    row = job.ledger[-1]
    world.target.remove_by_hand(ResourceRef(ResourceKind.INSTANCE, row.name))
    found = look(world)
    assert [(each.name, each.job_name, each.state) for each in found.missing] == [(row.name, job.name, "KEPT")]
    assert found.targets[0].good and not found.orphans


def test_a_clean_up_that_waits_says_since_when_and_why(world):
    job = world.create()
    world.deliver()
    since = world.clock()
    world.services.clone_jobs.cancel(job.name)
    world.target.add_fault(op="delete", fault="fail", times=None)
    assert world.deliver(world.mail.messages.pop()) is True
    found = look(world)
    (waits,) = found.cleanups
    assert (waits.job_name, waits.state, waits.since, waits.attempts) == (job.name, "CANCELLING", since, 1)
    assert "failed for now" in waits.detail and waits.next_look and waits.age_s == 60
    assert not found.missing and not found.orphans
