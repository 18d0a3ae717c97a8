"""Right before the delete, and at it."""

import pytest
from audit_world import cancelled, deletes, labels, lands_late, look, proven, succeeded
from sqlalchemy.exc import DBAPIError, OperationalError

from models.orphans import OrphanKey, OrphanStore
from models.states import JobState
from targets.errors import TombstonedError
from tasks.cleanup import OrphanEnd, remove_orphan


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
