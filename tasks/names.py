"""Full resource names of the contract, and the ids in them."""

from __future__ import annotations

import hashlib
import re

from tasks.errors import InvalidArgument

# AIP-122: user-specified ids follow RFC 1034: lower case, at most 63 characters.
ID_RULE = "a lower-case letter, then up to 62 lower-case letters, digits and hyphens, not ending in a hyphen"
_ID = re.compile(r"[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?")


def check_id(field: str, value: str) -> str:
    """The id, if it is legal. Raises: InvalidArgument."""
    if not value:
        raise InvalidArgument(field, f"is required: {ID_RULE}")
    if not _ID.fullmatch(value):
        raise InvalidArgument(field, f"{value[:80]!r} is not a legal id: {ID_RULE}")
    return value


def location_of(name: str) -> str:
    """``projects/P/locations/L`` of any full resource name."""
    return "/".join(name.split("/")[:4])


def short_hash(job_id: str) -> str:
    """Ten hex digits that tell jobs apart in the names of what they create."""
    return hashlib.sha256(job_id.encode()).hexdigest()[:10]
