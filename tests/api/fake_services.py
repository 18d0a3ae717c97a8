"""An in-memory ``Services`` with the interface of tasks.services, on real row classes: no database, no broker."""

from __future__ import annotations

import datetime as dt
import hashlib
import threading
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from models.catalog import Sync
from models.job_records import COLUMNS, JobRecord, StepRecord
from models.schema import (
    CloneJob,
    CloneStep,
    JobEvent,
    LedgerRow,
    MigratingVm,
    Operation,
    ReplicationCycle,
    Snapshot,
    Source,
    TargetProject,
)
from models.states import CycleState, JobState, LedgerState, Role, StepKind, Verdict, VmState
from tasks.errors import Aborted, AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from tasks.services import Page, Request

NOW = dt.datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=dt.UTC)


class FakeServices:
    """All tables are dicts by name; ``boom`` is raised by every get of a clone job, if it is set."""

    def __init__(self) -> None:
        self.tables: dict[type, dict[str, Any]] = {}
        self.boom: Exception | None = None
        self.requests: dict[str, tuple[str, Operation]] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.uploads = Uploads()
        self.clone_jobs = _CloneJobs(self)
        self.sources = _Sources(self)
        self.migrating_vms = _MigratingVms(self)
        self.target_projects = _TargetProjects(self)
        self.cycles = _Cycles(self)
        self.operations = _Operations(self)
        self.locations = _Locations()

    def table(self, cls: type) -> dict[str, Any]:
        return self.tables.setdefault(cls, {})

    def operation(self, verb: str, method: str, target: str, request: Request, *, done: bool = True) -> Operation:
        if request.id in self.requests:
            body_hash, earlier = self.requests[request.id]
            if body_hash != request.body_hash:
                raise InvalidArgument("request_id", "was used with another request", reason="REQUEST_ID_REUSED")
            return earlier
        parent = "/".join(target.split("/")[:4])
        name = f"{parent}/operations/op-{len(self.table(Operation)) + 1}"
        row = Operation(name=name, parent=parent, verb=verb, method=method, target=target, job_id=None, create_time=NOW,
                        end_time=NOW if done else None, requested_cancellation=False, error=None,
                        request_scope="", request_id=request.id or None, request_hash=request.body_hash)  # fmt: skip
        self.table(Operation)[name] = row
        if request.id:
            self.requests[request.id] = (request.body_hash, row)
        return row

    def insert(self, row: Any, verb_method: str, request: Request) -> Any:
        if request.id not in self.requests and row.name in self.table(type(row)):
            raise AlreadyExists(type(row).__name__, row.name)
        operation = self.operation("create", verb_method, row.name, request)
        return operation, self.table(type(row)).setdefault(operation.target, row)

    def must_get(self, cls: type, name: str) -> Any:
        if name not in self.table(cls):
            raise NotFound(cls.__name__, name)
        return self.table(cls)[name]

    def page(self, cls: type, parent: str, paging: dict[str, Any]) -> Page[Any]:
        page_size = paging["page_size"]
        if page_size < 0:
            raise InvalidArgument("page_size", "must not be negative")
        for field in ("filter", "order_by"):  # what they mean is tested with the real services
            if paging[field] == "refused":
                raise InvalidArgument(field, "is refused")
        rows = [row for row in self.table(cls).values() if row.parent == parent]
        start, size = int(paging["page_token"] or 0), min(page_size or 500, 1000)
        following = str(start + size) if start + size < len(rows) else ""
        return Page(rows[start : start + size], following)


class Uploads:
    """What the upload test wants to know: how large chunks were, and whether the last one ended well."""

    def __init__(self) -> None:
        self.largest = 0
        self.kept: dict[str, str] = {}
        self.failed = threading.Event()
        self.error: BaseException | None = None


class _Part:
    def __init__(self, fake: FakeServices) -> None:
        self.fake = fake


