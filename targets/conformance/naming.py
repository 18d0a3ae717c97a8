"""Checks: names and job ids at their limits. A job's names have 1 to 63 of a-z, 0-9 and '-' (tasks/plan.py)."""

from __future__ import annotations

import random
import string
from dataclasses import replace

from targets.base import Owner, ResourceKind, ResourceRef, ResourceSpec
from targets.conformance.bench import Bench, expect_same, shown
from targets.conformance.check import CheckFailedError, NotApplicableError, check, check_each, expect
from targets.errors import PermanentError, TargetError

_LONGEST = 63
_TOO_LONG = 129
ILLEGAL_NAMES = ("", "-c", ".c", "C", "a/b", "..", "a_b", "ä", "a\n", "a b", "c" * _TOO_LONG)
ILLEGAL_JOB_IDS = ("", "../x", "J", "a/b", "a b", "j" * (_LONGEST + 1))


@check_each
def the_shortest_name_works(bench: Bench, spec: ResourceSpec) -> None:
    """A name of one letter is as good as any: the user may have wished for it.

    Source: ResourceRef, ComputeEngineTargetDetails.vm_name.
    """
    letters = random.sample(string.ascii_lowercase, 5)
    refs = (ResourceRef(spec.ref.kind, letter) for letter in letters)
    free = next((ref for ref in refs if bench.find(ref) is None), None)
    if free is None:
        raise NotApplicableError(f"the names {', '.join(letters)} are all taken here")
    _round(bench, replace(spec, ref=free))


@check_each
def the_longest_name_works(bench: Bench, spec: ResourceSpec) -> None:
    """A name of 63 characters is kept whole.

    Source: ResourceRef, Names.
    """
    name = f"{spec.ref.name}-".ljust(_LONGEST, "x")
    _round(bench, replace(spec, ref=ResourceRef(spec.ref.kind, name)))


@check_each
def digits_and_dashes_work(bench: Bench, spec: ResourceSpec) -> None:
    """Digits and several dashes in a row are kept as they are.

    Source: ResourceRef, Names.
    """
    _round(bench, replace(spec, ref=ResourceRef(spec.ref.kind, f"{spec.ref.name}--0-9--a0")))


@check_each
def long_names_that_end_differently_are_two(bench: Bench, spec: ResourceSpec) -> None:
    """Names of 63 characters that differ in the last one name two resources.

    Source: ResourceRef.
    """
    stem = f"{spec.ref.name}-".ljust(_LONGEST - 1, "x")
    specs = [bench.spec(spec.ref.kind, job_id=spec.owner.job_id, name=stem + each) for each in "ab"]
    first, second = (bench.make(each) for each in specs)
    expect(first.uid != second.uid, f"both have the uid {first.uid}")
    bench.delete_until_gone(first.ref, spec.owner.job_id)
    expect_same(second, bench.connect().find(second.ref), "after the delete of the other")


@check
def illegal_names_are_refused(bench: Bench) -> None:
    """A name that is not legal is refused with a TargetError; nothing is made, not even beside the target's place.

    Source: Target.create, targets/errors.py.
    """
    job, kind = bench.job(), next(bench.kinds())
    for name in ILLEGAL_NAMES:
        ref = ResourceRef(kind, name)
        try:
            made = bench.target.create(replace(bench.spec(kind, job_id=job), ref=ref))
        except TargetError:
            made = None
        expect(made is None, f"a create of the name {name!r} was accepted: {shown(made)}")
        try:
            seen = bench.find(ref)
        except TargetError:
            seen = None
        expect(seen is None, f"the name {name!r} was refused and is found: {shown(seen)}")
    left = [str(each.ref) for each in bench.mine(job)]
    expect(not left, f"all were refused and the inventory shows {', '.join(left)}")


@check_each
def the_longest_job_id_works(bench: Bench, spec: ResourceSpec) -> None:
    """A job id of 63 characters, the longest legal label value, is kept whole.

    Source: Owner.
    """
    job = f"{bench.prefix}-long-{spec.ref.kind.value.replace('_', '-')}-".ljust(_LONGEST, "j")
    made = bench.make(bench.spec(spec.ref.kind, job_id=job))
    expect(made.job_id == job, f"the job {job} became {made.job_id}")
    expect(bench.is_listed(made.ref, job), f"{made.ref} is not in the inventory")


@check
def illegal_job_ids_are_refused(bench: Bench) -> None:
    """A job id that cannot be a label is refused with a PermanentError, and nothing is made.

    Source: Owner, targets/errors.py.
    """
    kind = ResourceKind(next(bench.kinds()))
    for job_id in ILLEGAL_JOB_IDS:
        spec = replace(bench.spec(kind), owner=Owner(job_id, 1))
        try:
            made = bench.target.create(spec)
        except PermanentError:
            continue
        except TargetError as error:
            raise CheckFailedError(f"job id {job_id!r}: PermanentError was due, not {error!r}") from None
        raise CheckFailedError(f"a create for the job id {job_id!r} was accepted: {shown(made)}")


def _round(bench: Bench, spec: ResourceSpec) -> None:
    made = bench.make(spec)
    expect(made.ref == spec.ref, f"asked for {spec.ref}, got {made.ref}")
    expect_same(made, bench.connect().find(spec.ref), "from another connection")
    expect(bench.is_listed(spec.ref, spec.owner.job_id), f"{spec.ref} is not in the inventory")
    bench.delete_until_gone(spec.ref, spec.owner.job_id)
