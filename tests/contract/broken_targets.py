"""Simulated targets, each with one fault that somebody who writes a target may make."""

from __future__ import annotations

import time
from dataclasses import replace

from targets.base import (
    LABEL_EPOCH,
    LABEL_JOB_ID,
    AdaptedImageSpec,
    Owner,
    ResourceKind,
    ResourceRef,
    Status,
)
from targets.errors import RefusedError, TransientError
from targets.simulated import SimulatedTarget

BROKEN: dict[type[SimulatedTarget], str] = {}
"""Each broken target with the check that must go red."""


def found_by(check: str):
    def add(broken: type[SimulatedTarget]) -> type[SimulatedTarget]:
        BROKEN[broken] = check
        return broken

    return add


class Labels(SimulatedTarget):
    """Shows other labels than it should."""

    def shown(self, seen):
        return seen and replace(seen, labels=self.labels(dict(seen.labels)))

    def create(self, spec):
        return self.shown(super().create(spec))

    def find(self, ref, job_id=None):
        return self.shown(super().find(ref))


@found_by("create_twice_makes_one")
class MakesANewOneEachTime(SimulatedTarget):
    def create(self, spec):
        seen = super().find(spec.ref)
        if seen is not None and seen.status is Status.READY:
            self.remove_by_hand(spec.ref)
        return super().create(spec)


@found_by("create_twice_makes_one")
class MakesAnotherBeside(SimulatedTarget):
    def create(self, spec):
        if super().find(spec.ref) is not None:
            super().create(replace(spec, ref=ResourceRef(spec.ref.kind, f"{spec.ref.name}-copy")))
        return super().create(spec)


@found_by("another_process_finds_what_was_made")
class KnowsOnlyItsOwn(SimulatedTarget):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.made = set()

    def create(self, spec):
        self.made.add(spec.ref)
        return super().create(spec)

    def find(self, ref, job_id=None):
        return super().find(ref) if ref in self.made else None


@found_by("creates_at_once_make_one")
class LooksBeforeItMakesWithoutALock(SimulatedTarget):
    def create(self, spec):
        seen = super().find(spec.ref)
        if seen is not None:
            return seen
        time.sleep(0.02)
        if super().find(spec.ref) is not None:
            self.remove_by_hand(spec.ref)
        return super().create(spec)


@found_by("create_in_a_later_epoch_gives_the_first")
class MakesOnePerEpoch(SimulatedTarget):
    def create(self, spec):
        seen = super().find(spec.ref)
        if seen is not None and seen.labels.get(LABEL_EPOCH) != str(spec.owner.epoch):
            self.remove_by_hand(spec.ref)
        return super().create(spec)


@found_by("kinds_have_names_of_their_own")
class HasOneNameForAllKinds(SimulatedTarget):
    def find(self, ref, job_id=None):
        for kind in ResourceKind:
            if seen := super().find(ResourceRef(kind, ref.name)):
                return seen
        return None


@found_by("a_create_whose_reply_was_lost_is_adopted")
class ForgetsWhatItDidNotHearOf(SimulatedTarget):
    def create(self, spec):
        try:
            made = super().create(spec)
        except TransientError:
            self._heard(spec).write_text("no")
            raise
        if self._heard(spec).exists():
            self._heard(spec).unlink()
            self.remove_by_hand(spec.ref)
            made = super().create(spec)
        return made

    def _heard(self, spec):
        return self.root / f"unheard-{spec.ref.kind}-{spec.ref.name}"


@found_by("everything_carries_its_jobs_label")
class ForgetsTheJob(Labels):
    def labels(self, labels):
        return labels | {LABEL_JOB_ID: labels.get(LABEL_JOB_ID, "")[:10]}


@found_by("everything_carries_the_epoch")
class ForgetsTheEpoch(Labels):
    def labels(self, labels):
        return {name: value for name, value in labels.items() if name != LABEL_EPOCH}


@found_by("the_users_labels_are_set")
class ForgetsTheUsersLabels(Labels):
    def labels(self, labels):
        return {name: value for name, value in labels.items() if name.startswith("clonejob-")}


@found_by("the_users_labels_do_not_replace_ours")
class LetsTheUsersLabelsWin(SimulatedTarget):
    def create(self, spec):
        labels = {} if isinstance(spec, AdaptedImageSpec) else spec.labels
        owner = Owner(labels.get(LABEL_JOB_ID, spec.owner.job_id), int(labels.get(LABEL_EPOCH, spec.owner.epoch)))
        return super().create(replace(spec, owner=owner))