class _Sources(_Part):
    def create(self, parent: str, source_id: str, body: dict[str, Any], request: Request) -> Any:
        row = Source(name=f"{parent}/sources/{source_id}", parent=parent, body=body, create_time=NOW, update_time=NOW)
        return self.fake.insert(row, "CreateSource", request)

    def update(self, name: str, change: Any, request: Request) -> Any:
        row = self.get(name)
        row.body = change(row.body)
        return self.fake.operation("update", "UpdateSource", name, request), row

    def delete(self, name: str, request: Request) -> Any:
        self.fake.must_get(Source, name)
        del self.fake.table(Source)[name]
        return self.fake.operation("delete", "DeleteSource", name, request)

    def get(self, name: str) -> Any:
        return self.fake.must_get(Source, name)

    def list(self, parent: str, **paging: Any) -> Page[Any]:
        return self.fake.page(Source, parent, paging)


class _TargetProjects(_Part):
    def create(self, parent: str, target_project_id: str, body: dict[str, Any], request: Request) -> Any:
        row = TargetProject(name=f"{parent}/targetProjects/{target_project_id}", parent=parent, target=body["project"],
                            description=body.get("description", ""), create_time=NOW, update_time=NOW)  # fmt: skip
        return self.fake.insert(row, "CreateTargetProject", request)

    def update(self, name: str, change: Any, request: Request) -> Any:
        row = self.get(name)
        row.description = change({"project": row.target, "description": row.description}).get("description", "")
        return self.fake.operation("update", "UpdateTargetProject", name, request), row

    def delete(self, name: str, request: Request) -> Any:
        self.fake.must_get(TargetProject, name)
        del self.fake.table(TargetProject)[name]
        return self.fake.operation("delete", "DeleteTargetProject", name, request)

    def get(self, name: str) -> Any:
        return self.fake.must_get(TargetProject, name)

    def list(self, parent: str, **paging: Any) -> Page[Any]:
        return self.fake.page(TargetProject, parent, paging)


class _MigratingVms(_Part):
    def create(self, parent: str, migrating_vm_id: str, body: dict[str, Any], request: Request) -> Any:
        self.fake.must_get(Source, parent)
        row = MigratingVm(name=f"{parent}/migratingVms/{migrating_vm_id}", parent=parent, body=body,
                          state=VmState.READY, state_time=NOW, create_time=NOW, update_time=NOW, extension_count=0)  # fmt: skip
        return self.fake.insert(row, "CreateMigratingVm", request)

    def update(self, name: str, change: Any, request: Request) -> Any:
        row = self.get(name)
        row.body = change(row.body)
        return self.fake.operation("update", "UpdateMigratingVm", name, request), row

    def delete(self, name: str) -> Any:
        self.fake.must_get(MigratingVm, name)
        del self.fake.table(MigratingVm)[name]
        return self.fake.operation("delete", "DeleteMigratingVm", name, Request())

    def change_state(self, name: str, method: str) -> Any:
        self.fake.must_get(MigratingVm, name)
        self.fake.calls.append((method, name))
        return self.fake.operation(method.removesuffix("Migration").lower(), method, name, Request())

    def now(self) -> dt.datetime:
        return NOW

    def syncs(self, vm_names: Sequence[str]) -> dict[str, Sync]:
        syncs = {name: Sync() for name in vm_names}
        for cycle in self.fake.table(ReplicationCycle).values():
            syncs[cycle.parent] = syncs[cycle.parent].with_cycle(cycle)
        return syncs

    def get(self, name: str) -> Any:
        return self.fake.must_get(MigratingVm, name)

    def list(self, parent: str, **paging: Any) -> Page[Any]:
        return self.fake.page(MigratingVm, parent, paging)

    def last_cycle(self, vm_name: str) -> Any:
        done = [c for c in self.fake.table(ReplicationCycle).values() if c.parent == vm_name]
        return max((c for c in done if c.state is CycleState.SUCCEEDED), key=lambda c: c.cycle_number, default=None)


