"""Decoys: what looks like an orphan and is none of ours stays."""

import pytest
from audit_world import TWICE, cancelled, deletes, labels, lands_late, look, succeeded, whys
from harness import World

from models.orphans import OrphanStore
from models.states import JobState
from targets.base import ResourceKind
from tasks.orphans import Why


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
