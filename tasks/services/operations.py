"""google.longrunning.Operations."""

from __future__ import annotations

import builtins
from collections.abc import Iterable
from typing import Unpack

from models.catalog import JobRecord
from models.schema import CloneJob, MigratingVm, Operation, Source, TargetProject
from models.states import Verdict
from tasks.dispatch import dispatch_cleanup
from tasks.errors import FailedPrecondition, NotFound
from tasks.runtime import Runtime
from tasks.services.common import Page, Paging, list_page, must_get, result_of

Result = CloneJob | JobRecord | MigratingVm | Source | TargetProject
_RESULT: dict[str, type[CloneJob | MigratingVm | Source | TargetProject]] = {
    "cloneJobs": CloneJob,
    "migratingVms": MigratingVm,
    "sources": Source,
    "targetProjects": TargetProject,
}


class OperationService:
    """Operations outlive the call that started them; the result is the resource as it is now (AIP-155 allows it)."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._catalog = runtime.catalog

    def get(self, name: str) -> tuple[Operation, Result | None]:
        """The operation and the resource that it is about, None if that is gone. Raises: NotFound."""
        return self._with_results([must_get(self._catalog, Operation, name)])[0]

    def list(self, parent: str, **paging: Unpack[Paging]) -> Page[tuple[Operation, Result | None]]:
        """Newest first. Raises: InvalidArgument."""
        page = list_page(self._runtime, Operation, parent, paging)
        return Page(self._with_results(page.items), page.next_page_token, page.token_after)

    def cancel(self, name: str) -> None:
        """Best effort: cancels the clone job of a create that still runs (``CLONEJOB_CREATE_OPERATION=finished``), which
        ends the operation with CANCELLED. What cannot be cancelled goes on; that it was asked for is noted. An operation
        that is done stays as it is. Raises: NotFound."""
        operation = must_get(self._catalog, Operation, name)
        if operation.end_time is not None:
            return
        self._catalog.request_cancellation(name)
        if operation.verb == "create" and operation.job_id is not None:
            # A job that has its verdict already keeps it.
            self._runtime.store.settle(operation.job_id, Verdict.CANCEL, reason="its operation was cancelled")
            dispatch_cleanup(self._runtime, operation.job_id)

    def delete(self, name: str) -> None:
        """Forget the operation; it is not cancelled. Raises: NotFound; FailedPrecondition while its job runs, because its
        outcome is not known yet."""
        operation = must_get(self._catalog, Operation, name)
        job = self._runtime.store.get_job(operation.job_id) if operation.job_id else None
        if job is not None and job.end_time is None:
            raise FailedPrecondition(name, f"{name} belongs to a running clone job; delete it when the job has ended",
                                     reason="OPERATION_IN_USE")  # fmt: skip
        if not self._catalog.forget_operation(name):
            raise NotFound("Operation", name)

    def _with_results(self, operations: Iterable[Operation]) -> builtins.list[tuple[Operation, Result | None]]:
        rows = list(operations)
        found: dict[str, Result] = {}
        for collection, cls in _RESULT.items():
            if names := {row.target for row in rows if row.target.split("/")[-2] == collection}:
                found |= self._catalog.get_many(cls, names)
        return [(row, result_of(row, found.get(row.target))) for row in rows]
