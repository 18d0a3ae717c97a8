"""Amazon EC2 as a target: a temporary image of the pinned EBS snapshots, and one instance started from it.

docs/ec2.md has the set-up, the isolation and what becomes of each field of the target details. Nothing is kept in the
process; what exists is asked of EC2 at every call. EC2 keeps no tombstones.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence

from targets.base import (
    BootImageSpec,
    BootReport,
    BootVerdict,
    InstanceSpec,
    Observed,
    ResourceKind,
    ResourceRef,
    ResourceSpec,
    Status,
)
from targets.ec2 import checks, images, launching
from targets.ec2.client import Api, Calls
from targets.ec2.console import boot_report
from targets.ec2.errors import MissingError
from targets.ec2.instances import View, groups_of, leftovers, listed
from targets.ec2.options import Ec2Options
from targets.errors import ConflictError, RefusedError, UnsupportedError
from targets.local_files import check_job_id, check_name

_OURS = [{"Name": "tag-key", "Values": ["clonejob-id"]}]


class Ec2Target:
    """See ``targets.base.Target``."""

    boots_from_image = True

    def __init__(self, options: Ec2Options, *, name: str = "ec2", call_timeout_s: float = 30.0) -> None:
        self.name = name
        self.call_timeout_s = call_timeout_s
        self._options = options
        self._api = Api(options, call_timeout_s)
        self._booted = re.compile(options.boot_pattern)

    def check(self, specs: Sequence[ResourceSpec]) -> None:
        """See ``Target.check``. Asks EC2 for the snapshots, the isolation and the permission to make things."""
        for spec in specs:
            check_name(spec.ref.name)
            checks.check_spec(spec, self._options)
        calls = self._api.begin()
        for spec in specs:
            if isinstance(spec, BootImageSpec):
                checks.require_snapshots(calls, spec.snapshots)
        checks.require_isolation(calls, self._options)
        checks.probe_permissions(calls, specs, self._options)

    def create(self, spec: ResourceSpec) -> Observed:
        """See ``Target.create``."""
        check_name(spec.ref.name)
        check_job_id(spec.owner.job_id)
        try:
            checks.check_spec(spec, self._options)
            calls = self._api.begin()
            if isinstance(spec, BootImageSpec):
                return images.create(calls, spec, self._options)
            assert isinstance(spec, InstanceSpec)
            return self._create_instance(calls, spec)
        except UnsupportedError as error:
            raise RefusedError(str(error)) from error

    def _create_instance(self, calls: Calls, spec: InstanceSpec) -> Observed:
        view = View.of(calls, spec.ref.name, spec.owner.job_id)
        seen = view.observed()
        if seen is None:
            return launching.launch(calls, spec, self._options, view)
        if seen.job_id != spec.owner.job_id:
            raise ConflictError(f"{spec.ref} exists as {seen.uid} and does not belong to job {spec.owner.job_id}.")
        return launching.finish(calls, spec, self._options, view, seen)

    def find(self, ref: ResourceRef, job_id: str | None = None) -> Observed | None:
        """See ``Target.find``."""
        check_name(ref.name)
        calls = self._api.begin()
        if ref.kind is ResourceKind.BOOT_IMAGE:
            return images.find(calls, ref)
        return View.of(calls, ref.name, job_id).observed() if ref.kind is ResourceKind.INSTANCE else None

    def delete(self, ref: ResourceRef, *, job_id: str, uid: str) -> None:
        """See ``Target.delete``. An instance's volumes end with it; what outlived it is deleted by a second call."""
        check_name(ref.name)
        calls = self._api.begin()
        if ref.kind is ResourceKind.BOOT_IMAGE:
            images.delete(calls, ref, job_id=job_id, uid=uid)
        elif ref.kind is ResourceKind.INSTANCE:
            _delete_instance(calls, ref, job_id=job_id, uid=uid)

    def bury(self, job_id: str) -> None:
        """EC2 has no means: see the residual window in docs/guarantee.md."""
        check_job_id(job_id)

    def inventory(self) -> list[Observed]:
        """See ``Target.inventory``."""
        calls = self._api.begin()
        groups = groups_of(listed(calls, _OURS))
        there = [group.observed() for group in groups if not group.gone]
        return [*images.everything(calls), *there, *leftovers(calls, groups, _OURS)]

    def boot_report(self, ref: ResourceRef) -> BootReport:
        """The serial console, which EC2 hands out with a delay. See ``Target.boot_report``."""
        calls = self._api.begin()
        seen = View.of(calls, ref.name).observed()
        if seen is None or seen.status not in (Status.READY, Status.STOPPED):
            return BootReport(BootVerdict.WAITING)
        return boot_report(calls, seen.uid, self._booted)

    def screenshot(self, ref: ResourceRef) -> bytes | None:
        """None: EC2 hands out JPEG only, and a PNG is promised. See ``Target.screenshot``."""
        return None


def _delete_instance(calls: Calls, ref: ResourceRef, *, job_id: str, uid: str) -> None:
    view = View.of(calls, ref.name, job_id)
    seen = view.observed()
    if seen is None:
        return
    if (seen.job_id, seen.uid) != (job_id, uid):
        raise ConflictError(f"{ref} is not the one that was to be deleted; it stays.")
    if view.group is None:
        launching.delete_volumes(calls, view, job_id)
    elif view.group.live:
        with contextlib.suppress(MissingError):  # gone since the look
            calls("terminate_instances", InstanceIds=view.group.live)
