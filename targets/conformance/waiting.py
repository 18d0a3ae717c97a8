"""Checks: what takes long goes on at the provider and is seen; every call ends in time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from targets.base import Observed, ResourceRef, ResourceSpec, Status
from targets.conformance.bench import Bench, need, shown
from targets.conformance.check import NotApplicableError, check, check_each, expect, refused
from targets.errors import TransientError


@check_each
def what_is_being_made_is_shown(bench: Bench, spec: ResourceSpec) -> None:
    """What is still being made is found as CREATING until it is READY, by every connection, and is never gone between.

    Source: Target, Status.
    """
    with _slowly(bench, spec.ref):
        made = _begin(bench, spec)
        seen = bench.must_find(spec.ref)
        while seen.status is Status.CREATING:
            expect(seen.uid == made.uid, f"{spec.ref} had uid {made.uid} and has {seen.uid}")
            _look_later(bench)
            seen = bench.must_find(spec.ref)
        expect(seen.status is Status.READY and seen.uid == made.uid, f"{spec.ref} became {shown(seen)}")


@check_each
def what_is_being_made_is_created_only_once(bench: Bench, spec: ResourceSpec) -> None:
    """A create of what is still being made answers with that, and starts nothing beside it.

    Source: R3, Target.create.
    """
    with _slowly(bench, spec.ref):
        made = _begin(bench, spec)
        again = bench.connect().create(spec)
        expect(again.uid == made.uid, f"{spec.ref} had uid {made.uid}, a second create gave {again.uid}")
        ready = bench.make(spec)
        expect(ready.uid == made.uid, f"{spec.ref} had uid {made.uid} and became READY as {ready.uid}")


@check_each
def what_is_being_made_can_be_deleted(bench: Bench, spec: ResourceSpec) -> None:
    """A delete of what is still being made ends in None, and it does not come back.

    Source: R1, Target.delete.
    """
    with _slowly(bench, spec.ref):
        _begin(bench, spec)
        bench.delete_until_gone(spec.ref, spec.owner.job_id)
        expect(bench.connect().find(spec.ref) is None, f"{spec.ref} came back")
    expect(not bench.is_listed(spec.ref, spec.owner.job_id, due=False), f"{spec.ref} is gone and in the inventory")


@check_each
def what_is_being_deleted_is_shown(bench: Bench, spec: ResourceSpec) -> None:
    """What is still being deleted is found as DELETING, with its uid, until find() answers None.

    Source: R1, Target.find, Status.
    """
    made = bench.make(spec)
    with _slowly(bench, spec.ref):
        bench.delete(made)
        seen = bench.find(spec.ref)
        if seen is None:
            _unless_slow(bench, "delete", spec.ref)
        while seen is not None:
            expect(seen.status is Status.DELETING, f"{spec.ref} is being deleted: {shown(seen)}")
            expect(seen.uid == made.uid, f"{spec.ref} had uid {made.uid} and has {seen.uid}")
            _look_later(bench)
            seen = bench.find(spec.ref)


@check_each
def gone_is_gone_for_good(bench: Bench, spec: ResourceSpec) -> None:
    """Once find() has answered None after a delete, it keeps to it: no connection sees the resource again.

    Source: R1, Target.find.
    """
    made = bench.make(spec)
    with _slowly(bench, spec.ref):
        bench.delete(made)
        bench.until(lambda: bench.find(spec.ref), lambda seen: seen is None, f"{spec.ref} was deleted and is not gone")
        seen = bench.connect().find(spec.ref)
        expect(seen is None, f"{spec.ref} was gone and is back: {shown(seen)}")
        if bench.stage.lag_s == 0:
            expect(not bench.is_listed(spec.ref, made.job_id or ""), f"{spec.ref} is gone and in the inventory")


@check
def throttling_is_a_transient_error(bench: Bench) -> None:
    """A provider that asks to come more slowly gives a TransientError, which a step waits for; never another one.

    Source: Target, targets/errors.py.
    """
    throttled = need(bench.hands.throttled, "throttled")
    kind = next(bench.kinds())
    made, spec, once = bench.make(bench.spec(kind)), bench.spec(kind), bench.once()
    calls: dict[str, Callable[[], object]] = {
        "create": lambda: once.create(spec),
        "find": lambda: once.find(made.ref),
        "inventory": once.inventory,
        "delete": lambda: once.delete(made.ref, job_id=str(made.job_id), uid=made.uid),
    }
    for name, call in calls.items():
        with throttled(name), refused(TransientError, f"{name} that is throttled"):
            call()
    expect(TransientError.retryable, "TransientError is not retryable")
    bench.delete_until_gone(made.ref, str(made.job_id))


@check
def throttling_is_over_when_it_is_over(bench: Bench) -> None:
    """A create that was throttled works later, and gives one resource.

    Source: R3, Target.create.
    """
    throttled = need(bench.hands.throttled, "throttled")
    spec, once = bench.spec(next(bench.kinds())), bench.once()
    with throttled("create"), contextlib.suppress(TransientError):
        once.create(spec)
    made = bench.make(spec)
    expect(bench.must_find(spec.ref).uid == made.uid, f"{spec.ref} is there twice")


@check
def calls_end_in_time(bench: Bench) -> None:
    """No call takes longer than call_timeout_s: clean-up waits for that long before it believes that none is under way.

    Source: R1, Target.
    """
    for spec in bench.specs():
        bench.target.check([spec])
        bench.make(spec)
    bench.mine()
    for ref, job_id in bench.notes.in_removal_order():
        bench.delete_until_gone(ref, job_id)
    limit_s = bench.target.call_timeout_s
    late = {call: took_s for call, took_s in bench.notes.slowest_s.items() if took_s > limit_s}
    shown_late = ", ".join(f"{call} {took_s:.2f} s" for call, took_s in late.items())
    expect(not late, f"call_timeout_s is {limit_s:g}: {shown_late}")


def _slowly(bench: Bench, ref: ResourceRef) -> contextlib.AbstractContextManager[object]:
    return bench.hands.slow(ref) if bench.hands.slow else contextlib.nullcontext()


def _begin(bench: Bench, spec: ResourceSpec) -> Observed:
    made = bench.target.create(spec)
    if made.status is Status.READY:
        _unless_slow(bench, "create", spec.ref)
    return made


def _unless_slow(bench: Bench, call: str, ref: ResourceRef) -> None:
    expect(bench.hands.slow is None, f"{call} of {ref} was made slow, and nothing showed that it was still under way")
    raise NotApplicableError(f"a {call} is over at once here, and the stage has no hand 'slow'")


def _look_later(bench: Bench) -> None:
    time.sleep(bench.stage.poll_s)
