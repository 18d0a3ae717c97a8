"""What was looked up is good for a moment: that moment is the longest time a revoked right still works."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")
CACHE_SECONDS = 3.0
_MOST = 10_000


class BriefCache(Generic[K, V]):
    """Entries that end ``seconds`` after they were put. Used in the event loop only."""

    def __init__(self, seconds: float = CACHE_SECONDS, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._entries: dict[K, tuple[float, V]] = {}

    def get(self, key: K) -> V | None:
        """The entry, unless it has ended."""
        entry = self._entries.get(key)
        return entry[1] if entry is not None and self._clock() < entry[0] else None

    def put(self, key: K, value: V) -> None:
        """Keep an entry. When there are too many, all are forgotten: simple, and rare."""
        if len(self._entries) >= _MOST:
            self._entries.clear()
        self._entries[key] = (self._clock() + self._seconds, value)
