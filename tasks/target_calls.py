"""Every call to a target, as a named I/O point: ``target.create.disk``, ``target.find.instance``, …

Only ``tasks/cleanup.py`` calls ``delete`` and ``bury``; a test holds that.
"""

from __future__ import annotations

import datetime as dt

from models import io_points
from models.schema import CloneJob, LedgerRow
from targets.adaptation_keeper import AdaptationKeeper
from targets.base import AdaptedImageSpec, BootReport, Observed, ResourceKind, ResourceRef, Target
from targets.errors import TransientError
from tasks.plan import ref_of, spec_of
from tasks.runtime import Runtime

for _kind in ResourceKind:
    for _call in ("create", "find", "delete"):
        io_points.register(f"target.{_call}.{_kind}")
io_points.register("target.check.job")
io_points.register("target.kept.adapted_image")
io_points.register("target.boot_report.instance")
io_points.register("target.screenshot.instance")
io_points.register("target.bury.job")
io_points.register("target.inventory.all")


class TargetCalls:
    """The target of one job, with its calls numbered."""

    def __init__(self, runtime: Runtime, name: str) -> None:
        """Raises: TransientError if the target is not configured here: it may be again, so clean-up keeps trying."""
        target = runtime.targets.get(name)
        if target is None:
            known = ", ".join(sorted(runtime.targets)) or "none"
            raise TransientError(f"target {name!r} is not configured on this worker; configured: {known}")
        self._target: Target = target

    def check(self, job: CloneJob) -> None:
        """Ask whether the plan can work there."""
        io_points.call("target.check.job", self._target.check, [spec_of(job, row) for row in job.ledger])

    def kept_adaptation(self, job: CloneJob) -> dt.datetime | None:
        """When the target made the adapted result that it keeps for the job's boot disk; None if it keeps none."""
        spec = next((spec_of(job, row) for row in job.ledger if row.kind == ResourceKind.ADAPTED_IMAGE), None)
        if not isinstance(spec, AdaptedImageSpec) or not isinstance(self._target, AdaptationKeeper):
            return None
        return io_points.call("target.kept.adapted_image", self._target.kept_adaptation, spec)

    def create(self, job: CloneJob, row: LedgerRow) -> Observed:
        """Get or create the row's resource."""
        return io_points.call(f"target.create.{row.kind}", self._target.create, spec_of(job, row))

    def find(self, row: LedgerRow) -> Observed | None:
        """What stands under the row's name now."""
        return self.find_ref(ref_of(row), row.job_id)

    def find_ref(self, ref: ResourceRef, job_id: str | None) -> Observed | None:
        """What stands under a name that may be in no ledger: that job's own before anybody else's."""
        return io_points.call(f"target.find.{ref.kind}", self._target.find, ref, job_id)

    def inventory(self) -> list[Observed]:
        """Everything that exists there with a label of ours."""
        return io_points.call("target.inventory.all", self._target.inventory)

    def delete(self, ref: ResourceRef, *, job_id: str, uid: str) -> None:
        """Start deleting exactly what was observed."""
        io_points.call(f"target.delete.{ref.kind}", self._target.delete, ref, job_id=job_id, uid=uid)

    def bury(self, job_id: str) -> None:
        """Have late creates for the job refused."""
        io_points.call("target.bury.job", self._target.bury, job_id)

    def boot_report(self, row: LedgerRow) -> BootReport:
        """What the instance's console shows."""
        return io_points.call("target.boot_report.instance", self._target.boot_report, ref_of(row))

    def screenshot(self, row: LedgerRow) -> bytes | None:
        """What the instance's screen shows, as PNG."""
        return io_points.call("target.screenshot.instance", self._target.screenshot, ref_of(row))

    @property
    def boots_from_image(self) -> bool:
        """See ``targets.base.Target``."""
        return self._target.boots_from_image
