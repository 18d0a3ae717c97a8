"""Starting the one instance of a job, and never a second one.

A look by tag comes first, the client token second: where one fails the other holds. After the call we look until EC2
lists what it made, because a reply may be lost and its lists lag behind.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from targets.base import LABEL_JOB_ID, InstanceSpec, Observed, ResourceKind, ResourceRef, Status
from targets.ec2 import images
from targets.ec2.checks import require_isolation
from targets.ec2.client import Calls
from targets.ec2.errors import MissingError, UnknownOutcomeError
from targets.ec2.instances import Group, Instance, View
from targets.ec2.options import Ec2Options
from targets.ec2.requests import run_instances
from targets.ec2.tags import LIVES, tags_of
from targets.errors import ConflictError, RefusedError, TransientError


def finish(calls: Calls, spec: InstanceSpec, options: Ec2Options, view: View, seen: Observed) -> Observed:
    """Bring what exists of ours to what was asked for. Raises: TargetError."""
    if seen.status is Status.DELETING:
        raise TransientError(f"{spec.ref} is still being deleted; try again.")
    if view.group is None:  # volumes of an instance that AWS ended at its start
        delete_volumes(calls, view, spec.owner.job_id)
        return launch(calls, spec, options, replace(view, volumes=()))
    if seen.status is Status.FAILED:
        raise RefusedError(f"{spec.ref} cannot be used: {seen.detail}")
    if seen.status is Status.STOPPED:
        calls("start_instances", InstanceIds=view.group.live)
        return _now(calls, spec, replace(seen, status=Status.CREATING, detail="is starting"))
    return seen


def launch(calls: Calls, spec: InstanceSpec, options: Ec2Options, view: View) -> Observed:
    """Start the instance where nothing of that name lives. Raises: TargetError."""
    image_id, devices = _ready_image(calls, spec)
    require_isolation(calls, options)
    past = [group for group in view.groups if group.job_id == spec.owner.job_id]
    _refuse_to_repeat(past)
    first = max((group.life for group in past), default=-1) + 1
    for life in range(first, LIVES):
        request = run_instances(spec, options, image_id=image_id, devices=devices, life=life)
        group, others = _run(calls, spec, request, life)
        if not group.gone:
            return _only_one(calls, spec, group, others)
        _refuse_to_repeat([group])  # the token stood for an instance that is terminated: the next life has another
    raise RefusedError(f"{spec.ref} was terminated {LIVES} times while it was being made.")


def _run(calls: Calls, spec: InstanceSpec, request: Mapping[str, Any], life: int) -> tuple[Group, list[Group]]:
    """One RunInstances and a look at what came of it: ours, and what others have that was started no later.

    While EC2 does not list it, it is what the reply said. Raises: TargetError.
    """
    seen: list[View] = []

    def is_mine(group: Group) -> bool:
        return (group.job_id, group.life) == (spec.owner.job_id, life)

    def look() -> bool:
        seen[:] = [View.of(calls, spec.ref.name, spec.owner.job_id)]
        return any(is_mine(group) for group in seen[0].groups)

    reply: list[Instance] = []
    lost: TransientError | None = None
    try:
        reply = [Instance.of(raw) for raw in calls("run_instances", **request)["Instances"]]
    except UnknownOutcomeError as error:
        lost = error
    except MissingError as error:
        raise TransientError(str(error)) from error  # not all of EC2 knows the image yet
    if calls.until_seen(look):
        mine = next(group for group in seen[0].groups if is_mine(group))
        return mine, seen[0].rivals(mine)
    if lost is not None:
        raise lost
    unlisted = tuple(each if each.gone else replace(each, state="pending") for each in reply)
    return Group(spec.ref.name, spec.owner.job_id, life, unlisted), []


def _only_one(calls: Calls, spec: InstanceSpec, group: Group, others: list[Group]) -> Observed:
    """The instance, if it is the only one of its name. Raises: RefusedError, ConflictError.

    Twins under one token stay, shown as FAILED, until clean-up has deleted them all. Two jobs that take one name (the
    same vm_name) at the same moment both find it free; then the younger one, or both if EC2's times do not tell, ends its
    own here. If its worker dies before that, ``find`` shows it as FAILED, and clean-up ends it.
    """
    mine = group.observed()
    if mine.status is Status.FAILED:
        raise RefusedError(f"{spec.ref} cannot be used: {mine.detail}")
    if others:
        calls("terminate_instances", InstanceIds=group.live)
        raise ConflictError(
            f"{spec.ref} was made by another job at the same moment ({others[0].job_id}); ours was ended."
        )
    return mine


def _refuse_to_repeat(groups: list[Group]) -> None:
    for group in groups:
        if group.died_of:
            raise RefusedError(f"EC2 ended {group.members[0].id} at its start: {group.died_of}")


def _ready_image(calls: Calls, spec: InstanceSpec) -> tuple[str, list[str]]:
    """The image's id and the names of its devices. Raises: RefusedError."""
    assert spec.boot_image is not None
    ref = ResourceRef(ResourceKind.BOOT_IMAGE, spec.boot_image)
    found: list[Mapping[str, Any]] = []

    def look() -> bool:
        found[:] = [raw] if (raw := images.named(calls, ref)) is not None else []
        return bool(found)

    if calls.until_seen(look):
        seen = images.observed(found[0])
        if seen.status is Status.READY and seen.job_id == spec.owner.job_id:
            return seen.uid, [each["DeviceName"] for each in found[0].get("BlockDeviceMappings", ())]
    raise RefusedError(f"{spec.ref} needs {ref}, which is not ready.")


def _now(calls: Calls, spec: InstanceSpec, otherwise: Observed) -> Observed:
    group = View.of(calls, spec.ref.name, spec.owner.job_id).group
    if group is None or group.job_id != spec.owner.job_id or group.observed().status is Status.STOPPED:
        return otherwise
    return group.observed()


def delete_volumes(calls: Calls, view: View, job_id: str) -> None:
    """Delete the job's volumes that outlived their instance. Raises: TargetError."""
    for volume in view.volumes:
        if tags_of(volume)[LABEL_JOB_ID] == job_id and volume["State"] in ("available", "error"):
            with contextlib.suppress(MissingError):  # gone since the look
                calls("delete_volume", VolumeId=volume["VolumeId"])
