"""What a target can answer besides yes.

TargetError
├── TransientError        worth another try: throttling, a lock, a socket, a busy host
└── PermanentError        the same call will be refused again
    ├── ConflictError     the name exists and is not ours: never touch it
    ├── TombstonedError   this job's resource was already cleaned up: a late call must not bring it back
    ├── UnsupportedError  the target cannot do what the plan asks for
    ├── SourceGoneError   a pinned snapshot cannot be read
    ├── AdaptationError   the guest's operating system could not be adapted
    └── RefusedError      the provider looked at the call and said no (quota, memory, a bad value)
"""


class TargetError(Exception):
    """The target could not do what it was asked; the message says why, in words fit for a user.

    ``retryable`` tells whether the same call may succeed later; callers count their own attempts.
    """

    retryable = False


class TransientError(TargetError):
    """Worth another try: throttling, a lock, a socket, a busy host."""

    retryable = True


class PermanentError(TargetError):
    """The same call will be refused again."""


class ConflictError(PermanentError):
    """The name exists and is not ours."""


class TombstonedError(PermanentError):
    """The resource was cleaned up for good; a late create must not bring it back."""


class UnsupportedError(PermanentError):
    """The target cannot do what the plan asks for."""


class SourceGoneError(PermanentError):
    """A pinned snapshot cannot be read."""


class AdaptationError(PermanentError):
    """The guest's operating system could not be adapted."""


class RefusedError(PermanentError):
    """The provider looked at the call and said no."""
