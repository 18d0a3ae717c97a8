"""More of them: owners, names, plans, tombstones and what a guest shows."""

from __future__ import annotations

import time
from dataclasses import replace

from contract.broken_targets import found_by

from targets.base import BootReport, BootVerdict, InstanceSpec, Owner, ResourceKind, ResourceRef, Status
from targets.errors import RefusedError, TransientError
from targets.local_files import is_legal_name
from targets.simulated import SimulatedTarget


@found_by("what_a_user_made_is_not_taken_over")
class TakesOverWhatAUserMade(SimulatedTarget):
    def create(self, spec):
        seen = super().find(spec.ref)
        return seen if seen is not None and seen.job_id is None else super().create(spec)


@found_by("what_a_user_made_is_not_deleted")
class DeletesWhatAUserMade(SimulatedTarget):
    def delete(self, ref, *, job_id, uid):
        seen = super().find(ref)
        if seen is not None and seen.job_id is None and seen.uid == uid:
            self.remove_by_hand(ref)
        super().delete(ref, job_id=job_id, uid=uid)


@found_by("what_a_user_made_is_not_in_the_inventory")
class ListsWhatUsersMade(SimulatedTarget):
    def inventory(self):
        return self.everything()


@found_by("job_ids_that_begin_alike_are_two_jobs")
class ComparesTheBeginningOfJobIds(SimulatedTarget):
    def create(self, spec):
        seen = super().find(spec.ref)
        if seen is not None and seen.job_id and spec.owner.job_id.startswith(seen.job_id):
            return seen
        return super().create(spec)


@found_by("the_inventory_shows_every_kind")
class ListsNoImages(SimulatedTarget):
    def inventory(self):
        return [seen for seen in super().inventory() if seen.ref.kind is not ResourceKind.ADAPTED_IMAGE]


@found_by("the_longest_name_works")
class CutsNames(SimulatedTarget):
    def create(self, spec):
        made = super().create(replace(spec, ref=self.cut(spec.ref)))
        return replace(made, ref=spec.ref)

    def find(self, ref, job_id=None):
        return super().find(self.cut(ref))

    def cut(self, ref):
        return ResourceRef(ref.kind, ref.name[:48])


@found_by("illegal_names_are_refused")
class MakesNamesLegal(SimulatedTarget):
    def create(self, spec):
        legal = spec.ref.name if is_legal_name(spec.ref.name) else f"legal-{spec.ref.name.encode().hex()}"[:100]
        return super().create(replace(spec, ref=ResourceRef(spec.ref.kind, legal)))


@found_by("illegal_job_ids_are_refused")
class MakesJobIdsLegal(SimulatedTarget):
    def create(self, spec):
        job_id = spec.owner.job_id.lower().replace("/", "-").replace(".", "").replace(" ", "").strip("-")[:63]
        return super().create(replace(spec, owner=Owner(job_id or "none", spec.owner.epoch)))


@found_by("check_makes_nothing")
class MakesThingsInCheck(SimulatedTarget):
    def check(self, specs):
        for spec in specs:
            if not isinstance(spec, InstanceSpec):
                self.foreign(spec.ref.kind, spec.ref.name, spec.owner.labels())


@found_by("an_unknown_machine_type_is_told_by_check")
class TellsOfTheMachineTypeTooLate(SimulatedTarget):
    def create(self, spec):
        if isinstance(spec, InstanceSpec) and spec.machine_type:
            raise RefusedError(f"There is no machine type {spec.machine_type}.")
        return super().create(spec)


class Parts(SimulatedTarget):
    """Does not look at the parts of an instance as it should."""

    def create(self, spec):
        if isinstance(spec, InstanceSpec) and all(self.accepts(name) for name in spec.disks):
            spec = replace(spec, disks=())
        return super().create(spec)


@found_by("an_instance_without_its_parts_is_refused")
class NeedsNoDisks(Parts):
    def accepts(self, name):
        return True


