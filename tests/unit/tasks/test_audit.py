"""The auditor: what it finds, what it counts, and what it deletes only with proof; both databases."""

import datetime as dt
import threading

import pytest
from harness import PARENT, VM, World
from sqlalchemy.exc import DBAPIError, OperationalError

from models import io_points
from models.orphans import OrphanKey, OrphanStore
from models.states import JobState
from targets.base import LABEL_EPOCH, LABEL_JOB_ID, ResourceKind, ResourceRef
from targets.errors import TombstonedError
from targets.simulated import SimulatedTarget
from tasks.audit import audit, audit_periodically
from tasks.cleanup import OrphanEnd, remove_orphan
from tasks.errors import InvalidArgument
from tasks.orphans import Proof, Why
from tasks.target_calls import TargetCalls

TWICE = Proof(inventories=2, quarantine_s=60)


@pytest.fixture
def cloud(tmp_path, database_url):
    """A service on a target that cannot refuse late calls."""
    world = World(tmp_path, database_url, keeps_tombstones=False)
    world.set_up(policy={"skipOsAdaptation": True})
    yield world
    world.close()


@pytest.fixture
def hook():
    yield io_points.install_hook
    io_points.install_hook(None)


def labels(job, epoch=1):
    return {LABEL_JOB_ID: getattr(job, "id", job), LABEL_EPOCH: str(epoch)}


def cancelled(world, job_id="clone-1"):
    """A job that made its disk and instance, and was cancelled before it had succeeded."""
    job = world.create(job_id)
    world.deliver()
    world.deliver()
    world.services.clone_jobs.cancel(job.name)
    job = world.run_to_end(job.id)
    assert job.state is JobState.CANCELLED
    assert not [each for each in world.target.inventory() if each.job_id == job.id]
    return job


def succeeded(world, job_id="clone-1"):
    job = world.create(job_id)
    world.run()
    return world.job(job.id)


def lands_late(world, job):
    """What the call of a frozen worker leaves when it lands after the end: a real create of the job's own disk."""
    return TargetCalls(world.runtime, job.target).create(job, job.ledger[0])


def look(world, *, delete=False, proof=TWICE, pause_s=60.0, **more):
    world.clock.advance(pause_s)
    return audit(world.runtime, proof=proof, delete=delete, **more)


def deletes(world):
    return [call for call in world.target.calls() if call.op == "delete" and call.phase == "effect"]


def whys(found):
    return [each.why for each in found.orphans]


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


# Decoys: what looks like an orphan and is none of ours


def never_deleted(world, *, proof=TWICE, rounds=5):
    """Audit again and again with --delete; nothing goes. Gives the last report."""
    world.target.clear()
    for _ in range(rounds):
        found = look(world, delete=True, proof=proof)
    assert not deletes(world) and not found.deleted
    return found


def test_the_same_prefix_with_another_owner_stays(cloud):
    job = cancelled(cloud)
    stem = job.ledger[0].name.rpartition("-")[0]
    cloud.target.foreign(ResourceKind.DISK, f"{stem}-disk7", {})
    cloud.target.foreign(ResourceKind.DISK, f"{stem}-disk8", labels("another-service"))
    found = never_deleted(cloud)
    assert [(each.why, each.name) for each in found.orphans] == [(Why.JOB_UNKNOWN, f"{stem}-disk8")]
    assert "never deleted" in found.orphans[0].next and not found.orphans[0].deletable
    assert found.orphans[0].next.endswith(": clonejob instance delete another-service --orphan")
    cloud.target.foreign(ResourceKind.DISK, f"{stem}-disk8", labels("x; reboot"))
    assert look(cloud).orphans[0].next.endswith(": clonejob instance delete 'x; reboot' --orphan")


def test_a_name_that_a_user_made_anew_stays(cloud):
    job = cancelled(cloud)
    cloud.target.foreign(ResourceKind.DISK, job.ledger[0].name, {})
    assert not never_deleted(cloud).orphans
    assert len(cloud.target.everything()) == 1


def test_a_kept_clone_that_its_user_made_anew_stays_with_or_without_the_label(cloud):
    job = succeeded(cloud)
    instance = job.ledger[-1]
    cloud.target.foreign(ResourceKind.INSTANCE, instance.name, labels(job))
    found = never_deleted(cloud)
    assert [each.why for each in found.strangers] == [Why.RECREATED] and not found.orphans
    cloud.target.foreign(ResourceKind.INSTANCE, instance.name, {})
    found = never_deleted(cloud)
    assert [each.why for each in found.strangers] == [Why.NO_LABEL]
    assert [each.name for each in found.missing] == [instance.name]


