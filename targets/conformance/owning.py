"""Checks: what we did not make stays as it is."""

from __future__ import annotations

from dataclasses import replace

from targets.base import Owner, ResourceSpec, Status
from targets.conformance.bench import Bench, expect_same, need
from targets.conformance.check import check, check_each, expect, refused
from targets.errors import ConflictError


@check_each
def what_a_user_made_is_found_without_a_job(bench: Bench, spec: ResourceSpec) -> None:
    """What stands under our name without our label is found, as nobody's job.

    Source: R9, Target.find.
    """
    with need(bench.hands.foreign, "foreign")(spec.ref):
        seen = bench.must_find(spec.ref)
        expect(seen.job_id is None, f"{spec.ref} was made by a user and is found as of job {seen.job_id}")
        expect(bool(seen.uid), f"{spec.ref} was made by a user and has no uid")


@check_each
def what_a_user_made_is_not_taken_over(bench: Bench, spec: ResourceSpec) -> None:
    """A create under a name that a user has taken is refused, and what the user made stays as it is.

    Source: R9, Target.create.
    """
    with need(bench.hands.foreign, "foreign")(spec.ref):
        before = bench.must_find(spec.ref)
        with refused(ConflictError, f"create of {spec.ref} over a user's"):
            bench.target.create(spec)
        expect_same(before, bench.connect().find(spec.ref), "after the refused create")


@check_each
def what_a_user_made_is_not_deleted(bench: Bench, spec: ResourceSpec) -> None:
    """A delete of what a user made is refused, even with its right uid.

    Source: R9, Target.delete.
    """
    with need(bench.hands.foreign, "foreign")(spec.ref):
        before = bench.must_find(spec.ref)
        with refused(ConflictError, f"delete of a user's {spec.ref}"):
            bench.target.delete(spec.ref, job_id=spec.owner.job_id, uid=before.uid)
        expect_same(before, bench.connect().find(spec.ref), "after the refused delete")


@check_each
def what_a_user_made_is_not_in_the_inventory(bench: Bench, spec: ResourceSpec) -> None:
    """The inventory shows only what carries our label.

    Source: Target.inventory.
    """
    with need(bench.hands.foreign, "foreign")(spec.ref):
        listed = [seen.ref for seen in bench.connect().inventory()]
        expect(spec.ref not in listed, f"{spec.ref} was made by a user and is in the inventory")


@check_each
def what_a_user_made_anew_is_not_deleted(bench: Bench, spec: ResourceSpec) -> None:
    """A delete with the uid of ours, where a user has made something else since, is refused.

    Source: R9, Target.delete.
    """
    foreign = need(bench.hands.foreign, "foreign")
    made = bench.make(spec)
    bench.delete_until_gone(spec.ref, spec.owner.job_id)
    with foreign(spec.ref):
        before = bench.must_find(spec.ref)
        with refused(ConflictError, f"delete of {spec.ref} that a user made anew"):
            bench.delete(made)
        expect_same(before, bench.connect().find(spec.ref), "after the refused delete")


@check_each
def another_jobs_resource_is_not_taken_over(bench: Bench, spec: ResourceSpec) -> None:
    """A create under the name of another job's resource is refused, and that stays as it is.

    Source: R9, Target.create.
    """
    made = bench.make(spec)
    other = bench.spec(spec.ref.kind, name=spec.ref.name)
    with refused(ConflictError, f"create of {spec.ref} over another job's"):
        bench.target.create(other)
    expect_same(made, bench.connect().find(spec.ref), "after the refused create")


@check_each
def a_name_that_another_job_has_is_found_taken(bench: Bench, spec: ResourceSpec) -> None:
    """Whoever asks for a name on behalf of a job sees what another job has there, as that job's.

    Source: R9, Target.find.
    """
    made = bench.make(spec)
    for job_id in (spec.owner.job_id, bench.job()):
        expect_same(made, bench.connect().find(spec.ref, job_id), f"found for job {job_id}")


@check_each
def of_two_jobs_under_one_name_each_finds_its_own(bench: Bench, spec: ResourceSpec) -> None:
    """Where two jobs have taken one name at the same moment, each finds and deletes its own, and not both can be clones.

    Source: R3, R9, Target.find.
    """
    made_at_once = need(bench.hands.made_at_once, "made_at_once")
    other = bench.spec(spec.ref.kind, name=spec.ref.name)
    jobs = [each.owner.job_id for each in (spec, other)]
    for job_id in jobs:
        bench.notes.intend(spec.ref, job_id)
    made_at_once(spec, other)
    seen = [bench.connect().find(spec.ref, job_id) for job_id in jobs]
    found = [each.job_id if each else None for each in seen]
    expect(found == jobs, f"{spec.ref} was made for the jobs {jobs}, and they find what is of {found}")
    ready = [each.job_id for each in seen if each is not None and each.status is Status.READY]
    expect(len(ready) <= 1, f"{spec.ref} is READY for both jobs")
    bench.delete_until_its_own_is_gone(spec.ref, jobs[0])
    left = bench.connect().find(spec.ref, jobs[1])
    if seen[1] is not None:
        expect_same(seen[1], left, "after the end of the other job's")


@check_each
def job_ids_that_begin_alike_are_two_jobs(bench: Bench, spec: ResourceSpec) -> None:
    """A job id is compared whole: the job whose id begins with another's is another one.

    Source: R9, Owner.
    """
    made = bench.make(spec)
    longer = replace(spec, owner=Owner(f"{spec.owner.job_id}0", 1))
    with refused(ConflictError, f"create of {spec.ref} for a job whose id begins alike"):
        bench.target.create(longer)
    with refused(ConflictError, f"delete of {spec.ref} for a job whose id begins alike"):
        bench.target.delete(spec.ref, job_id=longer.owner.job_id, uid=made.uid)
    expect_same(made, bench.connect().find(spec.ref), "after both")


@check
def the_snapshot_outlives_its_clones(bench: Bench) -> None:
    """What was made of a snapshot goes, the snapshot stays: another clone can be made of it.

    Source: R9, AdaptedImageSpec.
    """
    for _ in range(2):
        job = bench.job()
        for kind in bench.kinds():
            made = bench.make(bench.spec(kind, job_id=job))
            expect(made.status is Status.READY, f"{made.ref} is {made.status}")
        for ref, owner in bench.notes.in_removal_order():
            if owner == job:
                bench.delete_until_gone(ref, job)
