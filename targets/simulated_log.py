"""The simulated target's own record of the calls it got: what a judge reads instead of our tables."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Call(NamedTuple):
    """One line of the log.

    ``phase`` is "start", "effect" (something came to exist or began to go; ``outcome`` says what) or "end"; a call
    whose process died has no end. ``outcome`` of an end is "ok", "error:<class>" or "lost" (done, reply lost).
    """

    time: float
    pid: int
    op: str
    phase: str
    kind: str | None = None
    name: str | None = None
    job_id: str | None = None
    epoch: int | None = None
    uid: str | None = None
    outcome: str | None = None


class CallLog:
    """An append-only file of JSON lines; one write per line, so lines of several processes never mix."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._path = path
        self._clock = clock

    def add(
        self,
        op: str,
        phase: str,
        *,
        kind: str | None = None,
        name: str | None = None,
        job_id: str | None = None,
        epoch: int | None = None,
        uid: str | None = None,
        outcome: str | None = None,
    ) -> None:
        """Append one line."""
        call = Call(self._clock(), os.getpid(), op, phase, kind, name, job_id, epoch, uid, outcome)
        line = json.dumps(call._asdict(), separators=(",", ":")) + "\n"
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.write(fd, line.encode())
        finally:
            os.close(fd)

    def read(self) -> list[Call]:
        """All lines, oldest first."""
        if not self._path.exists():
            return []
        return [Call(**json.loads(line)) for line in self._path.read_text().splitlines()]

    def clear(self) -> None:
        """Start over with an empty log."""
        if self._path.exists():
            os.truncate(self._path, 0)
