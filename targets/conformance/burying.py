"""Checks: a tombstone keeps late creates away, where the target can keep one."""

from __future__ import annotations

from targets.base import ResourceSpec
from targets.conformance.bench import Bench, expect_same, shown
from targets.conformance.check import NotApplicableError, check, check_each, expect, refused
from targets.errors import TombstonedError


@check_each
def nothing_is_made_for_a_buried_job(bench: Bench, spec: ResourceSpec) -> None:
    """After bury() a create for this job raises TombstonedError and makes nothing; a target without the means makes it.

    Source: R1, Target.bury.
    """
    _need_tombstones(bench)
    bench.target.bury(spec.owner.job_id)
    with refused(TombstonedError, f"create of {spec.ref} for a buried job"):
        bench.connect().create(spec)
    seen = bench.find(spec.ref)
    expect(seen is None, f"{spec.ref} was refused and exists: {shown(seen)}")


@check_each
def a_buried_jobs_create_is_refused_though_it_exists(bench: Bench, spec: ResourceSpec) -> None:
    """A create of what exists already is refused for a buried job, too, and changes nothing.

    Source: Target.bury.
    """
    _need_tombstones(bench)
    made = bench.make(spec)
    bench.target.bury(spec.owner.job_id)
    with refused(TombstonedError, f"create of {spec.ref} for a buried job"):
        bench.connect().create(spec)
    expect_same(made, bench.find(spec.ref), "after the refused create")


@check
def a_job_can_be_buried_twice(bench: Bench) -> None:
    """bury() may be called again, for a job of which nothing was ever made too.

    Source: Target.bury.
    """
    job = bench.job()
    bench.target.bury(job)
    bench.connect().bury(job)


@check_each
def a_burial_deletes_nothing(bench: Bench, spec: ResourceSpec) -> None:
    """What exists when its job is buried stays, is found, and can be deleted.

    Source: Target.bury.
    """
    made = bench.make(spec)
    bench.target.bury(spec.owner.job_id)
    expect_same(made, bench.connect().find(spec.ref), "after the burial")
    bench.delete_until_gone(spec.ref, spec.owner.job_id)


@check_each
def a_burial_is_for_one_job(bench: Bench, spec: ResourceSpec) -> None:
    """Other jobs go on when one is buried, also one whose id begins alike.

    Source: Target.bury.
    """
    bench.target.bury(spec.owner.job_id)
    bench.make(bench.spec(spec.ref.kind))
    bench.make(bench.spec(spec.ref.kind, job_id=f"{spec.owner.job_id}0"))


def _need_tombstones(bench: Bench) -> None:
    """Where nobody has said whether there are tombstones, the target's own answer counts: then for every kind."""
    keeps = bench.stage.keeps_tombstones
    if keeps is None:
        spec = bench.part(bench.job(), bench.name())
        bench.target.bury(spec.owner.job_id)
        try:
            bench.target.create(spec)
            keeps = False
        except TombstonedError:
            keeps = True
    if not keeps:
        raise NotApplicableError("this target keeps no tombstones")
