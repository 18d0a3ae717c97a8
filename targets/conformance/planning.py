"""Checks: what a plan may ask for is told before anything is made, and scaffolds are not needed in the end."""

from __future__ import annotations

from dataclasses import replace

from targets.base import (
    AdaptedImageSpec,
    BootImageSpec,
    DiskSpec,
    InstanceSpec,
    ResourceKind,
    ResourceRef,
    ResourceSpec,
    Status,
)
from targets.conformance.bench import Bench, expect_same, shown
from targets.conformance.check import NotApplicableError, check, check_each, expect, refused
from targets.errors import PermanentError, RefusedError, SourceGoneError, UnsupportedError


@check
def check_accepts_a_plan_that_works(bench: Bench) -> None:
    """check() raises nothing for a plan that can be carried out, whose parts do not exist yet.

    Source: Target.check.
    """
    plan = _plan(bench)
    bench.target.check(plan)
    for spec in plan:
        bench.make(spec)


@check
def check_makes_nothing(bench: Bench) -> None:
    """check() has no side effects: nothing of the plan exists afterwards, and what existed is as it was.

    Source: Target.check.
    """
    stays = bench.make(bench.part(bench.job(), bench.name()))
    plan = _plan(bench)
    bench.target.check(plan)
    for spec in plan:
        seen = bench.connect().find(spec.ref)
        expect(seen is None, f"{spec.ref} exists after a check: {shown(seen)}")
    listed = bench.mine(plan[0].owner.job_id)
    expect(not listed, f"the inventory shows {', '.join(str(each.ref) for each in listed)} after a check")
    expect_same(stays, bench.find(stays.ref), "after a check")


@check
def an_unknown_machine_type_is_told_by_check(bench: Bench) -> None:
    """A machine type that cannot be had is refused by check(), before anything is made.

    Source: Target.check.
    """
    job = bench.job()
    name = bench.stage.unknown_machine_type
    try:
        bench.target.check([bench.instance(job, bench.name(), bench.name(), machine_type=name)])
    except UnsupportedError as error:
        expect(name in str(error), f"the error does not name the machine type {name!r}: {error}")
        return
    spec = bench.instance(job, bench.name(), bench.part_of(job), machine_type=name)
    try:
        bench.make(spec)
    except PermanentError as error:
        expect(condition=False, seen=f"check() accepted the machine type {name!r}, create refuses it: {error}")
    raise NotApplicableError("this target takes any machine type")


@check
def a_kind_that_is_not_supported_is_told_by_check(bench: Bench) -> None:
    """A plan with an adapted image, on a target that has none, is refused by check() and by create.

    Source: Target.check, ResourceKind.
    """
    if bench.can_make(ResourceKind.ADAPTED_IMAGE):
        raise NotApplicableError("this target makes adapted images")
    spec = bench.image(bench.job(), bench.name())
    with refused(UnsupportedError, "check of an adapted image"):
        bench.target.check([spec])
    with refused(PermanentError, "create of an adapted image"):
        bench.target.create(spec)


@check
def a_snapshot_that_is_gone_is_told_by_check(bench: Bench) -> None:
    """A snapshot that cannot be read is SourceGoneError at check(), before anything is made.

    Source: Target.check.
    """
    with refused(SourceGoneError, "check with a snapshot that does not exist"):
        bench.target.check([_of_gone(bench)])


@check
def a_snapshot_that_is_gone_leaves_nothing(bench: Bench) -> None:
    """A create from a snapshot that has gone since is SourceGoneError, and nothing of it is left.

    Source: R1, R4, Target.create.
    """
    spec = _of_gone(bench)
    with refused(SourceGoneError, f"create of {spec.ref} from a snapshot that does not exist"):
        bench.target.create(spec)
    _expect_nothing(bench, spec)


@check
def an_instance_without_its_parts_is_refused(bench: Bench) -> None:
    """An instance of a disk or image that does not exist is refused, and nothing of it is left.

    Source: Target.create, parts_of.
    """
    _refuse(bench, bench.instance(bench.job(), bench.name(), bench.name()))


