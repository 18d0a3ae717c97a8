"""Clones in a Compute Engine project. See ``targets.base.Target``.

Nothing is waited for: an insert is started, and ``find`` looks at the resource. Where nothing stands under a name yet,
``find`` looks at the operations too, because an insert that is under way will make it. A request id is the resource's
token: a call that is repeated gets the operation of the first one.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from typing import Any

from targets.base import (
    LABEL_JOB_ID,
    AdaptedImageSpec,
    BootReport,
    BootVerdict,
    DiskSpec,
    InstanceSpec,
    Observed,
    ResourceKind,
    ResourceRef,
    ResourceSpec,
    Status,
    parts_of,
    token,
)
from targets.compute_engine import statuses
from targets.compute_engine.api import DISKS, IMAGES, INSTANCES, REGION_DISKS, Calls, Collection, ComputeApi
from targets.compute_engine.checks import check_sources, check_spec
from targets.compute_engine.errors import AlreadyExistsError, NotFoundError, NotReadyError, operation_error
from targets.compute_engine.mapping import disk_body, image_body, instance_body, is_regional
from targets.compute_engine.options import ComputeEngineOptions
from targets.compute_engine.references import source_of
from targets.errors import ConflictError, RefusedError, SourceGoneError, TargetError, TransientError
from targets.local_files import check_name

Json = dict[str, Any]
_CONSOLE_CHARACTERS = 8 * 1024
_PLACES: Mapping[ResourceKind, tuple[tuple[Collection, Mapping[str, Status]], ...]] = {
    ResourceKind.ADAPTED_IMAGE: ((IMAGES, statuses.IMAGE),),
    ResourceKind.BOOT_IMAGE: ((IMAGES, statuses.IMAGE),),
    ResourceKind.DISK: ((DISKS, statuses.DISK), (REGION_DISKS, statuses.DISK)),
    ResourceKind.INSTANCE: ((INSTANCES, statuses.INSTANCE),),
}


class ComputeEngineTarget:
    """See ``targets.base.Target``. One project and zone; several processes may use it at once."""

    boots_from_image = False

    def __init__(self, options: ComputeEngineOptions, *, name: str, call_timeout_s: float = 30.0) -> None:
        self.name = name
        self.call_timeout_s = call_timeout_s
        self._options = options
        self._api = ComputeApi(options)
        self._booted = re.compile(options.boot_pattern)
        self._no_boot = re.compile(options.no_boot_pattern)

    def close(self) -> None:
        """Close the connections; the next call opens them again."""
        self._api.close()

    def check(self, specs: Sequence[ResourceSpec]) -> None:
        """The plan can be told to Compute Engine, and the sources of its disks are there. See ``Target.check``."""
        for spec in specs:
            check_spec(spec, self._options)
        check_sources(specs, self._begin())

    def create(self, spec: ResourceSpec) -> Observed:
        """See ``Target.create``. Starts the insert and returns what is there by then, mostly CREATING."""
        check_spec(spec, self._options)
        calls = self._begin()
        seen = self._look(calls, spec.ref)
        if seen is not None:
            return self._adopt(calls, spec, seen)
        try:
            return self._insert(calls, spec)
        except AlreadyExistsError as error:  # another call was faster: ours or not, it is what counts
            seen = self._look(calls, spec.ref)
            if seen is None:
                raise TransientError(f"{spec.ref} exists, and does not: {error}") from error
            return self._adopt(calls, spec, seen)

    def find(self, ref: ResourceRef, job_id: str | None = None) -> Observed | None:
        """See ``Target.find``."""
        check_name(ref.name)
        calls = self._begin()
        seen = self._look(calls, ref)
        if seen is not None:
            return seen
        inserts = [
            operation
            for collection, _ in _PLACES[ref.kind]
            for operation in calls.operations(collection, ref.name)
            if operation.get("operationType") == "insert"
        ]
        for operation in inserts:
            if operation.get("status") != "DONE":
                # Whose it is cannot be told yet, and that nothing is there would not stay true.
                raise TransientError(f"{ref} is about to be created (operation {operation.get('name')}).")
        # An insert that ended between the two looks has left something behind.
        return self._look(calls, ref) if inserts else None

    def delete(self, ref: ResourceRef, *, job_id: str, uid: str) -> None:
        """See ``Target.delete``. The call names the numeric id: what has the name by then is not what it deletes."""
        self._delete(self._begin(), ref, job_id, uid)

    def bury(self, job_id: str) -> None:
        """A project has no place for a tombstone. See ``Target.bury``.

        The request id refuses most late calls all the same: one that repeats an insert gets the operation of the first.
        """

    def inventory(self) -> list[Observed]:
        """See ``Target.inventory``. Compute Engine's lists may be some seconds old."""
        calls = self._begin()
        found: list[Observed] = []
        for kind in (ResourceKind.INSTANCE, ResourceKind.DISK, ResourceKind.ADAPTED_IMAGE):
            for collection, _ in _PLACES[kind]:
                found += [
                    self._observed(calls, ResourceRef(kind, each["name"]), collection, each)
                    for each in calls.labelled(collection, LABEL_JOB_ID)
                ]
        return found

    def uri(self, ref: ResourceRef) -> str:
        """See ``targets.base.HasUris``."""
        collection, _ = _PLACES[ref.kind][0]
        place = "global" if collection.scope == "global" else f"zones/{self._options.zone}"
        return f"projects/{self._options.project}/{place}/{collection.name}/{ref.name}"

    def boot_report(self, ref: ResourceRef) -> BootReport:
        """See ``Target.boot_report``. The serial port tells no times, so ``boot_seconds`` is None."""
        try:
            text = self._begin().serial_output(ref.name)
        except (NotFoundError, NotReadyError):  # not there yet, or not running yet
            return BootReport(BootVerdict.WAITING)
        console = text[-_CONSOLE_CHARACTERS:]
        if self._booted.search(text):
            return BootReport(BootVerdict.BOOTED, console)
        if self._no_boot.search(text):
            return BootReport(BootVerdict.NO_BOOT, console, detail="The firmware found no bootable device.")
        return BootReport(BootVerdict.WAITING, console)

    def screenshot(self, ref: ResourceRef) -> bytes | None:
        """See ``Target.screenshot``. Compute Engine gives a JPEG; None without ``virtual_display``."""
        if not self._options.virtual_display:
            return None
        try:
            return base64.b64decode(self._begin().screenshot(ref.name), validate=True) or None
        except (NotFoundError, RefusedError, binascii.Error):  # it is gone, or has no display
            return None

    # Inside

    def _begin(self) -> Calls:
        return self._api.begin(self.call_timeout_s)

    def _get(self, calls: Calls, ref: ResourceRef) -> tuple[Collection, Json] | None:
        for collection, _ in _PLACES[ref.kind]:
            resource = calls.get(collection, ref.name)
            if resource is not None:
                return collection, resource
        return None

    def _look(self, calls: Calls, ref: ResourceRef) -> Observed | None:
        found = self._get(calls, ref)
        return None if found is None else self._observed(calls, ref, *found)

    def _observed(self, calls: Calls, ref: ResourceRef, collection: Collection, resource: Json) -> Observed:
        words = dict(_PLACES[ref.kind])[collection]
        word = str(resource.get("status", ""))
        status = words.get(word, Status.CREATING)  # a state that is new to us passes
        uid, detail = str(resource["id"]), ""
        if word == "STOPPING" and self._is_being_deleted(calls, collection, ref.name, uid):
            status = Status.DELETING
        if status is Status.FAILED:
            error = self._failure(calls, collection, ref.name, uid)
            detail = str(error or f"Compute Engine says {word} and no more.")
        return Observed(ref, uid, status, dict(resource.get("labels", {})), detail)

    def _delete(self, calls: Calls, ref: ResourceRef, job_id: str, uid: str) -> None:
        found = self._get(calls, ref)
        if found is None:
            return
        collection, resource = found
        seen = self._observed(calls, ref, collection, resource)
        if seen.uid != uid or seen.job_id != job_id:
            raise ConflictError(f"{ref} is not the one that was to be deleted; it stays.")
        if seen.status is Status.DELETING:
            return
        try:
            calls.delete(collection, uid)
        except NotFoundError:
            return

    def _is_being_deleted(self, calls: Calls, collection: Collection, name: str, uid: str) -> bool:
        """Or was, since it was looked at: a delete that has ended well is as good as one that is under way."""
        return any(
            each.get("operationType") == "delete" and each.get("targetId") == uid and operation_error(each) is None
            for each in calls.operations(collection, name)
        )

    def _failure(self, calls: Calls, collection: Collection, name: str, uid: str) -> TargetError | None:
        """What the operation that was to make it ended in."""
        ended = (each for each in calls.operations(collection, name) if each.get("targetId") == uid)
        return next((error for each in ended if (error := operation_error(each)) is not None), None)

    def _adopt(self, calls: Calls, spec: ResourceSpec, seen: Observed) -> Observed:
        """What stands under the name already. Raises: ConflictError, TransientError."""
        if seen.job_id != spec.owner.job_id:
            raise ConflictError(f"{spec.ref} exists and does not belong to job {spec.owner.job_id}.")
        match seen.status:
            case Status.DELETING:
                raise TransientError(f"{spec.ref} is still being deleted; try again.")
            case Status.FAILED:
                self._delete(calls, spec.ref, spec.owner.job_id, seen.uid)
                raise TransientError(f"{spec.ref} has failed and is made anew: {seen.detail}")
            case Status.STOPPED:
                return self._power_on(calls, spec.ref, seen)
        return seen

    def _power_on(self, calls: Calls, ref: ResourceRef, seen: Observed) -> Observed:
        resource = calls.get(INSTANCES, ref.name) or {}
        if str(resource.get("id")) != seen.uid:
            raise TransientError(f"{ref} was replaced while it was looked at; try again.")
        calls.power_on(ref.name, suspended=resource.get("status") == "SUSPENDED")
        return self._look(calls, ref) or seen

    def _insert(self, calls: Calls, spec: ResourceSpec) -> Observed:
        """Start the insert, or learn what became of the one that was started before with the same token.

        A token whose operation has ended and left nothing is used up: its insert failed for now, or what it made was
        deleted since. The next one is derived from that operation, so every process that comes here takes the same one.
        """
        collection, body = self._body(calls, spec)
        source = source_of(spec.snapshot).path if isinstance(spec, DiskSpec | AdaptedImageSpec) else ""
        request_id = self._next_token(calls.operations(collection, spec.ref.name), spec, source)
        try:
            operation = calls.insert(collection, body, request_id)
        except NotFoundError as error:
            if source and source in str(error):
                raise SourceGoneError(f"The pinned snapshot is gone: {error}") from error
            raise RefusedError(f"{spec.ref} cannot be made: {error}") from error
        if operation.get("status") != "DONE":
            uid, labels = str(operation.get("targetId", "")), dict(body["labels"])
            return Observed(spec.ref, uid, Status.CREATING, labels, progress_percent=operation.get("progress"))
        seen = self._look(calls, spec.ref)
        if seen is not None:
            return self._adopt(calls, spec, seen)
        raise operation_error(operation, source) or TransientError(f"{spec.ref} was made and is gone again.")

    @staticmethod
    def _next_token(operations: Sequence[Json], spec: ResourceSpec, source: str) -> str:
        """Raises: TargetError for an earlier insert that was refused for good."""
        job_id, name = spec.owner.job_id, spec.ref.name
        ended = {each.get("clientOperationId"): each for each in operations if each.get("status") == "DONE"}
        request_id = token(job_id, name)
        while (operation := ended.pop(request_id, None)) is not None:
            error = operation_error(operation, source)
            if error is not None and not error.retryable:
                raise error
            request_id = token(job_id, f"{name}/{operation['name']}")
        return request_id

    def _body(self, calls: Calls, spec: ResourceSpec) -> tuple[Collection, Json]:
        self._require_parts(calls, spec)
        match spec:
            case AdaptedImageSpec():
                return IMAGES, image_body(spec, self._options)
            case DiskSpec():
                return REGION_DISKS if is_regional(spec.details) else DISKS, disk_body(spec, self._options)
            case InstanceSpec():

                def address_of(project: str, region: str, name: str) -> str:
                    return str(calls.address(project, region, name)["address"])

                return INSTANCES, instance_body(spec, self._options, address_of)
        raise AssertionError(spec)

    def _require_parts(self, calls: Calls, spec: ResourceSpec) -> None:
        """Raises: RefusedError."""
        for part in parts_of(spec):
            seen = self._look(calls, part)
            if seen is None or seen.status is not Status.READY or seen.job_id != spec.owner.job_id:
                raise RefusedError(f"{spec.ref} needs {part}, which is not ready.")
