"""What a target may offer that keeps adapted results: the next clone of the same snapshot then needs no adaptation."""

from __future__ import annotations

import datetime as dt
from collections.abc import Set as AbstractSet
from typing import Protocol, runtime_checkable

from targets.base import AdaptedImageSpec


@runtime_checkable
class AdaptationKeeper(Protocol):
    """A kept result belongs to the snapshot that it was made from, not to a job: it goes when the snapshot is pruned."""

    def kept_adaptation(self, spec: AdaptedImageSpec) -> dt.datetime | None:
        """When the result was made that ``create`` would use for this image; None if it would have to adapt.

        Raises: TransientError.
        """

    def drop_adaptations(self, snapshots: AbstractSet[str], *, dry_run: bool) -> int:
        """Remove the results of the snapshots with these keys, what was left half made, and what has no snapshot
        any more; the bytes of the disk that
        this frees, or would. A disk that uses one keeps its own name of it. Again is fine.

        Raises: TransientError.
        """