def test_a_label_that_somebody_copied_stays(cloud):
    won, lost = succeeded(cloud), cancelled(cloud, "clone-2")
    cloud.target.foreign(ResourceKind.DISK, "users-own-a", labels(won))
    cloud.target.foreign(ResourceKind.DISK, "users-own-b", labels(lost))
    assert whys(never_deleted(cloud)) == [Why.NO_LEDGER_ROW, Why.NO_LEDGER_ROW]


def test_a_thing_of_a_job_that_never_called_the_target_stays(cloud):
    job = cloud.create()
    cloud.services.clone_jobs.cancel(job.name)
    assert cloud.job(job.id).state is JobState.CANCELLED
    cloud.target.foreign(ResourceKind.DISK, cloud.job(job.id).ledger[0].name, labels(job))
    assert whys(never_deleted(cloud)) == [Why.NEVER_MADE]


@pytest.mark.parametrize("epoch", ["", "0", "x", "-1", "99", "²", "9" * 30])
def test_labels_with_an_epoch_that_the_job_never_had_stay(light, epoch):
    job = cancelled(light)
    row = job.ledger[0]
    light.target.foreign(ResourceKind(row.kind), row.name, labels(job, epoch))
    assert whys(never_deleted(light, rounds=3)) == [Why.OTHER_EPOCH]


def test_what_clean_up_looked_at_and_left_alone_stays(cloud):
    """A user made the disk anew with our labels while the job ran: clean-up left it alone, and so does the auditor."""
    job = cloud.create()
    cloud.deliver()
    name = cloud.job(job.id).ledger[0].name
    users = cloud.target.foreign(ResourceKind.DISK, name, labels(job))
    cloud.services.clone_jobs.cancel(job.name)
    assert cloud.run_to_end(job.id).state is JobState.CANCELLED
    found = never_deleted(cloud)
    assert [(each.why, each.uid) for each in found.strangers] == [(Why.LEFT_ALONE, users.uid)] and not found.orphans
    cloud.target.foreign(ResourceKind.DISK, name, {})
    assert [each.why for each in never_deleted(cloud).strangers] == [Why.NO_LABEL]


def test_a_succeeded_jobs_scaffold_that_comes_back_is_reported_and_stays(tmp_path):
    world = World(tmp_path, keeps_tombstones=False)
    world.set_up()
    try:
        job = succeeded(world)
        assert job.ledger[0].kind == "adapted_image"
        lands_late(world, job)
        assert whys(never_deleted(world)) == [Why.JOB_SUCCEEDED]
    finally:
        world.close()


def test_a_thing_of_a_running_job_begins_to_count_when_the_job_has_ended(light):
    job = light.create()
    light.run_to_end(job.id)
    other = light.create("clone-2")
    light.deliver()
    light.deliver()
    light.services.clone_jobs.cancel(other.name)
    scaffold = light.job(other.id).ledger[0]
    light.corrupt("UPDATE ledger SET state = 'ABSENT' WHERE job_id = :id AND position = 0", id=other.id)
    for _ in range(3):
        found = look(light, delete=True)
        assert whys(found) == [Why.JOB_RUNNING] and len(found.cleanups) == 1
    assert not OrphanStore(light.engine).sightings("simulated"), scaffold


def test_a_job_of_another_target_stays(cloud):
    job = cancelled(cloud)
    cloud.corrupt("UPDATE clone_jobs SET target = 'elsewhere' WHERE id = :id", id=job.id)
    cloud.target.foreign(ResourceKind.DISK, job.ledger[0].name, labels(job))
    assert [each.why for each in never_deleted(cloud).strangers] == [Why.OTHER_TARGET]


# Inventories that do not count


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


# Right before the delete, and at it


def proven(world):
    job = cancelled(world)
    seen = lands_late(world, job)
    for _ in range(2):
        found = look(world)
    assert found.orphans[0].proven
    return job, seen, OrphanStore(world.engine, clock=world.clock)


