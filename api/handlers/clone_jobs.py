"""CreateCloneJob, GetCloneJob, ListCloneJobs, CancelCloneJob."""

from __future__ import annotations

from typing import Any

from google.cloud import vmmigration_v1 as v1
from google.protobuf.message import Message

from api import translate
from api.handlers.common import idempotency, page_of, paging
from api.names import CLONE_JOB, MIGRATING_VM, check_id, check_name
from tasks.services import Services


def create(services: Services, request: Any) -> Message:
    """All fields of CloneJob are output only, so only the id and the parent count."""
    parent = check_name("parent", request.parent, MIGRATING_VM)
    job_id = check_id("clone_job_id", request.clone_job_id)
    operation, job = services.clone_jobs.create(parent, job_id, idempotency(request, "clone_job"))
    return translate.operation(operation, job)


def get(services: Services, request: Any) -> Message:
    """One job."""
    return translate.clone_job(services.clone_jobs.get(wanted(request), ledger=False))


def wanted(request: Any) -> str:
    """The name of the job that a request to get one asks for. Raises: InvalidArgument."""
    return check_name("name", request.name, CLONE_JOB)


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
