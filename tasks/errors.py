"""What a service can answer besides a result, in the contract's terms (AIP-193).

    ServiceError
    ├── InvalidArgument       a field is wrong, whatever the state of the system; names the field
    ├── NotFound              names the resource
    ├── AlreadyExists         names the resource
    ├── Aborted               lost against something that runs now; try again when it has ended
    ├── FailedPrecondition    legal, but not in this state; says what to change
    ├── ResourceExhausted     out of room (disk)
    ├── Unavailable           a part that we need does not answer; try again
    └── Unimplemented         the contract has it, this service does not

Every message is written for the user of the API and is safe to show to them.
"""

from __future__ import annotations

from collections.abc import Mapping


class ServiceError(Exception):
    """Base. ``code`` is the google.rpc.Code name; ``reason`` is stable, UPPER_SNAKE, at most 63 characters."""

    code = "UNKNOWN"
    reason = "UNKNOWN"

    def __init__(self, message: str, *, reason: str | None = None, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or type(self).reason
        self.metadata = dict(metadata or {})


class InvalidArgument(ServiceError):
    """A field is wrong. ``field`` is its path in the request, in proto names (``clone_job_id``)."""

    code = "INVALID_ARGUMENT"
    reason = "INVALID_FIELD"

    def __init__(self, field: str, message: str, *, reason: str | None = None) -> None:
        super().__init__(f"{field}: {message}", reason=reason, metadata={"field": field})
        self.field = field
        self.description = message


class NotFound(ServiceError):
    """The resource does not exist."""

    code = "NOT_FOUND"
    reason = "RESOURCE_NOT_FOUND"

    def __init__(self, resource_type: str, name: str, hint: str = "") -> None:
        super().__init__(f"{resource_type} {name} does not exist{hint}", metadata={"resource": name})
        self.resource_type = resource_type
        self.name = name


class AlreadyExists(ServiceError):
    """A resource of that name exists."""

    code = "ALREADY_EXISTS"
    reason = "RESOURCE_ALREADY_EXISTS"

    def __init__(self, resource_type: str, name: str) -> None:
        super().__init__(
            f"{resource_type} {name} exists already; choose another id, or get it", metadata={"resource": name}
        )
        self.resource_type = resource_type
        self.name = name


class Aborted(ServiceError):
    """Another operation on the same resource runs (AIP-151)."""

    code = "ABORTED"
    reason = "CONCURRENT_OPERATION"


class FailedPrecondition(ServiceError):
    """Legal, but not in this state. ``subject`` is the resource that must change first."""

    code = "FAILED_PRECONDITION"
    reason = "FAILED_PRECONDITION"

    def __init__(self, subject: str, message: str, *, reason: str | None = None) -> None:
        super().__init__(message, reason=reason, metadata={"resource": subject})
        self.subject = subject


class ResourceExhausted(ServiceError):
    """Out of room."""

    code = "RESOURCE_EXHAUSTED"
    reason = "OUT_OF_SPACE"


class Unavailable(ServiceError):
    """A part that we need does not answer."""

    code = "UNAVAILABLE"
    reason = "BACKEND_UNAVAILABLE"


class Unimplemented(ServiceError):
    """The contract has it, this service does not."""

    code = "UNIMPLEMENTED"
    reason = "NOT_COVERED"