@found_by("parts_of_another_job_are_refused")
class TakesAnyDisk(Parts):
    def accepts(self, name):
        return super().find(ResourceRef(ResourceKind.DISK, name)) is not None


@found_by("an_instance_without_its_parts_is_refused")
class LeavesWhatItRefused(SimulatedTarget):
    def create(self, spec):
        try:
            return super().create(spec)
        except RefusedError:
            self.foreign(spec.ref.kind, spec.ref.name, spec.owner.labels())
            raise


@found_by("a_name_that_another_job_has_is_found_taken")
class ShowsAJobItsOwnAlone(SimulatedTarget):
    def find(self, ref, job_id=None):
        seen = super().find(ref)
        return seen if seen is None or job_id in (None, seen.job_id) else None


@found_by("a_disk_does_not_need_its_adapted_image")
class LosesDisksWithTheirImage(SimulatedTarget):
    def delete(self, ref, *, job_id, uid):
        super().delete(ref, job_id=job_id, uid=uid)
        if ref.kind is ResourceKind.ADAPTED_IMAGE:
            for seen in self.inventory():
                if seen.job_id == job_id and seen.ref.kind is ResourceKind.DISK:
                    self.remove_by_hand(seen.ref)


@found_by("nothing_is_made_for_a_buried_job")
class KeepsTombstonesForDisksOnly(SimulatedTarget):
    def create(self, spec):
        if spec.ref.kind is ResourceKind.INSTANCE:
            (self.root / "tombstones" / spec.owner.job_id).unlink(missing_ok=True)
        return super().create(spec)


@found_by("a_burial_is_for_one_job")
class BuriesAllJobsThatBeginAlike(SimulatedTarget):
    def create(self, spec):
        for tomb in (self.root / "tombstones").iterdir():
            if spec.owner.job_id.startswith(tomb.name):
                self.bury(spec.owner.job_id)
        return super().create(spec)


@found_by("a_burial_deletes_nothing")
class DeletesWithTheBurial(SimulatedTarget):
    def bury(self, job_id):
        super().bury(job_id)
        for seen in self.inventory():
            if seen.job_id == job_id:
                self.remove_by_hand(seen.ref)


@found_by("a_stopped_instance_is_shown")
class ForgetsStoppedInstances(SimulatedTarget):
    def find(self, ref, job_id=None):
        seen = super().find(ref)
        return None if seen and seen.status is Status.STOPPED else seen


@found_by("a_stopped_instance_is_started_again")
class LeavesStoppedInstances(SimulatedTarget):
    def create(self, spec):
        seen = super().find(spec.ref)
        return seen if seen and seen.status is Status.STOPPED else super().create(spec)


@found_by("throttling_is_a_transient_error")
class TakesThrottlingForARefusal(SimulatedTarget):
    def find(self, ref, job_id=None):
        try:
            return super().find(ref)
        except TransientError as error:
            raise RefusedError(str(error)) from error


@found_by("calls_end_in_time")
class TakesTooLong(SimulatedTarget):
    def inventory(self):
        time.sleep(1.2 * self.call_timeout_s)
        return super().inventory()


@found_by("what_does_not_exist_is_not_found")
class LetsErrorsOut(SimulatedTarget):
    def find(self, ref, job_id=None):
        return {seen.ref: seen for seen in self.everything()}[ref]


@found_by("the_boot_report_is_one_at_any_time")
class ReportsBytes(SimulatedTarget):
    def boot_report(self, ref):
        return BootReport(BootVerdict.WAITING, console=b"BOOTED")


@found_by("the_guest_is_seen_to_boot")
class NeverSeesABoot(SimulatedTarget):
    def boot_report(self, ref):
        return BootReport(BootVerdict.WAITING)


@found_by("the_screenshot_is_a_png")
class TakesPicturesAsJpeg(SimulatedTarget):
    def screenshot(self, ref):
        return b"\xff\xd8\xff\xe0" if super().find(ref) else None
