"""What Compute Engine answers besides yes, as a target's errors: what is worth another try, and what is not.

Its own message is kept word for word: it names the quota, the permission or the field.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from targets.errors import PermanentError, RefusedError, SourceGoneError, TargetError, TransientError

# Reasons of an HTTP error that pass by themselves, whatever their status. A quota that is used up does not.
_RETRY_REASONS = frozenset({
    "rateLimitExceeded", "userRateLimitExceeded", "concurrentLimitExceeded", "backendError", "internalError",
    "resourceInUse", "resourceInUseByAnotherResource", "operationInProgress",
})  # fmt: skip
# Codes of an operation that ended in an error. A zone without capacity may have some in a minute.
_RETRY_CODES = frozenset({
    "RATE_LIMIT_EXCEEDED", "CONCURRENT_OPERATIONS_QUOTA_EXCEEDED", "INTERNAL_ERROR", "SERVICE_UNAVAILABLE",
    "RESOURCE_NOT_READY", "RESOURCE_IN_USE", "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE", "TIMEOUT", "UNAVAILABLE",
    "ZONE_RESOURCE_POOL_EXHAUSTED", "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS",
})  # fmt: skip


class AlreadyExistsError(Exception):
    """409: something has the name; look again at what it is."""


class NotFoundError(PermanentError):
    """404: the resource, or something that the call names."""


class NotReadyError(TransientError):
    """The resource exists and is not in a state for the call."""


def api_error(status: int, reason: str, message: str) -> Exception:
    """The error for one HTTP answer. ``reason`` is the first of its ``errors``, or empty."""
    text = message.strip() or f"HTTP {status} {reason}".strip()
    if reason == "resourceNotReady":
        return NotReadyError(f"Compute Engine is not able to do it now: {text}")
    if reason in _RETRY_REASONS or status in (408, 429) or status >= 500:
        return TransientError(f"Compute Engine is not able to do it now: {text}")
    if status == 404:
        return NotFoundError(f"Compute Engine: {text}")
    if status == 409 and reason in ("", "alreadyExists", "conflict"):
        return AlreadyExistsError(text)
    if status == 401:
        return RefusedError(f"Compute Engine does not accept the credentials: {text}")
    return RefusedError(f"Compute Engine refused: {text}")


def operation_error(operation: Mapping[str, Any], source: str = "") -> TargetError | None:
    """What an operation that is DONE ended in, or None if it did what it was to do. ``source``: what it reads."""
    errors = operation.get("error", {}).get("errors", [])
    status = int(operation.get("httpErrorStatusCode", 0))
    if not errors and status < 400:
        return None
    codes = {str(each.get("code", "")) for each in errors}
    told = [str(each.get("message") or each.get("code")) for each in errors if each.get("message") or each.get("code")]
    message = "; ".join(told) or str(operation.get("httpErrorMessage", "no reason given"))
    if source and source in message and ("RESOURCE_NOT_FOUND" in codes or status == 404):
        return SourceGoneError(f"The pinned snapshot is gone: {message}")
    if codes & _RETRY_CODES or (not codes and (status == 429 or status >= 500)):
        return TransientError(f"Compute Engine was not able to do it: {message}")
    return RefusedError(f"Compute Engine refused: {message}")
