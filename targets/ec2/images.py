"""The temporary image: made from the pinned snapshots, which it only names, and removed before success."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from targets.base import LABEL_JOB_ID, BootImageSpec, Observed, ResourceKind, ResourceRef, Status
from targets.ec2.client import Calls
from targets.ec2.errors import MissingError, UnknownOutcomeError
from targets.ec2.options import Ec2Options
from targets.ec2.requests import image_name, name_of_image, register_image
from targets.ec2.tags import NAME_TAG, labels_of, owner_in, tags, tags_of
from targets.errors import ConflictError, RefusedError, TransientError

_STATUS = {"pending": Status.CREATING, "transient": Status.CREATING, "available": Status.READY}
_DUPLICATE = "InvalidAMIName.Duplicate"


def named(calls: Calls, ref: ResourceRef) -> Mapping[str, Any] | None:
    """The image of that name as AWS lists it."""
    filters = [{"Name": "name", "Values": [image_name(ref.name)]}]
    found = calls.pages("describe_images", "Images", Owners=["self"], Filters=filters)
    there = [each for each in found if each.get("State") != "deregistered"]
    return min(there, key=lambda each: (each.get("CreationDate", ""), each["ImageId"]), default=None)


def find(calls: Calls, ref: ResourceRef) -> Observed | None:
    """What has the image's name, which is unique in an account and region."""
    found = named(calls, ref)
    return None if found is None else observed(found)


def everything(calls: Calls) -> list[Observed]:
    """All images of ours, by tag or by description."""
    found = calls.pages("describe_images", "Images", Owners=["self"])
    return [
        seen for each in found if each.get("State") != "deregistered" and (seen := observed(each)).job_id is not None
    ]


def observed(raw: Mapping[str, Any]) -> Observed:
    """An image as AWS lists it. Without its tags yet it is half made."""
    found = tags_of(raw)
    said = owner_in(raw.get("Description", ""))
    untagged = bool(said) and LABEL_JOB_ID not in found
    labels = labels_of({**said, **found}, ours=True)
    status = _STATUS.get(raw.get("State", ""), Status.FAILED)
    detail = raw.get("StateReason", {}).get("Message", "") or (
        "" if status is Status.READY else f"is {raw.get('State')}"
    )
    if untagged and status is Status.READY:
        status, detail = Status.FAILED, "is registered, but not tagged yet"
    ref = ResourceRef(ResourceKind.BOOT_IMAGE, found.get(NAME_TAG) or name_of_image(raw.get("Name", "")))
    return Observed(ref, raw["ImageId"], status, labels, detail)


def create(calls: Calls, spec: BootImageSpec, options: Ec2Options) -> Observed:
    """Get or create. See ``Target.create``."""
    raw = named(calls, spec.ref) or _registered(calls, spec, options)
    seen = observed(raw)
    if seen.job_id != spec.owner.job_id:
        raise ConflictError(f"{spec.ref} exists as {seen.uid} and does not belong to job {spec.owner.job_id}.")
    if LABEL_JOB_ID not in tags_of(raw) and seen.status is not Status.CREATING:
        calls("create_tags", Resources=[seen.uid], Tags=tags(spec.ref, spec.owner, spec.labels))
        return observed(named(calls, spec.ref) or raw)
    return seen


def _registered(calls: Calls, spec: BootImageSpec, options: Ec2Options) -> Mapping[str, Any]:
    """Register, and look until EC2 lists it: as listed, or as good as the reply said. Raises: TargetError."""
    request = register_image(spec, options)
    seen: list[Mapping[str, Any]] = []
    lost: TransientError | None = None
    reply: Mapping[str, Any] = {}

    def look() -> bool:
        seen[:] = [found] if (found := named(calls, spec.ref)) is not None else []
        return bool(seen)

    try:
        reply = calls("register_image", **request)
    except UnknownOutcomeError as error:
        lost = error
    except RefusedError as error:
        if _DUPLICATE not in str(error):
            raise
        lost = TransientError(f"{error}; it is not listed yet")
    if calls.until_seen(look):
        return seen[0]
    if lost is not None:
        raise lost
    return {"ImageId": reply["ImageId"], "Name": request["Name"], "Description": request["Description"],
            "State": "pending"}  # fmt: skip


def delete(calls: Calls, ref: ResourceRef, *, job_id: str, uid: str) -> None:
    """Deregister; the snapshots are never touched. See ``Target.delete``."""
    seen = find(calls, ref)
    if seen is None:
        return
    if (seen.job_id, seen.uid) != (job_id, uid):
        raise ConflictError(f"{ref} is not the one that was to be deleted; it stays.")
    with contextlib.suppress(MissingError):  # gone since the look
        calls("deregister_image", ImageId=uid)
