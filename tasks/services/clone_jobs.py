"""Create, read and cancel clone jobs."""

from __future__ import annotations

import builtins
import uuid
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Literal, Unpack, overload

from models.catalog import JobRecord
from models.job_polls import JobPolls
from models.operations import RequestIdReused
from models.schema import CloneJob, JobEvent, MigratingVm, Operation
from models.states import JobState, Verdict
from models.store import ActiveJobExists, CancelRefused, CyclePruned, JobExists, VmNotCloneable
from targets.base import uri_of
from tasks.dispatch import dispatch_cleanup, dispatch_steps
from tasks.errors import Aborted, AlreadyExists, FailedPrecondition, NotFound
from tasks.names import check_id
from tasks.plan import plan_job
from tasks.runtime import Runtime
from tasks.services import preconditions
from tasks.services.common import Page, Paging, Request, list_page, must_get, new_operation, result_of, reused
from tasks.services.disks_target import check_can_make_disks, check_has_disks


class CloneJobService:
    """Clone jobs. Accepted if and only if the row exists (R7); nothing here waits for the broker."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._store = runtime.store
        self._catalog = runtime.catalog

    def create(self, parent: str, clone_job_id: str, request: Request) -> tuple[Operation, CloneJob | JobRecord | None]:
        """Plan a job for the VM ``parent`` from its latest successful cycle, store it, hint that there is work.

        Raises: InvalidArgument, NotFound (VM), FailedPrecondition (not cloneable; says what is missing),
        Aborted (a clone of the VM runs; names it), AlreadyExists.
        """
        name = f"{parent}/cloneJobs/{check_id('clone_job_id', clone_job_id)}"
        operation = new_operation("create", "CreateCloneJob", name, request)
        try:
            if earlier := self._catalog.replayed(operation):
                return earlier, result_of(earlier, self._catalog.job(earlier.target))
            job = self._plan(parent, name)
            ends_with_job = self._runtime.create_operation_ends_with_job
            row = self._store.create_job(job, operation, ends_with_job=ends_with_job)
        except RequestIdReused as error:
            raise reused(error) from None
        except JobExists:
            raise AlreadyExists("CloneJob", name) from None
        except VmNotCloneable as error:  # between the plan and the row
            if error.args[0] is None:
                raise NotFound("MigratingVm", parent) from None
            raise preconditions.not_cloneable(parent, error.args[0]) from None
        except CyclePruned:  # between the plan and the row: a newer cycle has come
            raise Aborted("the cycle that was latest a moment ago was pruned; try again: a newer one has come",
                          reason="CYCLE_PRUNED", metadata={"resource": parent}) from None  # fmt: skip
        except ActiveJobExists as error:
            raise Aborted(
                f"a clone of this MigratingVm is running: {error.args[0]}; wait for it or cancel it",
                reason="CLONE_JOB_RUNNING",
                metadata={"resource": error.args[0]},
            ) from None
        if row.job_id != job.id:  # a replay that raced with us
            return row, result_of(row, self._catalog.job(row.target))
        dispatch_steps(self._runtime, job)
        return row, job

    def _plan(self, parent: str, name: str) -> CloneJob:
        ground = self._catalog.clone_ground(parent)
        if ground is None:
            raise NotFound("MigratingVm", parent)
        vm = ground.vm
        cycle = preconditions.latest_cycle(ground)
        preconditions.check_state(self._runtime, vm)
        target = preconditions.target_of(self._runtime, ground)
        check_can_make_disks(self._runtime, vm, target)
        check_has_disks(vm, cycle)
        planned = partial(
            plan_job, job_id=uuid.uuid4().hex, name=name, vm=vm, cycle=cycle, target=target, now=self._store.clock(),
            boots_from_image=self._runtime.targets[target].boots_from_image,
            clone_mode=preconditions.clone_mode(self._runtime, ground, target),
            uri_of=partial(uri_of, self._runtime.targets[target]),
        )  # fmt: skip
        job = planned()
        preconditions.check_target(self._runtime, job)
        kept = preconditions.kept_since(self._runtime, job)
        return planned(kept_since=kept) if kept else job

    @overload
    def get(self, name: str) -> CloneJob: ...
    @overload
    def get(self, name: str, *, ledger: Literal[False]) -> JobRecord: ...
    def get(self, name: str, *, ledger: bool = True) -> CloneJob | JobRecord:
        """The job; without ``ledger`` what clients see of it, which costs less. Raises: NotFound."""
        job = self._catalog.get(CloneJob, name) if ledger else self._catalog.job(name)
        if job is None:
            raise NotFound("CloneJob", name)
        return job

    def get_many(self, names: Collection[str]) -> dict[str, JobRecord | NotFound]:
        """What clients see of each of these jobs, in one read."""
        return _found(names, self._catalog.jobs(names))

    def polling(self) -> Polling:
        """``get_many`` for the running event loop."""
        return Polling(self._catalog.job_polls())

    def cancel(self, name: str) -> Operation:
        """Set the verdict CANCEL; the operation ends when nothing that the job made exists any more.

        Raises: NotFound; FailedPrecondition for a job that has succeeded or failed.
        """
        job = self.get(name)
        operation = new_operation("cancel", "CancelCloneJob", name, Request())
        try:
            _, row = self._store.settle(job.id, Verdict.CANCEL, reason="asked by the API", cancel_operation=operation)
        except CancelRefused:
            raise self._cannot_cancel(self.get(name)) from None
        assert row is not None
        dispatch_cleanup(self._runtime, job.id)
        return row

    def _cannot_cancel(self, job: CloneJob) -> FailedPrecondition:
        if job.verdict is Verdict.SUCCEED:
            message = "has succeeded and never touches its instance again; delete the instance yourself if unwanted"
        elif job.state is JobState.FAILED:
            message = "has failed; what it had created is deleted already"
        else:
            message = "is failing; what it created is being deleted"
        return FailedPrecondition(job.name, f"{job.name} {message}", reason="CLONE_JOB_NOT_CANCELLABLE")

    def events(self, name: str, *, after: int = 0) -> Sequence[JobEvent]:
        """What happened to the job after the event of that id, oldest first. Raises: NotFound."""
        return self._catalog.events(self.get(name).id, after=after)

    def recent(self, vm_names: Sequence[str]) -> dict[str, builtins.list[CloneJob]]:
        """MigratingVm.recent_clone_jobs of each VM: its running job, if any, and its last completed one."""
        return self._catalog.recent_jobs(vm_names)

    def list(self, parent: str, **paging: Unpack[Paging]) -> Page[JobRecord]:
        """All jobs of the VM, newest first. Raises: InvalidArgument, NotFound (VM)."""
        page = list_page(self._runtime, JobRecord, parent, paging)
        if not page.items and "/-" not in parent:  # jobs have a VM
            must_get(self._catalog, MigratingVm, parent)
        return page


class Polling:
    """The jobs that clients ask for again and again, read in the event loop's own thread where that is possible."""

    def __init__(self, polls: JobPolls) -> None:
        self._polls = polls

    async def get_many(self, names: Collection[str]) -> dict[str, JobRecord | NotFound] | None:
        """As ``CloneJobService.get_many``; None if it is to be asked instead."""
        jobs = await self._polls.jobs(names)
        return None if jobs is None else _found(names, jobs)

    async def close(self) -> None:
        """Give the connection up."""
        await self._polls.close()


def _found(names: Collection[str], jobs: Mapping[str, JobRecord]) -> dict[str, JobRecord | NotFound]:
    return {name: jobs.get(name) or NotFound("CloneJob", name) for name in names}