class _Cycles(_Part):
    def get(self, name: str) -> Any:
        return self.fake.must_get(ReplicationCycle, name)

    def list(self, parent: str, **paging: Any) -> Page[Any]:
        return self.fake.page(ReplicationCycle, parent, paging)

    def begin(self, vm_name: str, adaptation: dict[str, Any] | None) -> Any:
        self.fake.must_get(MigratingVm, vm_name)
        number = len(self.fake.table(ReplicationCycle)) + 1
        row = ReplicationCycle(name=f"{vm_name}/replicationCycles/cycle-{number}", parent=vm_name, cycle_number=number,
                               state=CycleState.RUNNING, adaptation=adaptation, error=None, start_time=NOW,
                               end_time=None, snapshots=[])  # fmt: skip
        self.fake.table(ReplicationCycle)[row.name] = row
        return row

    def put_disk(
        self, name: str, disk_number: int, image_format: str, chunks: Iterable[bytes], sha256: str = ""
    ) -> Snapshot:
        cycle, digest, size, uploads = self.get(name), hashlib.sha256(), 0, self.fake.uploads
        try:
            for chunk in chunks:
                digest.update(chunk)
                size += len(chunk)
                uploads.largest = max(uploads.largest, len(chunk))
        except BaseException as error:
            uploads.error = error
            uploads.failed.set()
            raise
        if sha256 and sha256 != digest.hexdigest():
            raise InvalidArgument("sha256", "another one arrived", reason="CHECKSUM_MISMATCH")
        snapshot = Snapshot(cycle=name, disk_number=disk_number, store_key="secret-key", format=image_format,
                            virtual_size_bytes=size, stored_size_bytes=size, sha256=digest.hexdigest(),
                            create_time=NOW)  # fmt: skip
        cycle.snapshots.append(snapshot)
        uploads.kept[name] = digest.hexdigest()
        return snapshot

    def put_reference(self, name: str, disk_number: int, reference: str, size_bytes: int) -> Snapshot:
        if not reference or size_bytes < 1:
            raise InvalidArgument("reference", "must be the provider's name of a snapshot or image")
        snapshot = Snapshot(cycle=name, disk_number=disk_number, store_key=reference, format="reference",
                            virtual_size_bytes=size_bytes, stored_size_bytes=0, sha256="", create_time=NOW)  # fmt: skip
        self.get(name).snapshots.append(snapshot)
        return snapshot

    def finish(self, name: str) -> Any:
        return self._end(name, CycleState.SUCCEEDED, None)

    def abort(self, name: str, message: str) -> Any:
        return self._end(name, CycleState.FAILED, {"message": message or "aborted"})

    def _end(self, name: str, state: CycleState, error: dict[str, Any] | None) -> Any:
        row = self.get(name)
        if row.state is not CycleState.RUNNING:
            raise FailedPrecondition(name, f"{name} is {row.state}", reason="CYCLE_CLOSED")
        row.state, row.error, row.end_time = state, error, NOW
        self.fake.table(MigratingVm)[row.parent].state = VmState.ACTIVE
        return row


class _Polling:
    """There is no connection that an event loop could read from."""

    async def get_many(self, names: Collection[str]) -> None:
        return None

    async def close(self) -> None:
        pass


def _record(job: CloneJob) -> JobRecord:
    """What a poll reads of the job."""
    steps = [StepRecord(step.kind, step.start_time, step.end_time) for step in job.steps]
    return JobRecord(*(getattr(job, column.key) for column in COLUMNS), steps=steps)


