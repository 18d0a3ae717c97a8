"""Processes that stand still (SIGSTOP): ended after a while, because what they hold is held for as long as they stand.

Leases make up for a frozen worker's work, but not for the database's lock that it may have been frozen with: SQLite
has one writer, and a lock that no other process can break. PostgreSQL ends such a session by itself (``models/db.py``).
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Iterable

import psutil

log = logging.getLogger(__name__)
_LOOK_EVERY_S = 1.0


class FreezeWatch:
    """Kills what has been stopped for ``limit_s``, in the process groups of the children that it is shown.

    A virtual machine is in no such group: it leads a session of its own. A process under a debugger has another state.
    """

    def __init__(self, limit_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit_s = limit_s
        self._clock = clock
        self._since: dict[tuple[int, float], float] = {}
        self._next_look = 0.0

    def look(self, children: Iterable[int]) -> list[int]:
        """One look, at most once a second; the processes that were killed."""
        now = self._clock()
        if now < self._next_look:
            return []
        self._next_look = now + _LOOK_EVERY_S
        stopped = {(each.pid, each.create_time()): each for child in children for each in _stopped(child)}
        self._since = {key: self._since.get(key, now) for key in stopped}
        late = [key for key, since in self._since.items() if now - since >= self._limit_s]
        for key in late:
            log.warning("process %s has been stopped for %.0f s; killing it", key[0], now - self._since[key])
            with contextlib.suppress(psutil.NoSuchProcess):
                stopped[key].send_signal(signal.SIGKILL)
        return [pid for pid, _ in late]


def _stopped(child: int) -> list[psutil.Process]:
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        leader = psutil.Process(child)
        for each in [leader, *leader.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                if each.status() == psutil.STATUS_STOPPED and os.getpgid(each.pid) == child:
                    found.append(each)
    return found
