"""The scripted faults of the simulated target: a list in a file, taken from it atomically by any process."""

from __future__ import annotations

import dataclasses
import fnmatch
import uuid
from pathlib import Path

from targets.local_files import locked, read_json, write_json

# What may go wrong in a call, and where.
FAULTS = (
    "fail",  # TransientError before any effect
    "refuse",  # RefusedError before any effect
    "hang",  # the call sleeps delay_s before its effect, like a process that is frozen in it
    "lose_reply",  # the effect happens, then TransientError
    "crash_before",  # SIGKILL of the calling process before the effect
    "crash_after",  # SIGKILL of the calling process after the effect
    "slow",  # what the call starts takes delay_s longer; for boot_report: the guest boots delay_s after it is ready
    "half_made",  # create leaves a FAILED resource, then TransientError
    "no_boot",  # boot_report says NO_BOOT
)
OPERATIONS = ("check", "create", "find", "delete", "bury", "inventory", "boot_report", "screenshot", "*")


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """One scripted fault. None matches everything; ``name`` is a glob; ``times`` None means for ever."""

    op: str
    fault: str
    kind: str | None = None
    name: str = "*"
    job_id: str | None = None
    times: int | None = 1
    delay_s: float = 0.0
    id: str = ""

    def matches(self, op: str, kind: str | None, name: str | None, job_id: str | None) -> bool:
        """Whether a call is meant."""
        return (
            self.op in ("*", op)
            and self.kind in (None, kind)
            and self.job_id in (None, job_id)
            and fnmatch.fnmatchcase(name or "", self.name)
        )


class FaultScript:
    """The faults still to come, in the order in which they were added. A call takes the first that matches."""

    def __init__(self, root: Path) -> None:
        self._path = root / "faults.json"
        self._lock = root / "faults.lock"

    def add(self, fault: Fault) -> str:
        """Append one fault; returns its id. Raises: ValueError for an unknown operation or fault."""
        if fault.op not in OPERATIONS or fault.fault not in FAULTS:
            raise ValueError(f"unknown operation {fault.op!r} or fault {fault.fault!r}")
        if fault.times is not None and fault.times < 1:
            raise ValueError("times must be at least 1, or None for ever")
        fault = dataclasses.replace(fault, id=uuid.uuid4().hex)
        with locked(self._lock, timeout_s=10):
            self._write([*self._read(), fault])
        return fault.id

    def clear(self) -> None:
        """Forget all faults."""
        with locked(self._lock, timeout_s=10):
            self._write([])

    def left(self) -> list[Fault]:
        """The faults that were not used up yet."""
        return self._read()

    def take(self, op: str, kind: str | None, name: str | None, job_id: str | None) -> Fault | None:
        """Use up one occurrence of the first fault that matches the call, or None."""
        if not self._path.exists():  # the common case costs one stat
            return None
        with locked(self._lock, timeout_s=10):
            faults = self._read()
            found = next((fault for fault in faults if fault.matches(op, kind, name, job_id)), None)
            if found is not None and found.times is not None:
                less = dataclasses.replace(found, times=found.times - 1)
                self._write([less if fault is found else fault for fault in faults if fault is not found or less.times])
            return found

    def _read(self) -> list[Fault]:
        stored = read_json(self._path) or {"faults": []}
        return [Fault(**entry) for entry in stored["faults"]]

    def _write(self, faults: list[Fault]) -> None:
        if faults:
            write_json(self._path, {"faults": [dataclasses.asdict(fault) for fault in faults]}, durable=False)
        else:
            self._path.unlink(missing_ok=True)
