"""How a command fails: one line on stderr and an exit code that scripts can tell apart."""

from __future__ import annotations

import enum
from typing import Any


class ExitCode(enum.IntEnum):
    """Exit codes of ``clonejob``."""

    OK = 0
    FAILURE = 1
    USAGE = 2  # wrong arguments, settings or values
    UNREACHABLE = 3  # the service does not answer
    NOT_FOUND = 4
    CONFLICT = 5  # exists already, something else runs, or the state does not allow it
    INTERRUPTED = 130  # as a shell says it of a process that Ctrl-C ended


class CliError(Exception):
    """What went wrong and what to do next. ``reason`` and ``metadata`` are those of the service's error, if any."""

    def __init__(
        self,
        message: str,
        code: ExitCode = ExitCode.FAILURE,
        *,
        reason: str = "",
        metadata: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.metadata = metadata or {}


_CODES = {
    "INVALID_ARGUMENT": ExitCode.USAGE,
    "NOT_FOUND": ExitCode.NOT_FOUND,
    "ALREADY_EXISTS": ExitCode.CONFLICT,
    "ABORTED": ExitCode.CONFLICT,
    "FAILED_PRECONDITION": ExitCode.CONFLICT,
    "UNAVAILABLE": ExitCode.UNREACHABLE,
}
_CODE_NAMES = {3: "INVALID_ARGUMENT", 5: "NOT_FOUND", 6: "ALREADY_EXISTS", 9: "FAILED_PRECONDITION", 10: "ABORTED",
               14: "UNAVAILABLE"}  # fmt: skip


def from_status(status: dict[str, Any], message: str) -> CliError:
    """The error for a google.rpc.Status, or for a REST error body, in JSON."""
    name = status.get("status") or _CODE_NAMES.get(int(str(status.get("code", 0))), "")
    details = status.get("details")
    infos = [d for d in details if isinstance(d, dict) and "reason" in d] if isinstance(details, list) else []
    info = infos[0] if infos else {}
    return CliError(
        message,
        _CODES.get(str(name), ExitCode.FAILURE),
        reason=str(info.get("reason", "")),
        metadata=dict(info.get("metadata", {})),
    )


def response_of(operation: dict[str, Any]) -> dict[str, Any]:
    """The response of a long-running operation, or ``{}`` while it runs. Raises: CliError when it ended in an error."""
    if error := operation.get("error"):
        raise from_status(error, str(error.get("message", "the operation failed")))
    response: dict[str, Any] = operation.get("response", {})
    return response
