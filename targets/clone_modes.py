"""The ways in which a target can make a clone's disks, for targets that have more than one."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from targets.errors import UnsupportedError

OVERLAY, FULL = "overlay", "full"  # on the snapshot, at once; a copy that needs nothing else


@runtime_checkable
class HasCloneModes(Protocol):
    """``clone_mode`` is used where neither the job nor its target project says another one of ``clone_modes``."""

    clone_mode: str
    clone_modes: tuple[str, ...]


def modes_of(target: object) -> tuple[str, ...]:
    """What can be chosen; nothing for a target that makes disks in one way."""
    return target.clone_modes if isinstance(target, HasCloneModes) else ()


def mode_of(target: object, wanted: str) -> str:
    """How disks are made if ``wanted`` was asked for, or, if it is empty, nothing; empty where there is no choice."""
    return wanted or (target.clone_mode if isinstance(target, HasCloneModes) else "")


def known_mode_of(target: HasCloneModes, wanted: str) -> str:
    """``mode_of``, where it is to be done. Raises: UnsupportedError for one that the target does not know."""
    mode = mode_of(target, wanted)
    if mode not in target.clone_modes:
        raise UnsupportedError(f"This target knows no clone mode {mode!r}: {', '.join(target.clone_modes)}.")
    return mode
