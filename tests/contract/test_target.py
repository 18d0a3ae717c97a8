"""What every target promises: the conformance kit's checks, and beside them what only targets of files promise."""

from __future__ import annotations

import multiprocessing
import os

import pytest

from targets.base import ResourceKind, ResourceRef, Status, Target
from targets.conformance import CHECKS, Outcome, run_check
from targets.errors import RefusedError, TargetError

KINDS = [kind for kind in ResourceKind if kind is not ResourceKind.BOOT_IMAGE]
FORK = multiprocessing.get_context("fork")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_conformance(conformance, check):
    stage, not_applicable = conformance
    result = run_check(stage, check)
    assert result.left == ()
    due = Outcome.NOT_APPLICABLE if check.name in not_applicable else Outcome.PASSED
    assert (result.outcome, result.detail if result.outcome is not due else "") == (due, ""), check.rule


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["c", "9-", "c" * 128])
def test_names_at_the_limits_of_a_file_system(kit, kind, name):
    made = kit.target.create(kit.spec(kind, name, job_id="j" * 63))
    assert kit.target.find(made.ref) == made
    assert kit.target.inventory() == [made]


@pytest.mark.parametrize("name", ["", "-c", ".c", "C", "a/b", "..", "a_b", "ä", "c" * 129, "a\n"])
def test_a_look_at_an_illegal_name_is_refused(kit, name):
    with pytest.raises(TargetError):
        kit.target.find(ResourceRef(ResourceKind.DISK, name))


@pytest.mark.parametrize("job_id", ["", "../x", "J", "a/b", "j" * 64])
def test_the_burial_of_an_illegal_job_id_is_refused(kit, job_id):
    with pytest.raises(RefusedError):
        kit.target.bury(job_id)


def test_observations_are_equal_in_every_field(kit):
    made = [kit.target.create(kit.image()), kit.target.create(kit.disk()), kit.target.create(kit.instance())]
    half_made = kit.disk("c-half")
    kit.leave_half_made(half_made)
    kit.make_foreign(ResourceRef(ResourceKind.DISK, "theirs"))
    assert isinstance(kit.target, Target)
    assert [kit.connect().find(one.ref) for one in made] == made
    seen = {(one.ref, one.status) for one in kit.connect().inventory()}
    assert seen == {*((one.ref, Status.READY) for one in made), (half_made.ref, Status.FAILED)}


def test_an_adapted_clone_boots_under_its_name_and_its_snapshot_keeps_every_byte(kit):
    before = kit.snapshot_sha256()
    image = kit.target.create(kit.image())
    kit.target.create(kit.disk(adapted_image="c-image"))
    kit.delete_until_gone(image.ref)
    instance = kit.target.create(kit.instance())
    assert "BOOTED hostname=web-1" in kit.wait_booted(instance.ref)
    kit.delete_until_gone(instance.ref)
    kit.delete_until_gone(kit.disk().ref)
    assert kit.snapshot_sha256() == before == kit.snapshot.sha256


def test_parts_that_are_not_ready_are_named(kit):
    kit.target.create(kit.disk("c-other", job_id="job-2"))
    for spec in (kit.disk(adapted_image="c-none"), kit.instance(disks=("c-none",)), kit.instance(disks=("c-other",))):
        with pytest.raises(RefusedError, match="not ready"):
            kit.target.create(spec)


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
