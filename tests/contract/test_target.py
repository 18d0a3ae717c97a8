"""What every target promises. One file, all targets; see conftest for how to add one."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os

import pytest

from targets.base import LABEL_EPOCH, LABEL_JOB_ID, Owner, ResourceKind, ResourceRef, Status, Target
from targets.errors import ConflictError, RefusedError, TargetError, TombstonedError

KINDS = list(ResourceKind)
FORK = multiprocessing.get_context("fork")


def test_it_keeps_the_protocol(kit):
    assert isinstance(kit.target, Target)
    assert kit.target.call_timeout_s > 0


@pytest.mark.parametrize("kind", KINDS)
def test_create_is_idempotent(kit, kind):
    spec = kit.spec(kind, "c-1")
    first = kit.target.create(spec)
    again = kit.connect().create(dataclasses.replace(spec, owner=Owner("job-1", 2)))
    assert first.status is Status.READY
    assert (again.uid, again.status) == (first.uid, Status.READY)
    assert again.labels[LABEL_EPOCH] == "1"


@pytest.mark.parametrize("kind", KINDS)
def test_find_sees_what_was_created_from_another_process(kit, kind):
    spec = kit.spec(kind, "c-1")
    assert kit.target.find(spec.ref) is None
    made = kit.target.create(spec)
    found = kit.connect().find(spec.ref)
    assert found == made
    assert found.job_id == "job-1"
    assert kit.target.find(ResourceRef(kind, "c-2")) is None


@pytest.mark.parametrize("kind", KINDS)
def test_delete_until_gone_and_twice(kit, kind):
    spec = kit.spec(kind, "c-1")
    made = kit.target.create(spec)
    kit.target.delete(spec.ref, job_id="job-1", uid=made.uid)
    kit.delete_until_gone(spec.ref)
    kit.target.delete(spec.ref, job_id="job-1", uid=made.uid)
    assert kit.target.find(spec.ref) is None
    assert kit.target.inventory() == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_name_later_is_another_resource(kit, kind):
    spec = kit.spec(kind, "c-1")
    first = kit.target.create(spec)
    kit.delete_until_gone(spec.ref)
    second = kit.target.create(spec)
    assert second.uid != first.uid
    with pytest.raises(ConflictError):
        kit.target.delete(spec.ref, job_id="job-1", uid=first.uid)
    assert kit.target.find(spec.ref) == second


@pytest.mark.parametrize("kind", KINDS)
def test_delete_of_another_job_is_refused(kit, kind):
    made = kit.target.create(kit.spec(kind, "c-1"))
    for job_id, uid in (("job-2", made.uid), ("job-1", "other")):
        with pytest.raises(ConflictError):
            kit.target.delete(made.ref, job_id=job_id, uid=uid)
    assert kit.target.find(made.ref) == made


@pytest.mark.parametrize("kind", KINDS)
def test_create_under_another_jobs_name_is_refused(kit, kind):
    made = kit.target.create(kit.spec(kind, "c-1"))
    with pytest.raises(ConflictError):
        kit.target.create(kit.spec(kind, "c-1", job_id="job-2"))
    assert kit.target.find(made.ref) == made


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_user_made_under_our_name_stays(kit, kind):
    spec = kit.spec(kind, "c-1")
    kit.make_foreign(spec.ref)
    foreign = kit.target.find(spec.ref)
    assert foreign is not None
    assert foreign.job_id is None
    with pytest.raises(ConflictError):
        kit.target.create(spec)
    with pytest.raises(ConflictError):
        kit.target.delete(spec.ref, job_id="job-1", uid=foreign.uid)
    assert kit.target.find(spec.ref) == foreign
    assert kit.target.inventory() == []


def test_inventory_shows_all_that_is_labelled(kit):
    made = [kit.target.create(kit.image()), kit.target.create(kit.disk()), kit.target.create(kit.instance())]
    half_made = kit.disk("c-half")
    kit.leave_half_made(half_made)
    kit.make_foreign(ResourceRef(ResourceKind.DISK, "theirs"))
    seen = {(one.ref, one.status) for one in kit.connect().inventory()}
    assert seen == {*((one.ref, Status.READY) for one in made), (half_made.ref, Status.FAILED)}
    assert all(one.labels[LABEL_JOB_ID] == "job-1" for one in kit.target.inventory())
    assert kit.target.find(kit.disk().ref).labels["team"] == "blue"


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_made_for_a_buried_job(kit, kind):
    spec = kit.spec(kind, "c-1")
    kit.target.bury("job-1")
    kit.target.bury("job-1")
    with pytest.raises(TombstonedError):
        kit.connect().create(spec)
    assert kit.target.find(spec.ref) is None
    assert kit.target.inventory() == []
    other = kit.target.create(kit.spec(kind, "c-2", job_id="job-2"))
    assert other.status is Status.READY


def test_what_exists_can_still_be_deleted_after_the_burial(kit):
    made = kit.target.create(kit.disk())
    kit.target.bury("job-1")
    with pytest.raises(TombstonedError):
        kit.target.create(kit.disk())
    assert kit.target.find(made.ref) == made
    kit.delete_until_gone(made.ref)


@pytest.mark.parametrize("kind", KINDS)
def test_create_after_half_made(kit, kind):
    spec = kit.spec(kind, "c-1")
    kit.leave_half_made(spec)
    left = kit.target.find(spec.ref)
    assert left.status is Status.FAILED
    assert left.job_id == "job-1"
    assert left.detail
    made = kit.connect().create(spec)
    assert made.status is Status.READY
    assert kit.target.find(spec.ref) == made


@pytest.mark.parametrize("kind", KINDS)
def test_half_made_can_be_deleted(kit, kind):
    spec = kit.spec(kind, "c-1")
    kit.leave_half_made(spec)
    kit.delete_until_gone(spec.ref)


def test_the_clone_needs_no_scaffold_and_leaves_its_snapshot_alone(kit):
    before = kit.snapshot_sha256()
    image = kit.target.create(kit.image())
    kit.target.create(kit.disk(adapted_image="c-image"))
    kit.target.delete(image.ref, job_id="job-1", uid=image.uid)
    kit.delete_until_gone(image.ref)
    instance = kit.target.create(kit.instance())
    assert "BOOTED hostname=web-1" in kit.wait_booted(instance.ref)
    kit.delete_until_gone(instance.ref)
    kit.delete_until_gone(kit.disk().ref)
    assert kit.snapshot_sha256() == before == kit.snapshot.sha256


def test_a_stopped_instance_is_started_again_as_the_same(kit):
    kit.target.create(kit.disk())
    made = kit.target.create(kit.instance())
    kit.power_off(made.ref)
    assert kit.target.find(made.ref).status is Status.STOPPED
    again = kit.connect().create(kit.instance())
    assert (again.uid, again.status) == (made.uid, Status.READY)
    assert kit.target.find(made.ref) == again


def test_parts_that_are_missing_or_of_another_job_are_refused(kit):
    kit.target.create(kit.disk("c-other", job_id="job-2"))
    wrong = [kit.disk(adapted_image="c-none"), kit.instance(disks=("c-none",)), kit.instance(disks=("c-other",))]
    for spec in wrong:
        with pytest.raises(RefusedError, match="not ready"):
            kit.target.create(spec)
        assert kit.target.find(spec.ref) is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["c", "9-", "c" * 128])
def test_names_at_the_limits(kit, kind, name):
    made = kit.target.create(kit.spec(kind, name, job_id="j" * 63))
    assert kit.target.find(made.ref) == made
    assert kit.target.inventory() == [made]


@pytest.mark.parametrize("name", ["", "-c", ".c", "C", "a/b", "..", "a_b", "ä", "c" * 129, "a\n"])
def test_names_beyond_the_limits(kit, name):
    with pytest.raises(TargetError):
        kit.target.create(kit.disk(name))
    with pytest.raises(TargetError):
        kit.target.find(ResourceRef(ResourceKind.DISK, name))


@pytest.mark.parametrize("job_id", ["", "../x", "J", "a/b", "j" * 64])
def test_job_ids_beyond_the_limits(kit, job_id):
    with pytest.raises(RefusedError):
        kit.target.create(kit.disk(job_id=job_id))
    with pytest.raises(RefusedError):
        kit.target.bury(job_id)


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_create_one_resource(kit, kind):
    spec, start, replies = kit.spec(kind, "c-1"), FORK.Barrier(2), FORK.SimpleQueue()

    def create() -> None:
        start.wait(10)
        replies.put(kit.connect().create(spec).uid)
        os._exit(0)

    workers = [FORK.Process(target=create) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert {replies.get(), replies.get()} == {kit.target.find(spec.ref).uid}
    assert len(kit.target.inventory()) == 1


def test_check_accepts_a_good_plan_and_makes_nothing(kit):
    kit.target.check([kit.image(), kit.disk(adapted_image="c-image"), kit.instance()])
    assert kit.target.inventory() == []
