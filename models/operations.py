"""Rows of google.longrunning.Operation: written in the same transaction as what they tell about."""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from models.schema import CloneJob, Operation
from models.states import JobState


@dataclass(frozen=True, slots=True)
class NewOperation:
    """What the API knows of an operation that it starts. ``request_scope`` is parent + method (AIP-155)."""

    parent: str
    verb: str
    method: str
    target: str
    request_id: str = ""
    request_hash: str = ""

    @property
    def request_scope(self) -> str:
        """Where a request id is unique: the parent in which, and the method by which, something was asked."""
        return f"{self.target.rpartition('/')[0] if self.verb == 'create' else self.target}:{self.method}"


class RequestIdReused(Exception):
    """The request id was used before, with another body."""


def replayed(session: Session, new: NewOperation) -> Operation | None:
    """The operation that an earlier request with the same id started.

    Raises: RequestIdReused when that request's body was another.
    """
    if not new.request_id:
        return None
    earlier = session.scalar(
        sa.select(Operation).where(Operation.request_scope == new.request_scope, Operation.request_id == new.request_id)
    )
    if earlier is not None and earlier.request_hash != new.request_hash:
        raise RequestIdReused(new.request_id)
    return earlier


def insert(
    session: Session, new: NewOperation, now: dt.datetime, *, done: bool, job_id: str | None = None
) -> Operation:
    """Add the operation's row; an operation without a job to wait for is done at once."""
    operation = made(new, now, done=done, job_id=job_id)
    session.add(operation)
    return operation


def made(new: NewOperation, now: dt.datetime, *, done: bool, job_id: str | None = None) -> Operation:
    """The operation's row, not yet stored."""
    return Operation.of(
        name=f"{new.parent}/operations/operation-{uuid.uuid4().hex}",
        parent=new.parent,
        verb=new.verb,
        method=new.method,
        target=new.target,
        job_id=job_id,
        create_time=now,
        end_time=now if done else None,
        requested_cancellation=False,
        error=None,
        request_scope=new.request_scope,
        request_id=new.request_id or None,
        request_hash=new.request_hash,
    )


FORGOTTEN = "deleted/"


def forget(session: Session, name: str) -> bool:
    """Make the operation unknown; False if it was. One with a request id keeps its row under a name that nobody can ask
    for, so that the request is still known when it is sent again."""
    operation = session.get(Operation, name, with_for_update=True)
    if operation is None:
        return False
    if operation.request_id is None:
        session.delete(operation)
    else:
        operation.name, operation.parent = FORGOTTEN + operation.name, FORGOTTEN + operation.parent
    return True


_LOST = {
    JobState.SUCCEEDED: "the clone job succeeded before it could be cancelled; delete the instance yourself if it is "
    "not wanted, the job never touches it again",
    JobState.FAILED: "the clone job failed before it could be cancelled; what it had created is deleted",
}


def end_for_job(session: Session, job: CloneJob, now: dt.datetime) -> None:
    """End the operations that waited for this job, in the transaction that makes it terminal."""
    waiting = session.scalars(sa.select(Operation).where(Operation.job_id == job.id, Operation.end_time.is_(None)))
    for operation in waiting:
        operation.end_time = max(now, operation.create_time)  # the clock may have been set back since
        operation.error = _outcome(operation, job)


def _outcome(operation: Operation, job: CloneJob) -> dict[str, Any] | None:
    if operation.verb == "cancel":
        if job.state is JobState.CANCELLED:
            return None
        return {"code": "FAILED_PRECONDITION", "reason": f"CLONE_JOB_{job.state}", "message": _LOST[job.state]}
    if job.state is JobState.SUCCEEDED:
        return None
    if job.state is JobState.CANCELLED:
        return {"code": "CANCELLED", "reason": "CLONE_JOB_CANCELLED", "message": "the clone job was cancelled"}
    message = (job.error or {}).get("message", "the clone job failed")
    return {"code": "FAILED_PRECONDITION", "reason": "CLONE_JOB_FAILED", "message": message}
