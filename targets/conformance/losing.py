"""Checks: replies get lost and workers die, and nothing that exists is lost with them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from targets.base import Observed, ResourceRef, ResourceSpec, Status
from targets.conformance.bench import Bench, expect_same, shown
from targets.conformance.check import check_each, expect
from targets.errors import TransientError

_LOOKS = 3


@check_each
def another_process_finds_what_was_made(bench: Bench, spec: ResourceSpec) -> None:
    """After the death of the worker that made it, any other worker finds the same resource by its name.

    Source: Target, R1.
    """
    made = bench.make(spec)
    expect_same(made, bench.connect().find(spec.ref), "from another connection")


@check_each
def the_uid_stays_the_same(bench: Bench, spec: ResourceSpec) -> None:
    """A resource keeps its uid for as long as it exists, whoever looks.

    Source: Observed.
    """
    made = bench.make(spec)
    found = {bench.must_find(spec.ref).uid for _ in range(_LOOKS)}
    expect(found == {made.uid}, f"{spec.ref} was made as {made.uid} and found as {sorted(found)}")


@check_each
def what_does_not_exist_is_not_found(bench: Bench, spec: ResourceSpec) -> None:
    """find() of a name under which nothing is answers None.

    Source: Target.find.
    """
    seen = bench.find(spec.ref)
    expect(seen is None, f"{spec.ref} was never made: {shown(seen)}")


@check_each
def a_create_whose_reply_was_lost_is_found(bench: Bench, spec: ResourceSpec) -> None:
    """What a create made whose reply never came is found by its name, with its job's label.

    Source: R1, R3, Target.
    """
    seen = _create_without_reply(bench, spec)
    expect(seen.job_id == spec.owner.job_id, f"{spec.ref} is of job {seen.job_id}")
    expect(bench.is_listed(spec.ref, spec.owner.job_id), f"the inventory does not show {spec.ref}")


@check_each
def a_create_whose_reply_was_lost_is_adopted(bench: Bench, spec: ResourceSpec) -> None:
    """The create that is repeated after a lost reply gives what the first one made.

    Source: R3, Target.create.
    """
    seen = _create_without_reply(bench, spec)
    expect_same(seen, bench.make(spec, by=bench.connect()), "the repeated create")


@check_each
def a_delete_whose_reply_was_lost_can_be_repeated(bench: Bench, spec: ResourceSpec) -> None:
    """After a delete whose reply never came, delete and find go on as if it had come.

    Source: R1, Target.delete.
    """
    made = bench.make(spec)
    with _reply_lost(bench, "delete", spec.ref):
        bench.once().delete(spec.ref, job_id=spec.owner.job_id, uid=made.uid)
    bench.delete(made)
    bench.delete_until_gone(spec.ref, spec.owner.job_id)


@check_each
def half_made_is_shown_as_failed(bench: Bench, spec: ResourceSpec) -> None:
    """What a killed creator left half made is found as FAILED, with its job's label and a reason.

    Source: Status, Target.find.
    """
    bench.leave_half_made(spec)
    seen = bench.must_find(spec.ref)
    expect(seen.status is Status.FAILED, f"{spec.ref} is half made: {shown(seen)}")
    expect(seen.job_id == spec.owner.job_id, f"{spec.ref} is half made and of job {seen.job_id}")
    expect(bool(seen.detail), f"{spec.ref} is FAILED and no detail says why")


@check_each
def half_made_is_in_the_inventory(bench: Bench, spec: ResourceSpec) -> None:
    """What is half made is in the inventory, too: the auditor depends on it.

    Source: Target.inventory.
    """
    bench.leave_half_made(spec)
    expect(bench.is_listed(spec.ref, spec.owner.job_id), f"{spec.ref} is half made and not in the inventory")


@check_each
def half_made_is_finished_or_made_anew(bench: Bench, spec: ResourceSpec) -> None:
    """A create after a killed one ends READY.

    Source: Target.create.
    """
    bench.leave_half_made(spec)
    made = bench.make(spec, by=bench.connect())
    expect_same(made, bench.find(spec.ref), "after the create")


@check_each
def half_made_can_be_deleted(bench: Bench, spec: ResourceSpec) -> None:
    """What is half made can be deleted like anything else, until nothing of it is left.

    Source: R1, Target.delete.
    """
    bench.leave_half_made(spec)
    bench.delete_until_gone(spec.ref, spec.owner.job_id)
    expect(not bench.is_listed(spec.ref, spec.owner.job_id, due=False), f"{spec.ref} is gone and in the inventory")


def _create_without_reply(bench: Bench, spec: ResourceSpec) -> Observed:
    with _reply_lost(bench, "create", spec.ref):
        bench.once().create(spec)
    return bench.must_find(spec.ref)


@contextlib.contextmanager
def _reply_lost(bench: Bench, operation: str, ref: ResourceRef) -> Iterator[None]:
    """Between provider and target where there is a hand for it; else the reply is lost because nobody reads it."""
    hand = bench.hands.lost_reply
    if hand is None:
        yield
        return
    with hand(operation, ref), contextlib.suppress(TransientError):
        yield  # a target that asks once more by itself need not raise