def test_the_database_has_the_last_word(cloud):
    """Whatever the auditor believes: what is not left behind by a failed or cancelled job is not even intended."""
    job, seen, orphans = proven(cloud)
    key = OrphanKey("simulated", "disk", seen.ref.name, seen.uid)
    won = succeeded(cloud, "clone-2")
    for change in (
        {"job_id": won.id, "name": won.ledger[0].name},
        {"job_id": won.id},
        {"job_id": "unknown"},
        {"name": "users-own"},
        {"target": "elsewhere"},
    ):
        cloud.corrupt(
            "UPDATE orphan_sightings SET " + ", ".join(f"{column} = :{column}" for column in change), **change
        )
        changed = OrphanKey(change.get("target", "simulated"), "disk", change.get("name", seen.ref.name), seen.uid)
        with pytest.raises(DBAPIError, match="only what a failed or cancelled job left behind"):
            orphans.mark_deleting(changed, 2)
        cloud.corrupt("UPDATE orphan_sightings SET job_id = :job_id, name = :name, target = 'simulated'",
                      job_id=job.id, name=seen.ref.name)  # fmt: skip
    assert orphans.mark_deleting(key, 2)
    assert not orphans.mark_deleting(key, 3)  # counted anew meanwhile
    with pytest.raises(DBAPIError, match="only what"):
        cloud.corrupt("UPDATE orphan_sightings SET job_id = :job_id", job_id=won.id)


@pytest.mark.parametrize("change", ["uid", "label", "owner", "gone"])
def test_everything_is_read_again_right_before_the_delete(cloud, hook, change):
    _, seen, orphans = proven(cloud)
    other = {"uid": None, "label": {}, "owner": labels("another"), "gone": None}[change]

    def a_user_is_quicker(point, phase):
        if (point, phase) == ("target.bury.job", "after"):
            cloud.target.remove_by_hand(seen.ref)
            if change != "gone":
                cloud.target.foreign(seen.ref.kind, seen.ref.name, seen.labels if other is None else other)

    hook(a_user_is_quicker)
    cloud.target.clear()
    found = look(cloud, delete=True)
    hook(None)
    assert not deletes(cloud) and len(cloud.target.everything()) == (0 if change == "gone" else 1)
    assert len(found.deleted) == (1 if change == "gone" else 0)


def test_a_user_who_is_quicker_than_the_delete_itself_keeps_his_thing(cloud, hook):
    _, seen, _ = proven(cloud)

    def replaced(point, phase):
        if (point, phase) == ("target.delete.disk", "before"):
            cloud.target.foreign(seen.ref.kind, seen.ref.name, {})

    hook(replaced)
    cloud.target.clear()
    found = look(cloud, delete=True)
    hook(None)
    assert not deletes(cloud) and len(cloud.target.everything()) == 1
    assert "could not be deleted" in found.orphans[0].next


def test_the_job_is_buried_before_its_orphan_goes(world):
    job = cancelled(world)
    (world.target.root / "tombstones" / job.id).unlink()  # as if it had been made by another version
    seen = lands_late(world, job)
    orphans = OrphanStore(world.engine, clock=world.clock)
    look(world)
    look(world)
    assert remove_orphan(world.runtime, orphans, "simulated", seen, 2) is OrphanEnd.GONE
    with pytest.raises(TombstonedError):
        lands_late(world, job)


@pytest.mark.parametrize("point", ["target.delete.disk", "audit.mark_gone", "audit.mark_deleting", "target.bury.job"])
@pytest.mark.parametrize("phase", ["before", "after"])
def test_an_auditor_that_is_killed_anywhere_leaves_what_the_next_one_finishes(cloud, hook, point, phase):
    job, _, orphans = proven(cloud)

    class Killed(BaseException):
        pass

    def kill(name, when):
        if (name, when) == (point, phase):
            raise Killed

    hook(kill)
    with pytest.raises(Killed):
        look(cloud, delete=True)
    hook(None)
    found = look(cloud, delete=True)
    assert not cloud.kinds() and not found.orphans and not orphans.sightings("simulated")
    kinds = [each.kind for each in cloud.runtime.catalog.events(job.id)]
    assert kinds[-2:] == ["orphan_deleting", "orphan_gone"] and kinds.count("orphan_gone") == 1
    assert cloud.job(job.id).state is JobState.CANCELLED


def test_a_lost_reply_of_the_delete_is_found_out_by_the_next_audit(cloud):
    proven(cloud)
    cloud.target.add_fault(op="delete", fault="lose_reply")
    found = look(cloud, delete=True)
    assert "could not be deleted" in found.orphans[0].next and not cloud.kinds()
    assert not look(cloud, delete=True).orphans


