"""Checks: everything carries its job's label, and the inventory shows everything that does."""

from __future__ import annotations

from dataclasses import replace

from targets.base import LABEL_EPOCH, LABEL_JOB_ID, AdaptedImageSpec, Observed, Owner, ResourceSpec
from targets.conformance.bench import USER_LABELS, Bench, expect_same, shown
from targets.conformance.check import NotApplicableError, check, check_each, expect
from targets.errors import PermanentError

_EPOCH = 7


@check_each
def everything_carries_its_jobs_label(bench: Bench, spec: ResourceSpec) -> None:
    """Whatever is made carries clonejob-id with the job's id, in the answer of create and in every later look.

    Source: R1, Owner.
    """
    for seen in (bench.target.create(spec), bench.make(spec), bench.must_find(spec.ref)):
        label = seen.labels.get(LABEL_JOB_ID)
        expect(label == spec.owner.job_id, f"{spec.ref} has {LABEL_JOB_ID} {label!r}, not {spec.owner.job_id!r}")


@check_each
def everything_carries_the_epoch(bench: Bench, spec: ResourceSpec) -> None:
    """Whatever is made carries clonejob-epoch with the epoch that made it, as decimal digits.

    Source: R8, Owner.
    """
    made = bench.make(replace(spec, owner=Owner(spec.owner.job_id, _EPOCH)))
    for seen in (made, bench.must_find(spec.ref)):
        label = seen.labels.get(LABEL_EPOCH)
        expect(label == str(_EPOCH), f"{spec.ref} has {LABEL_EPOCH} {label!r}, not '{_EPOCH}'")


@check_each
def the_users_labels_are_set(bench: Bench, spec: ResourceSpec) -> None:
    """Labels of the target details are set beside ours.

    Source: DiskSpec, InstanceSpec.
    """
    if isinstance(spec, AdaptedImageSpec):
        raise NotApplicableError("an adapted image has no labels of the user")
    bench.make(spec)
    labels = bench.must_find(spec.ref).labels
    expect(labels.items() >= USER_LABELS.items(), f"{spec.ref} has the labels {dict(labels)}, not {USER_LABELS} too")


@check_each
def the_users_labels_do_not_replace_ours(bench: Bench, spec: ResourceSpec) -> None:
    """A user who names a label like ours is refused, or ours win: the resource never goes to another job.

    Source: R9, Owner.
    """
    if isinstance(spec, AdaptedImageSpec):
        raise NotApplicableError("an adapted image has no labels of the user")
    wrong = replace(spec, labels={LABEL_JOB_ID: f"{bench.prefix}-other", LABEL_EPOCH: "99"})
    try:
        bench.make(wrong)
    except PermanentError:
        seen = bench.connect().find(spec.ref)
        expect(seen is None, f"{spec.ref} was refused and exists: {shown(seen)}")
        return
    labels = bench.must_find(spec.ref).labels
    ours = spec.owner.labels()
    expect(labels.items() >= ours.items(), f"{spec.ref} has {dict(labels)}; it must keep {ours}")


@check
def the_inventory_shows_every_kind(bench: Bench) -> None:
    """Everything that carries our label is in the inventory, of every kind, and once.

    Source: Target.inventory.
    """
    job = bench.job()
    due = {bench.make(bench.spec(kind, job_id=job)).ref for kind in bench.kinds()}
    seen = bench.listed(lambda seen: {each.ref for each in seen} >= due, job)
    missing = due - {each.ref for each in seen}
    expect(not missing, f"the inventory does not show {', '.join(map(str, missing))}")
    refs = [each.ref for each in seen]
    expect(len(refs) == len(set(refs)), f"the inventory shows one of them twice: {', '.join(map(str, refs))}")


@check_each
def the_inventory_agrees_with_find(bench: Bench, spec: ResourceSpec) -> None:
    """The inventory and find() show the same uid, labels and status.

    Source: Target.inventory, Target.find.
    """
    bench.make(spec)
    found = bench.must_find(spec.ref)

    def agrees(seen: list[Observed]) -> bool:
        return any(each.ref == spec.ref and each.status == found.status for each in seen)

    listed = {each.ref: each for each in bench.listed(agrees, spec.owner.job_id)}
    expect_same(found, listed.get(spec.ref), "in the inventory")
    expect(listed[spec.ref].status == found.status, f"{spec.ref}: {found.status}, listed {listed[spec.ref].status}")


@check
def the_inventory_shows_only_what_is_labelled(bench: Bench) -> None:
    """All that is in the inventory carries a clonejob-id.

    Source: Target.inventory.
    """
    bench.part_of(bench.job())
    bare = [str(seen.ref) for seen in bench.connect().inventory() if not seen.job_id]
    expect(not bare, f"without a job's label: {', '.join(bare)}")
