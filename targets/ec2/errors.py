"""What the EC2 API answers, as a target's answer; the message is the API's own."""

from __future__ import annotations

from targets.errors import RefusedError, SourceGoneError, TargetError, TransientError

_BUSY = frozenset({
    "InternalError", "InternalFailure", "Unavailable", "ServiceUnavailable", "ConcurrentTagAccess",
    "InsufficientInstanceCapacity", "InsufficientHostCapacity", "InsufficientCapacity", "InsufficientCapacityOnHost",
    "IncorrectState", "IncorrectInstanceState", "IncorrectSpotRequestState", "VolumeInUse", "ResourceCountExceeded",
    "RequestExpired", "ExpiredToken", "Server.InternalError",
})  # fmt: skip
_THROTTLED = frozenset({
    "RequestLimitExceeded", "Throttling", "ThrottlingException", "RequestThrottled", "RequestThrottledException",
    "EC2ThrottledException", "TooManyRequestsException",
})  # fmt: skip
_NO_CREDENTIALS = frozenset({"AuthFailure", "InvalidClientTokenId", "SignatureDoesNotMatch", "OptInRequired"})


class UnknownOutcomeError(TransientError):
    """No answer, or one that does not say whether it was done: look before it is tried again."""


class ThrottledError(TransientError):
    """There were too many calls in this account and region: this one was not looked at."""


class MissingError(RefusedError):
    """The API knows no resource of that id. Right after one was made it may be that not all of EC2 knows it yet."""


def code_of(error: Exception) -> str:
    """The API's error code, "" if the API did not answer."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def boto_errors() -> tuple[type[Exception], ...]:
    """What a call through boto3 may raise."""
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    return BotoCoreError, ClientError, ResponseParserError


def translated(error: Exception, operation: str) -> TargetError:
    """The error of one boto3 call as ours."""
    from botocore import exceptions as boto
    from botocore.parsers import ResponseParserError

    if isinstance(error, boto.ClientError):
        return _answered(error, operation)
    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError | boto.ProfileNotFound):
        return RefusedError(f"EC2 needs credentials: {error}. Configure them where boto3 looks; see docs/ec2.md.")
    if isinstance(error, boto.CredentialRetrievalError | boto.MetadataRetrievalError):
        return TransientError(f"EC2's credentials could not be had for now: {error}")
    if isinstance(error, boto.ConnectionError):
        return TransientError(f"EC2 cannot be reached: {error}")
    if isinstance(error, boto.HTTPClientError | ResponseParserError):
        return UnknownOutcomeError(f"EC2 gave no answer to {operation}: {error}")
    if isinstance(error, boto.ParamValidationError):
        return RefusedError(f"EC2's {operation} does not take this: {error}")
    return RefusedError(f"EC2's {operation} cannot be called: {error}")


def _answered(error: Exception, operation: str) -> TargetError:
    code = code_of(error)
    response = getattr(error, "response", {})
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    text = f"EC2 answered {operation} with {code}: {response.get('Error', {}).get('Message', '')}"
    if code in _THROTTLED:
        return ThrottledError(text)
    if status >= 500:
        return TransientError(text) if code.startswith("Insufficient") else UnknownOutcomeError(text)
    if code in _BUSY:
        return TransientError(text)
    if code == "IdempotentParameterMismatch":
        # An earlier attempt of the job (another epoch in its tags) has made it: it will be listed in a moment.
        return UnknownOutcomeError(text)
    if code.startswith("InvalidSnapshot"):
        return SourceGoneError(text)
    if code.endswith((".NotFound", "ID.Unavailable")):
        return MissingError(text)
    if code in _NO_CREDENTIALS:
        return RefusedError(f"{text} (are the credentials right? see docs/ec2.md)")
    if code == "UnauthorizedOperation":
        return RefusedError(f"{text} (the policy that is needed stands in docs/ec2.md)")
    return RefusedError(text)
