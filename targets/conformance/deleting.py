"""Checks: exactly what was observed is deleted, and None means that nothing is left."""

from __future__ import annotations

from functools import partial

from targets.base import Observed, ResourceSpec
from targets.conformance.bench import Bench, expect_same, shown
from targets.conformance.check import check, check_each, expect, refused
from targets.errors import ConflictError

_AT_ONCE = 3


@check_each
def delete_until_it_is_gone(bench: Bench, spec: ResourceSpec) -> None:
    """A delete ends in find() answering None, for every connection, and in an inventory without it.

    Source: R1, Target.delete.
    """
    bench.make(spec)
    bench.delete_until_gone(spec.ref, spec.owner.job_id)
    seen = bench.connect().find(spec.ref)
    expect(seen is None, f"another connection still finds {spec.ref}: {shown(seen)}")
    expect(not bench.is_listed(spec.ref, spec.owner.job_id, due=False), f"{spec.ref} is gone and in the inventory")


@check_each
def delete_twice_does_no_harm(bench: Bench, spec: ResourceSpec) -> None:
    """A delete of what is on its way out, or gone, is a no-op.

    Source: Target.delete.
    """
    made = bench.make(spec)
    bench.delete(made)
    bench.delete(made)
    bench.delete_until_gone(spec.ref, spec.owner.job_id)
    bench.connect().delete(spec.ref, job_id=spec.owner.job_id, uid=made.uid)


@check_each
def delete_of_what_never_was_does_nothing(bench: Bench, spec: ResourceSpec) -> None:
    """A delete of a name under which nothing is raises nothing and makes nothing.

    Source: Target.delete.
    """
    bench.target.delete(spec.ref, job_id=spec.owner.job_id, uid="kit-none")
    seen = bench.find(spec.ref)
    expect(seen is None, f"the delete left {shown(seen)}")


@check_each
def deletes_at_once_do_no_harm(bench: Bench, spec: ResourceSpec) -> None:
    """The same delete from several workers at the same time ends as one does.

    Source: Target.delete.
    """
    made = bench.make(spec)
    others = [bench.connect() for _ in range(_AT_ONCE)]
    bench.at_once([partial(each.delete, spec.ref, job_id=spec.owner.job_id, uid=made.uid) for each in others])
    bench.delete_until_gone(spec.ref, spec.owner.job_id)


@check_each
def delete_with_another_uid_is_refused(bench: Bench, spec: ResourceSpec) -> None:
    """What stands there with another uid than the observed one stays: a user may have made it anew.

    Source: R9, Target.delete.
    """
    made = bench.make(spec)
    with refused(ConflictError, f"delete of {spec.ref} with a wrong uid"):
        bench.target.delete(spec.ref, job_id=spec.owner.job_id, uid="kit-other-uid")
    expect_same(made, bench.connect().find(spec.ref), "after the refused delete")


@check_each
def delete_for_another_job_is_refused(bench: Bench, spec: ResourceSpec) -> None:
    """What belongs to another job stays, even if the uid is right.

    Source: R9, Target.delete.
    """
    made = bench.make(spec)
    with refused(ConflictError, f"delete of {spec.ref} for another job"):
        bench.target.delete(spec.ref, job_id=bench.job(), uid=made.uid)
    expect_same(made, bench.connect().find(spec.ref), "after the refused delete")


@check_each
def the_same_name_later_is_another_resource(bench: Bench, spec: ResourceSpec) -> None:
    """What is made anew under the same name has another uid.

    Source: Observed.
    """
    first = bench.make(spec)
    bench.delete_until_gone(spec.ref, spec.owner.job_id)
    second = bench.make(spec)
    expect(first.uid != second.uid, f"{spec.ref} was made twice and has the uid {first.uid} both times")


@check_each
def an_old_uid_does_not_delete_the_new_resource(bench: Bench, spec: ResourceSpec) -> None:
    """A delete that comes late, with the uid of what was there before, is refused.

    Source: R9, Target.delete.
    """
    first = bench.make(spec)
    bench.delete_until_gone(spec.ref, spec.owner.job_id)
    second = bench.make(spec)
    with refused(ConflictError, f"delete of {spec.ref} with the uid of its predecessor"):
        bench.delete(first)
    expect_same(second, bench.connect().find(spec.ref), "after the late delete")


@check_each
def delete_leaves_neighbours_alone(bench: Bench, spec: ResourceSpec) -> None:
    """A delete takes the one name, not those that begin with it or that it begins with.

    Source: R9, ResourceRef.
    """
    job, name = spec.owner.job_id, spec.ref.name
    near = [bench.spec(spec.ref.kind, job_id=job, name=each) for each in (f"{name}-1", f"{name}0", f"{name}-disk0")]
    bench.make(spec)
    others = [bench.make(each) for each in near]
    bench.delete_until_gone(spec.ref, job)
    for other in others:
        expect_same(other, bench.connect().find(other.ref), f"after the delete of {name}")


@check
def two_jobs_live_side_by_side(bench: Bench) -> None:
    """The end of one job's resources leaves those of another job as they are.

    Source: R9.
    """
    one, other = bench.job(), bench.job()
    _make_all(bench, one)
    stays = _make_all(bench, other)
    _delete_all(bench, one)
    for each in stays:
        expect_same(each, bench.connect().find(each.ref), "after the end of another job's")


@check
def gone_leaves_nothing_behind(bench: Bench) -> None:
    """find() answers None only if nothing is left: once all of a job is gone, no part of it is in the inventory.

    Source: R1, Target.find.
    """
    job = bench.job()
    _make_all(bench, job)
    _delete_all(bench, job)
    seen = bench.listed(lambda seen: not seen, job)
    expect(not seen, f"all is gone and the inventory shows {', '.join(str(each.ref) for each in seen)}")


def _make_all(bench: Bench, job_id: str) -> list[Observed]:
    return [bench.make(bench.spec(kind, job_id=job_id)) for kind in bench.kinds()]


def _delete_all(bench: Bench, job_id: str) -> None:
    for ref, owner in bench.notes.in_removal_order():
        if owner == job_id:
            bench.delete_until_gone(ref, job_id)
