"""Checks: a create is get-or-create, however often and from wherever it is called."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from targets.base import LABEL_EPOCH, Owner, ResourceKind, ResourceSpec, Status, Target
from targets.conformance.bench import Bench, expect_same, shown
from targets.conformance.check import NotApplicableError, check, check_each, expect

_AT_ONCE = 4


@check
def it_keeps_the_protocol(bench: Bench) -> None:
    """The target has every call of the protocol, a name, a time limit of its calls, and says what instances start from.

    Source: Target.
    """
    target = bench.stage.connect()
    expect(isinstance(target, Target), f"{type(target).__name__} lacks calls or attributes of the protocol")
    expect(isinstance(target.name, str) and bool(target.name), f"name is {target.name!r}")
    expect(target.call_timeout_s > 0, f"call_timeout_s is {target.call_timeout_s!r}")
    expect(isinstance(target.boots_from_image, bool), f"boots_from_image is {target.boots_from_image!r}")


@check_each
def create_makes_what_was_asked_for(bench: Bench, spec: ResourceSpec) -> None:
    """A create answers with the resource of that name and job, CREATING or READY, and it ends READY.

    Source: Target.create.
    """
    made = bench.target.create(spec)
    expect(made.ref == spec.ref, f"asked for {spec.ref}, got {made.ref}")
    expect(made.job_id == spec.owner.job_id, f"{spec.ref} says it is of job {made.job_id}")
    expect(made.status in (Status.CREATING, Status.READY), f"{spec.ref} is {shown(made)}")
    expect(isinstance(made.uid, str) and bool(made.uid), f"{spec.ref} has the uid {made.uid!r}")
    expect_same(made, bench.make(spec), "until it was READY")


@check_each
def create_twice_makes_one(bench: Bench, spec: ResourceSpec) -> None:
    """The same create again gives the same resource, and nothing else comes to exist.

    Source: R3, Target.create.
    """
    due = len(bench.mine(spec.owner.job_id)) + 1
    made = bench.make(spec)
    expect_same(made, bench.target.create(spec), "the second create")
    seen = bench.listed(lambda seen: len(seen) == due, spec.owner.job_id)
    expect(len(seen) == due, f"two creates of {spec.ref} made {len(seen) - due + 1} resources")


@check_each
def create_again_from_another_process_makes_one(bench: Bench, spec: ResourceSpec) -> None:
    """A create that another worker repeats gives the same resource: nothing of it is known only to the process.

    Source: R3, Target.create.
    """
    made = bench.make(spec)
    expect_same(made, bench.connect().create(spec), "the create of another connection")


@check_each
def create_in_a_later_epoch_gives_the_first(bench: Bench, spec: ResourceSpec) -> None:
    """A later epoch of the same job adopts what an earlier one made; the label keeps the epoch that made it.

    Source: R3, Owner.
    """
    made = bench.make(spec)
    again = bench.connect().create(replace(spec, owner=Owner(spec.owner.job_id, 2)))
    expect_same(made, again, "the create of epoch 2")
    expect(again.labels.get(LABEL_EPOCH) == "1", f"{LABEL_EPOCH} is {again.labels.get(LABEL_EPOCH)!r}")


@check_each
def creates_at_once_make_one(bench: Bench, spec: ResourceSpec) -> None:
    """The same create from several workers at the same time makes one resource, and all get the same.

    Source: R3, Target.create.
    """
    others = [bench.connect() for _ in range(_AT_ONCE)]
    made = bench.at_once([partial(each.create, spec) for each in others])
    uids = {each.uid for each in made}
    expect(len(uids) == 1, f"{_AT_ONCE} creates of {spec.ref} at once gave {len(uids)} uids")
    expect_same(made[0], bench.must_find(spec.ref), "after the creates")
    listed = [each for each in bench.mine(spec.owner.job_id) if each.ref == spec.ref]
    expect(len(listed) <= 1, f"the inventory has {len(listed)} times {spec.ref}")


@check
def one_connection_serves_several_threads(bench: Bench) -> None:
    """Workers call one target object from several threads at the same time.

    Source: docs/decisions.md, Service (clean-up and decisions run in threads).
    """
    kind = next(bench.kinds())
    specs = [bench.spec(kind) for _ in range(_AT_ONCE)]
    made = bench.at_once([partial(bench.make, spec) for spec in specs])
    expect({each.ref for each in made} == {spec.ref for spec in specs}, f"got {sorted(str(each.ref) for each in made)}")
    expect(len({each.uid for each in made}) == _AT_ONCE, "two of them have the same uid")


@check
def an_instance_has_several_disks(bench: Bench) -> None:
    """An instance can be made of several disks of its job, boot disk first.

    Source: InstanceSpec.
    """
    if not bench.can_make(ResourceKind.DISK):
        raise NotApplicableError("this target makes no disks by themselves")
    job = bench.job()
    names = [bench.make(bench.disk(job, bench.name(), number=number)).ref.name for number in range(2)]
    made = bench.make(bench.instance(job, bench.name(), *names))
    expect(made.job_id == job, f"it says it is of job {made.job_id}")


@check
def kinds_have_names_of_their_own(bench: Bench) -> None:
    """A disk and an instance may have the same name; find() tells them apart by their kind.

    Source: ResourceRef.
    """
    job, name = bench.job(), bench.name()
    part = bench.make(bench.part(job, name))
    instance = bench.make(bench.instance(job, name, name))
    expect_same(part, bench.find(part.ref), "after an instance of the same name")
    expect_same(instance, bench.find(instance.ref), "the instance")
    expect(part.uid != instance.uid, f"both have the uid {part.uid}")