@found_by("delete_with_another_uid_is_refused")
class DeletesByNameAlone(SimulatedTarget):
    def delete(self, ref, *, job_id, uid):
        seen = super().find(ref)
        super().delete(ref, job_id=job_id, uid=seen.uid if seen else uid)


@found_by("delete_for_another_job_is_refused")
class DeletesForAnyJob(SimulatedTarget):
    def delete(self, ref, *, job_id, uid):
        seen = super().find(ref)
        super().delete(ref, job_id=(seen and seen.job_id) or job_id, uid=uid)


@found_by("delete_leaves_neighbours_alone")
class DeletesWhatBeginsAlike(SimulatedTarget):
    def delete(self, ref, *, job_id, uid):
        super().delete(ref, job_id=job_id, uid=uid)
        for seen in self.inventory():
            if seen.ref.kind is ref.kind and seen.ref.name.startswith(ref.name):
                super().delete(seen.ref, job_id=str(seen.job_id), uid=seen.uid)


@found_by("delete_twice_does_no_harm")
class RefusesToDeleteWhatIsGone(SimulatedTarget):
    def delete(self, ref, *, job_id, uid):
        if super().find(ref) is None:
            raise RefusedError(f"{ref} does not exist.")
        super().delete(ref, job_id=job_id, uid=uid)


@found_by("delete_until_it_is_gone")
class DeletesNothing(SimulatedTarget):
    def delete(self, ref, *, job_id, uid):
        self._store.load(ref)


@found_by("gone_leaves_nothing_behind")
class LeavesAPartOfEachInstance(SimulatedTarget):
    def delete(self, ref, *, job_id, uid):
        super().delete(ref, job_id=job_id, uid=uid)
        if ref.kind is ResourceKind.INSTANCE:
            self.foreign(ResourceKind.DISK, f"{ref.name}-seed", Owner(job_id, 1).labels())


@found_by("the_same_name_later_is_another_resource")
class TakesTheNameForTheUid(SimulatedTarget):
    def create(self, spec):
        return replace(super().create(spec), uid=spec.ref.name)

    def find(self, ref, job_id=None):
        seen = super().find(ref)
        return seen and replace(seen, uid=ref.name)

    def delete(self, ref, *, job_id, uid):
        seen = super().find(ref)
        super().delete(ref, job_id=job_id, uid=seen.uid if seen and uid == ref.name else uid)


@found_by("what_is_being_deleted_is_shown")
class AnswersNoneWhileDeleting(SimulatedTarget):
    def find(self, ref, job_id=None):
        seen = super().find(ref)
        return None if seen and seen.status is Status.DELETING else seen


@found_by("gone_is_gone_for_good")
class IsGoneAtTheFirstLookOnly(SimulatedTarget):
    def find(self, ref, job_id=None):
        seen = super().find(ref)
        looked = self.root / f"looked-{ref.kind}-{ref.name}"
        if seen and seen.status is Status.DELETING and not looked.exists():
            looked.write_text("")
            return None
        return seen


@found_by("what_is_being_made_is_shown")
class AnswersNoneWhileMaking(SimulatedTarget):
    def find(self, ref, job_id=None):
        seen = super().find(ref)
        return None if seen and seen.status is Status.CREATING else seen


@found_by("what_is_being_made_is_created_only_once")
class StartsAnewWhatIsBeingMade(SimulatedTarget):
    def create(self, spec):
        seen = super().find(spec.ref)
        if seen is not None and seen.status is Status.CREATING:
            self.remove_by_hand(spec.ref)
        return super().create(spec)


@found_by("half_made_is_shown_as_failed")
class ShowsHalfMadeAsReady(SimulatedTarget):
    def find(self, ref, job_id=None):
        seen = super().find(ref)
        return seen and replace(seen, status=Status.READY if seen.status is Status.FAILED else seen.status)


@found_by("half_made_is_in_the_inventory")
class ListsOnlyWhatIsReady(SimulatedTarget):
    def inventory(self):
        return [seen for seen in super().inventory() if seen.status is Status.READY]


@found_by("half_made_is_finished_or_made_anew")
class GivesBackWhatIsHalfMade(SimulatedTarget):
    def create(self, spec):
        seen = super().find(spec.ref)
        return seen if seen is not None and seen.status is Status.FAILED else super().create(spec)
