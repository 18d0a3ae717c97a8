"""Errors as users see them: one google.rpc.Status for both front ends (AIP-193).

Every status carries ErrorInfo (a stable reason, domain ``clonejob``); BadRequest, PreconditionFailure, ResourceInfo and
RetryInfo stand beside it where they belong. Texts are cut so that all of it fits into gRPC trailers, which clients
bound at 8 KiB. What was not foreseen is logged with its traceback and answered by INTERNAL and a request id, no more.
"""

from __future__ import annotations

import logging
import uuid
from typing import Any

import sqlalchemy.exc
from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from tasks.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    ServiceError,
    Unavailable,
)

DOMAIN = "clonejob"
HTTP_STATUS = {
    "OK": 200,
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "UNAUTHENTICATED": 401,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DATA_LOSS": 500,
}
_RETRY_SECONDS = {Unavailable.code: 1, Aborted.code: 5}
_MAX_TEXT = 700  # bytes; the message travels three times in one set of gRPC trailers
_MAX_METADATA = 512

log = logging.getLogger(__name__)


class RouteNotFound(ServiceError):
    """REST: nothing is served at this path."""

    code = "NOT_FOUND"
    reason = "ROUTE_NOT_FOUND"


class MethodNotAllowed(ServiceError):
    """REST: the path is served, but not with this HTTP method; answered with HTTP 405."""

    code = "UNIMPLEMENTED"
    reason = "METHOD_NOT_ALLOWED"
    http_status = 405

    def __init__(self, verb: str, allowed: list[str]) -> None:
        super().__init__(f"{verb} is not served at this path; it takes {', '.join(allowed)}")
        self.allowed = allowed


class RequestTimeout(ServiceError):
    """REST: the client sent nothing for too long; answered with HTTP 408."""

    code = "DEADLINE_EXCEEDED"
    reason = "REQUEST_TIMEOUT"
    http_status = 408


class UploadInterrupted(ServiceError):
    """The body of an upload did not arrive in full; docs/rest.md says what is kept of it."""

    code = "CANCELLED"
    reason = "UPLOAD_INTERRUPTED"


def from_exception(exc: BaseException) -> status_pb2.Status:
    """The status for whatever a handler raised."""
    if isinstance(exc, ServiceError):
        return to_status(exc)
    lost = isinstance(exc, sqlalchemy.exc.DBAPIError) and exc.connection_invalidated
    if lost or isinstance(exc, sqlalchemy.exc.OperationalError | sqlalchemy.exc.TimeoutError):
        log.error("the database does not answer", exc_info=exc)
        if "disk is full" in str(exc.orig if isinstance(exc, sqlalchemy.exc.OperationalError) else ""):
            return to_status(ResourceExhausted("the disk that holds the database is full; free some space there"))
        return to_status(Unavailable("the database does not answer; try again", reason="DATABASE_UNAVAILABLE"))
    return _internal(exc)


def to_status(error: ServiceError) -> status_pb2.Status:
    """A service's error as google.rpc.Status."""
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    for key, value in error.metadata.items():
        info.metadata[key] = clip(value, _MAX_METADATA)
    return _status(error.code, clip(error.message), info, *_details(error))


def code_of(name: str) -> int:
    """The number of a google.rpc.Code by its name; UNKNOWN for a name that it does not have."""
    values: dict[str, int] = dict(code_pb2.Code.items())
    return values.get(name, values["UNKNOWN"])


def name_of(code: int) -> str:
    """The name of a google.rpc.Code by its number."""
    return str(code_pb2.Code.Name(code))


def http_status_of(exc: BaseException, status: status_pb2.Status) -> int:
    """The HTTP status for an error; some errors of REST itself have one of their own (405)."""
    return getattr(exc, "http_status", None) or HTTP_STATUS[name_of(status.code)]


def to_rest(status: status_pb2.Status, http_status: int) -> dict[str, Any]:
    """The body of a REST error in Google's shape: ``code`` is the HTTP status, ``status`` the rpc code's name."""
    body = json_format.MessageToDict(status)
    details = body.get("details", [])
    return {
        "error": {
            "code": http_status,
            "message": status.message,
            "status": name_of(status.code),
            "details": details,
        }
    }


def clip(text: str, limit: int = _MAX_TEXT) -> str:
    """``text`` cut to ``limit`` bytes of UTF-8; what is not a Unicode character is replaced."""
    raw = text.encode("utf-8", "replace")
    return raw.decode() if len(raw) <= limit else raw[: limit - 3].decode("utf-8", "ignore") + "…"


def _internal(exc: BaseException) -> status_pb2.Status:
    request_id = uuid.uuid4().hex
    log.error("request %s failed unexpectedly", request_id, exc_info=exc)
    message = f"internal error; the log of the service has it under request {request_id}"
    info = error_details_pb2.ErrorInfo(reason="INTERNAL", domain=DOMAIN, metadata={"request_id": request_id})
    return _status("INTERNAL", message, info, error_details_pb2.RequestInfo(request_id=request_id))


def _status(code: str, message: str, *details: Message) -> status_pb2.Status:
    status = status_pb2.Status(code=code_of(code), message=message)
    for detail in details:
        status.details.add().Pack(detail)
    return status


def _details(error: ServiceError) -> list[Message]:
    """What stands beside ErrorInfo, by kind of error; each type at most once."""
    if isinstance(error, InvalidArgument):
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=clip(error.field, _MAX_METADATA), description=clip(error.description), reason=error.reason
        )
        return [error_details_pb2.BadRequest(field_violations=[violation])]
    if isinstance(error, FailedPrecondition):
        precondition = error_details_pb2.PreconditionFailure.Violation(
            type=error.reason, subject=clip(error.subject, _MAX_METADATA), description=clip(error.message)
        )
        return [error_details_pb2.PreconditionFailure(violations=[precondition])]
    if isinstance(error, NotFound | AlreadyExists):
        name = clip(error.name, _MAX_METADATA)
        return [error_details_pb2.ResourceInfo(resource_type=error.resource_type, resource_name=name)]
    if error.code in _RETRY_SECONDS:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromSeconds(_RETRY_SECONDS[error.code])
        return [retry]
    return []
