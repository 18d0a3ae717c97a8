"""Faults at named I/O points, for tests with real processes; active only with ``CLONEJOB_FAULT_PLAN``.

The plan is a JSON file: ``[{"point": "target.create.disk", "phase": "before", "action": "kill", "times": 1}]``.
``point`` may hold wildcards; ``phase`` is before or after the real call; actions are ``kill`` (SIGKILL of the process),
``error`` (raise; in phase after: the call happened, its reply is lost), ``hang`` (sleep ``seconds``). ``times`` is
counted across processes, by files beside the plan: ``PLAN.N.K`` for the K-th firing of entry N, holding the pid.
A plan that is replaced by another file is read again, so that one running service serves many cases.
"""

from __future__ import annotations

import fnmatch
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from sqlalchemy.exc import OperationalError

from targets.errors import TransientError


class FaultPlan:
    """A hook for ``models.io_points``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read: tuple[tuple[int, int], list[dict[str, Any]]] = ((0, 0), [])
        self._entries()

    def __call__(self, point: str, phase: str) -> None:
        """Fire what the plan says for this point and phase."""
        for number, entry in enumerate(self._entries()):
            hit = entry.get("phase", "before") == phase and fnmatch.fnmatchcase(point, entry["point"])
            if hit and self._take(number, entry.get("times", 1)):
                _fire(point, entry)

    def _entries(self) -> list[dict[str, Any]]:
        found = self._path.stat()
        version = (found.st_mtime_ns, found.st_ino)
        if self._read[0] != version:
            self._read = (version, json.loads(self._path.read_text()))
        return self._read[1]

    def _take(self, number: int, times: int) -> bool:
        for count in range(times):
            try:
                with self._path.with_name(f"{self._path.name}.{number}.{count}").open("x") as mark:
                    mark.write(str(os.getpid()))
            except FileExistsError:
                continue
            return True
        return False


def _fire(point: str, entry: dict[str, Any]) -> None:
    match entry["action"]:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            time.sleep(entry.get("seconds", 3600))
        case "error" if point.startswith("target."):
            raise TransientError(f"injected at {point}")
        case "error" if point.startswith("broker."):
            raise ConnectionError(f"injected at {point}")
        case "error":
            raise OperationalError(point, {}, Exception("injected"))
        case unknown:
            raise ValueError(f"fault plan: unknown action {unknown!r}")
