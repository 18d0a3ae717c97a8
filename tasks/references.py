"""What a disk by reference may be called and how large it may be said to be: the service's rule, and the command line's before
it begins a cycle. Imports nothing that is slow to import."""

from __future__ import annotations

import re

from targets.images import MAX_VIRTUAL_SIZE_BYTES

_REFERENCE = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9._:/]{0,510}[A-Za-z0-9])?")
_SECTOR_BYTES = 512


def reference_problem(reference: str) -> str:
    """Why this is no provider's name of a disk; empty if it may be one."""
    if _REFERENCE.fullmatch(reference) and ".." not in reference and "//" not in reference.removeprefix("https://"):
        return ""
    return "must be the provider's name of a snapshot or image, such as projects/P/global/snapshots/S or snap-0123abcd"


def size_problem(size_bytes: int) -> str:
    """Why no disk has this size; empty if one may. Whether it is this disk's is for its target to say."""
    if not 0 < size_bytes <= MAX_VIRTUAL_SIZE_BYTES:
        return f"must be between 1 and {MAX_VIRTUAL_SIZE_BYTES}"
    if size_bytes % _SECTOR_BYTES:
        return f"must be the disk's size in bytes, whole sectors of {_SECTOR_BYTES}: 10 GiB are {10 * 2**30}"
    return ""