def test_a_refusal_of_the_database_keeps_the_orphan_and_is_told(cloud, hook):
    job, _, _ = proven(cloud)

    def meddle(point, phase):
        if (point, phase) == ("audit.mark_deleting", "before"):
            cloud.corrupt("UPDATE ledger SET state = 'INTENDED' WHERE job_id = :id", id=job.id)

    hook(meddle)
    found = look(cloud, delete=True)
    hook(None)
    told = found.orphans[0].next
    assert told == ("was not deleted, for the database did not allow it: "
                    "clonejob guard: only what a failed or cancelled job left behind is deleted")  # fmt: skip
    assert cloud.kinds() == ["disk"]


def test_a_database_that_fails_at_the_delete_is_told_without_its_own_words(light, hook):
    cloud = light
    light.target.bury = lambda _: None  # as a target without tombstones
    proven(cloud)

    def fail(point, phase):
        if (point, phase) == ("audit.mark_deleting", "before"):
            raise OperationalError("UPDATE", {}, Exception("password of host db-7"))

    hook(fail)
    found = look(cloud, delete=True)
    hook(None)
    assert found.orphans[0].next == "the database failed, see the log; the next audit looks again"


# One of many


def test_one_worker_audits_at_a_time(world):
    assert audit_periodically(world.runtime, "a", 750, delete=False)
    assert audit_periodically(world.runtime, "b", 750, delete=False) is None
    assert audit_periodically(world.runtime, "a", 750, delete=False)
    assert world.reconcile() is not None  # a lease of its own
    world.clock.advance(751)
    assert audit_periodically(world.runtime, "b", 750, delete=False)


def test_two_auditors_at_once_delete_once_and_neither_fails(cloud):
    job, _, orphans = proven(cloud)
    start, found = threading.Barrier(2), []

    def run():
        start.wait(30)
        found.append(audit(cloud.runtime, proof=TWICE, delete=True))

    threads = [threading.Thread(target=run) for _ in range(2)]
    cloud.target.clear()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 2 and len(deletes(cloud)) == 1 and not cloud.kinds()
    look(cloud)
    assert not orphans.sightings("simulated")
    kinds = [each.kind for each in cloud.runtime.catalog.events(job.id)]
    assert kinds.count("orphan_gone") == 1 and 1 <= kinds.count("orphan_deleting")


def test_an_older_inventory_that_is_late_changes_nothing(world):
    orphans = OrphanStore(world.engine, clock=world.clock)
    key = OrphanKey("simulated", "disk", "d", "u")
    early = world.clock()
    late = early + dt.timedelta(seconds=5)
    orphans.record("simulated", late, {key: "j"})
    assert orphans.record("simulated", early, {key: "j"})[key].good_inventories == 1
    assert orphans.record("simulated", early, {})[key].good_inventories == 1
    assert not orphans.record("simulated", late, {})


def test_of_other_projects_only_the_number_is_told(cloud):
    job = cancelled(cloud)
    lands_late(cloud, job)
    cloud.target.foreign(ResourceKind.DISK, "nobodys", labels("unknown"))
    for _ in range(3):
        found = look(cloud, delete=True, project="other")
        assert whys(found) == [Why.JOB_UNKNOWN] and found.elsewhere == 1 and not found.deleted
    assert look(cloud, delete=True, project="p").deleted


def test_the_orphan_of_a_deleted_vms_job_is_found_and_deleted(cloud):
    job = cancelled(cloud)
    cloud.services.migrating_vms.delete(VM)
    assert cloud.job(job.id).name.startswith("deleted/")
    lands_late(cloud, job)
    look(cloud, delete=True, project="p")
    assert look(cloud, delete=True, project="p").deleted and not cloud.kinds()


def test_many_kept_clones_are_read_in_pages(light, monkeypatch):
    from tasks import audit as module

    monkeypatch.setattr(module, "_PAGE", 2)
    jobs = [succeeded(light, f"clone-{number}") for number in range(4)]
    light.target.remove_by_hand(ResourceRef(ResourceKind.INSTANCE, jobs[2].ledger[-1].name))
    found = look(light)
    assert [each.job_name for each in found.missing] == [jobs[2].name] and found.targets[0].things == 7


def test_the_service_refuses_a_target_that_is_not_configured(light):
    with pytest.raises(InvalidArgument, match="'cloud' is not configured; configured: simulated"):
        light.services.audits.audit(PARENT, target="cloud")
    assert light.services.audits.audit(PARENT, target="simulated").targets[0].good