class _CloneJobs(_Part):
    def create(self, parent: str, clone_job_id: str, request: Request) -> Any:
        self.fake.must_get(MigratingVm, parent)
        name = f"{parent}/cloneJobs/{clone_job_id}"
        running = [j for j in self.fake.table(CloneJob).values() if j.parent == parent and j.end_time is None]
        if running and request.id not in self.fake.requests:
            raise Aborted(f"a clone runs: {running[0].name}", reason="CLONE_JOB_RUNNING",
                          metadata={"resource": running[0].name})  # fmt: skip
        return self.fake.insert(make_job(name, parent), "CreateCloneJob", request)

    def get(self, name: str, *, ledger: bool = True) -> Any:
        if self.fake.boom is not None:
            raise self.fake.boom
        return self.fake.must_get(CloneJob, name)

    def get_many(self, names: Collection[str]) -> Any:
        if self.fake.boom is not None:
            raise self.fake.boom
        jobs = self.fake.table(CloneJob)
        return {name: _record(jobs[name]) if name in jobs else NotFound("CloneJob", name) for name in names}

    def polling(self) -> Any:
        return _Polling()

    def list(self, parent: str, **paging: Any) -> Page[Any]:
        self.fake.must_get(MigratingVm, parent)
        return self.fake.page(CloneJob, parent, paging)

    def cancel(self, name: str) -> Any:
        job = self.get(name)
        if job.state is JobState.SUCCEEDED:
            raise FailedPrecondition(name, f"{name} has succeeded", reason="CLONE_JOB_NOT_CANCELLABLE")
        job.state, job.verdict, job.end_time = JobState.CANCELLED, Verdict.CANCEL, NOW
        return self.fake.operation("cancel", "CancelCloneJob", name, Request())

    def events(self, name: str, *, after: int = 0) -> Any:
        return [JobEvent(id=1, job_id=self.get(name).id, time=NOW, epoch=1, kind="created", message="created")]

    def recent(self, vm_names: Sequence[str]) -> Any:
        jobs = self.fake.table(CloneJob).values()
        return {name: [job for job in jobs if job.parent == name][:2] for name in vm_names}


class _Locations:
    def get(self, name: str) -> str:
        if not name.endswith(("/l", "/global")):
            raise NotFound("Location", name)
        return name.rpartition("/")[2]

    def list(self, project: str, **paging: Any) -> Page[str]:
        return Page(["global", "l"], "")


class _Operations(_Part):
    def get(self, name: str) -> Any:
        row = self.fake.must_get(Operation, name)
        return row, self._resource(row)

    def list(self, parent: str, **paging: Any) -> Page[Any]:
        page = self.fake.page(Operation, parent, paging)
        return Page([(row, self._resource(row)) for row in page.items], page.next_page_token)

    def cancel(self, name: str) -> None:
        self.fake.must_get(Operation, name).requested_cancellation = True

    def delete(self, name: str) -> None:
        self.fake.must_get(Operation, name)
        del self.fake.table(Operation)[name]

    def _resource(self, row: Operation) -> Any:
        return next((table[row.target] for table in self.fake.tables.values() if row.target in table), None)


def make_job(name: str, parent: str) -> CloneJob:
    """A running job: its first step has ended, its second runs, so that the third is not shown."""

    def step(position: int, kind: StepKind, start: Any, end: Any) -> CloneStep:
        return CloneStep(job_id="j1", position=position, kind=kind, start_time=start, end_time=end,
                         progress={"percent": 50})  # fmt: skip

    row = LedgerRow(job_id="j1", position=0, step=StepKind.PREPARING_VM_DISKS, kind="disk", name="disk-0",
                    role=Role.PRODUCT, spec={}, state=LedgerState.CREATED, uid="u1", detail=None, intended_time=NOW,
                    created_time=NOW, deleting_time=None, absent_time=None)  # fmt: skip
    return CloneJob(
        id="j1", name=name, parent=parent, state=JobState.ACTIVE, state_time=NOW, create_time=NOW, end_time=None,
        verdict=None, verdict_time=None, error=None, cycle=f"{parent}/replicationCycles/cycle-1", target="local",
        target_details={"vmName": "web", "diskType": "COMPUTE_ENGINE_DISK_TYPE_SSD", "unknownField": 1},
        epoch=1, current_step=1, attempts=0, dispatches=0, stale_writes=0, cleanup_attempts=0, cleanup_detail="waits",
        steps=[step(0, StepKind.ADAPTING_OS, NOW, NOW), step(1, StepKind.PREPARING_VM_DISKS, NOW, None),
               step(2, StepKind.INSTANTIATING_MIGRATED_VM, None, None)],
        ledger=[row],
    )  # fmt: skip
