"""What may go wrong in a call to the stand-in."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass


@dataclass
class Fault:
    """One scripted fault for the next ``times`` calls of a method (a glob such as ``disks.*``), None for ever.

    ``kind``: "http" answers with status, reason and message and does nothing; "drop" closes the connection and does
    nothing; "lose" does it and closes the connection; "operation" begins it, and its operation ends in the error
    ``reason`` and leaves nothing; "half_made" the same, and leaves a FAILED resource; "slow" lets the operation take
    ``delay_s`` longer; "hidden" hides the new resource for ``delay_s``.
    """

    method: str
    kind: str
    status: int = 503
    reason: str = "backendError"
    message: str = "scripted fault"
    name: str = "*"
    times: int | None = 1
    delay_s: float = 0.0


class Script:
    """The faults still to come."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> None:
        self._faults.append(fault)

    def take(self, method: str, name: str) -> Fault | None:
        """Use up one occurrence of the first fault that matches."""
        for fault in self._faults:
            if fnmatch.fnmatchcase(method, fault.method) and fnmatch.fnmatchcase(name, fault.name):
                if fault.times is not None:
                    fault.times -= 1
                    if not fault.times:
                        self._faults.remove(fault)
                return fault
        return None

    def clear(self) -> None:
        self._faults.clear()
