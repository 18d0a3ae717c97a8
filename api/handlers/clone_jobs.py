"""CreateCloneJob, GetCloneJob, ListCloneJobs, CancelCloneJob."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from google.cloud import vmmigration_v1 as v1
from google.protobuf.message import Message

from api import translate
from api.handlers.common import attempt, idempotency, page_of, paging
from api.names import CLONE_JOB, MIGRATING_VM, check_id, check_name
from models.catalog import JobRecord
from tasks.errors import NotFound
from tasks.services import Services

Jobs = Mapping[str, JobRecord | NotFound]


def create(services: Services, request: Any) -> Message:
    """All fields of CloneJob are output only, so only the id and the parent count."""
    parent = check_name("parent", request.parent, MIGRATING_VM)
    job_id = check_id("clone_job_id", request.clone_job_id)
    operation, job = services.clone_jobs.create(parent, job_id, idempotency(request, "clone_job"))
    return translate.operation(operation, job)


def get(services: Services, request: Any) -> Message:
    """One job."""
    return translate.clone_job(services.clone_jobs.get(check_name("name", request.name, CLONE_JOB), ledger=False))


def get_together(
    services: Services, requests: Sequence[Any], found: Jobs | None = None
) -> Sequence[Message | Exception]:
    """Several jobs in one read: this is the call that polls. ``found``: what was read already."""
    names = [_name_of(request) for request in requests]
    if found is None:
        found = services.clone_jobs.get_many(names_of(requests))
    rows = [found[name] if isinstance(name, str) else name for name in names]
    return [row if isinstance(row, Exception) else attempt(translate.clone_job, row) for row in rows]


def names_of(requests: Sequence[Any]) -> set[str]:
    """What these requests to get a job ask for, as far as they can be read."""
    return {name for name in map(_name_of, requests) if isinstance(name, str)}


def _name_of(request: Any) -> str | Exception:
    return attempt(check_name, "name", request.name, CLONE_JOB)


def list_(services: Services, request: Any) -> Message:
    """The jobs of one VM, newest first."""
    parent = check_name("parent", request.parent, MIGRATING_VM, wildcards=True)
    page = services.clone_jobs.list(parent, **paging(request))
    jobs = [translate.clone_job(job) for job in page.items]
    return page_of(v1.ListCloneJobsResponse.pb(), "clone_jobs", page, jobs)


def cancel(services: Services, request: Any) -> Message:
    """Done when the job is CANCELLED."""
    operation = services.clone_jobs.cancel(check_name("name", request.name, CLONE_JOB))
    return translate.operation(operation, None)
