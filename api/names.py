"""Resource names, ids and request ids: what is legal, checked before any service is called.

The contract documents no character set (its own pattern is ``[^/]+`` per segment); the rules here are AIP-122: ids that
users choose follow RFC 1034, lower case, at most 63 characters. Every segment of a name is held to a character set that
has no dot, no slash, no colon and no percent sign, so that a name can never lead out of a folder or of a URL.
"""

from __future__ import annotations

import functools
import re
import uuid

from tasks.errors import InvalidArgument

PROJECT = "projects/*"
LOCATION = "projects/*/locations/*"
OPERATION = LOCATION + "/operations/*"
GLOBAL = "projects/*/locations/global"
TARGET_PROJECT = GLOBAL + "/targetProjects/*"
SOURCE = LOCATION + "/sources/*"
MIGRATING_VM = SOURCE + "/migratingVms/*"
REPLICATION_CYCLE = MIGRATING_VM + "/replicationCycles/*"
CLONE_JOB = MIGRATING_VM + "/cloneJobs/*"

ID_RULE = "[a-z]([-a-z0-9]{0,61}[a-z0-9])?"
_ID = re.compile(ID_RULE)
_SEGMENT = "[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_MAX_NAME = 512
_SHOWN = 80


def shown(value: str) -> str:
    """A user's text as it may stand in a message: quoted, escaped and cut, whatever was sent."""
    return repr(value if len(value) <= _SHOWN else value[:_SHOWN] + "…")


@functools.cache
def _pattern(template: str, wildcards: bool) -> re.Pattern[str]:
    first, *parts = [_SEGMENT if part == "*" else re.escape(part) for part in template.split("/")]
    project, *rest = parts
    if wildcards:
        rest = [f"(?:-|{part})" if part == _SEGMENT else part for part in rest]
    return re.compile("/".join((first, project, *rest)))


def check_name(field: str, value: str, template: str, *, wildcards: bool = False) -> str:
    """``value`` if it is a legal name of the shape ``template``, such as ``projects/*/locations/*``.

    With ``wildcards``, ``-`` stands for every id of a collection, except that a project is always named (AIP-159).
    Raises: InvalidArgument, which names ``field`` and the shape.
    """
    if not value:
        raise InvalidArgument(field, f"is required: a name of the form {template}", reason="REQUIRED_FIELD")
    if len(value) > _MAX_NAME or not _pattern(template, wildcards).fullmatch(value):
        raise InvalidArgument(
            field,
            f"{shown(value)} is not a name of the form {template}, where each * is lower-case letters, digits and"
            " hyphens, at most 63 characters",
            reason="INVALID_RESOURCE_NAME",
        )
    return value


def check_id(field: str, value: str) -> str:
    """``value`` if it is a legal id for a new resource (AIP-122).

    Raises: InvalidArgument, which names ``field`` and the rule.
    """
    if not value:
        raise InvalidArgument(field, f"is required: an id that matches {ID_RULE}", reason="REQUIRED_FIELD")
    if not _ID.fullmatch(value):
        raise InvalidArgument(
            field,
            f"{shown(value)} is not a legal id: a lower-case letter, then lower-case letters, digits and hyphens, not"
            f" ending in a hyphen, at most 63 characters ({ID_RULE})",
            reason="INVALID_RESOURCE_ID",
        )
    return value


def check_request_id(value: str) -> str:
    """``value`` if it is empty or a UUID other than the nil UUID, as the contract's request_id says; in lower case.

    Raises: InvalidArgument.
    """
    if not value:
        return ""
    try:
        parsed = uuid.UUID(value)
    except ValueError:
        parsed = uuid.UUID(int=0)
    if parsed.int == 0 or str(parsed) != value.lower():
        raise InvalidArgument(
            "request_id",
            f"{shown(value)} is not a UUID such as 123e4567-e89b-42d3-a456-426614174000 (the nil UUID is not allowed)",
            reason="INVALID_REQUEST_ID",
        )
    return str(parsed)