@check
def a_disk_without_its_adapted_image_is_refused(bench: Bench) -> None:
    """A disk of an adapted image that does not exist is refused, and nothing of it is left.

    Source: Target.create, parts_of.
    """
    _need_both(bench)
    _refuse(bench, bench.disk(bench.job(), bench.name(), adapted_image=bench.name()))


@check
def parts_of_another_job_are_refused(bench: Bench) -> None:
    """An instance is never made of what belongs to another job: that job's clean-up would pull it away.

    Source: R9, parts_of.
    """
    theirs = bench.part_of(bench.job())
    _refuse(bench, bench.instance(bench.job(), bench.name(), theirs))


@check
def a_disk_does_not_need_its_adapted_image(bench: Bench) -> None:
    """A READY disk stays as it is when the adapted image goes, and an instance can be made of it.

    Source: DiskSpec.
    """
    _need_both(bench)
    job = bench.job()
    image = bench.make(bench.image(job, bench.name()))
    disk = bench.make(bench.disk(job, bench.name(), adapted_image=image.ref.name))
    bench.delete_until_gone(image.ref, job)
    _stays(bench, disk.ref.name, ResourceKind.DISK)
    bench.make(bench.instance(job, bench.name(), disk.ref.name))


@check
def an_instance_does_not_need_its_boot_image(bench: Bench) -> None:
    """A READY instance stays as it is when the image that it was started from goes.

    Source: BootImageSpec.
    """
    if not bench.target.boots_from_image:
        raise NotApplicableError("instances are made of disks here")
    job = bench.job()
    image = bench.part_of(job)
    instance = bench.make(bench.instance(job, bench.name(), image))
    bench.delete_until_gone(bench.part(job, image).ref, job)
    _stays(bench, instance.ref.name, ResourceKind.INSTANCE)


@check_each
def a_refused_create_leaves_nothing(bench: Bench, spec: ResourceSpec) -> None:
    """After a create for a job id that is no legal label, find() shows nothing under that name.

    Source: Target.create.
    """
    wrong = replace(spec, owner=replace(spec.owner, job_id="Not/Legal"))
    with refused(RefusedError, f"create of {spec.ref} for an illegal job id"):
        bench.target.create(wrong)
    _expect_nothing(bench, spec)


def _plan(bench: Bench) -> list[ResourceSpec]:
    """A whole plan of one job, as the service makes it."""
    job, image = bench.job(), bench.name()
    adapts = bench.can_make(ResourceKind.ADAPTED_IMAGE)
    scaffold: list[ResourceSpec] = [bench.image(job, image)] if adapts else []
    if bench.target.boots_from_image:
        part: ResourceSpec = bench.boot_image(job, bench.name())
    else:
        part = bench.disk(job, bench.name(), adapted_image=image if adapts else None)
    return [*scaffold, part, bench.instance(job, bench.name(), part.ref.name)]


def _of_gone(bench: Bench) -> AdaptedImageSpec | BootImageSpec | DiskSpec:
    gone = bench.stage.gone
    if gone is None:
        raise NotApplicableError("the stage names no snapshot that is gone")
    part = bench.part(bench.job(), bench.name())
    assert not isinstance(part, InstanceSpec)
    return replace(part, snapshots=(gone,)) if isinstance(part, BootImageSpec) else replace(part, snapshot=gone)


def _refuse(bench: Bench, spec: ResourceSpec) -> None:
    with refused(RefusedError, f"create of {spec.ref} without its parts"):
        bench.target.create(spec)
    _expect_nothing(bench, spec)


def _expect_nothing(bench: Bench, spec: ResourceSpec) -> None:
    seen = bench.connect().find(spec.ref)
    expect(seen is None, f"{spec.ref} was refused and exists: {shown(seen)}")


def _need_both(bench: Bench) -> None:
    if not (bench.can_make(ResourceKind.ADAPTED_IMAGE) and bench.can_make(ResourceKind.DISK)):
        raise NotApplicableError("this target makes no disks of adapted images")


def _stays(bench: Bench, name: str, kind: ResourceKind) -> None:
    seen = bench.connect().find(ResourceRef(kind, name))
    expect(seen is not None and seen.status is Status.READY, f"{kind} {name} without its image: {shown(seen)}")
