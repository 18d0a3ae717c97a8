"""What a target may offer whose disks lie on the snapshots of this service's own store."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Protocol, runtime_checkable

from targets.base import ResourceRef

Progress = Callable[[int], None]  # percent, 0 to 100


@runtime_checkable
class SnapshotHolder(Protocol):
    """A target with disks that need a snapshot for as long as they exist."""

    def held_snapshots(self) -> AbstractSet[str]:
        """Keys of the snapshots that disks need and that their link count does not tell: disks made by older code."""

    def flatten(self, ref: ResourceRef, *, job_id: str, uid: str, progress: Progress) -> bool:
        """Make the disk independent of its snapshot, at its owner's word; False if it was already. Takes as long as
        copying it does; broken off anywhere, the disk is as before, and the call may be repeated.

        Raises: ConflictError if the disk is not the one that was meant; RefusedError; TransientError.
        """
