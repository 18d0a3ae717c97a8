"""What exists on the simulated target: one small file per resource, replaced in one step, locked by name."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields
from pathlib import Path

from targets.base import Observed, ResourceKind, ResourceRef, Status
from targets.local_files import check_name, locked, read_json, settled, sweep_locks, write_json


@dataclass(frozen=True, slots=True)
class Entry:
    """One resource. Times are seconds of the target's clock; ``failed`` is the reason or empty."""

    uid: str
    labels: Mapping[str, str]
    created_at: float
    ready_at: float
    deleting_until: float | None = None
    failed: str = ""
    stopped: bool = False
    hostname: str = ""
    machine_type: str = ""
    disks: tuple[str, ...] = field(default=())
    snapshot: str = ""


class SimulatedStore:
    """The files under ``root``. Writers hold ``locked(ref)``; who must not miss a running write holds ``settled``."""

    def __init__(self, root: Path, clock: Callable[[], float], *, lock_timeout_s: float) -> None:
        self._root = root
        self._clock = clock
        self._lock_timeout_s = lock_timeout_s
        for kind in ResourceKind:
            (root / "resources" / kind).mkdir(parents=True, exist_ok=True)
        (root / "locks").mkdir(exist_ok=True)

    def locked(self, ref: ResourceRef) -> AbstractContextManager[None]:
        """Hold the name against other writers. Raises: TransientError on time-out."""
        return locked(self._lock_path(ref), timeout_s=self._lock_timeout_s)

    def settled(self, ref: ResourceRef) -> AbstractContextManager[None]:
        """Wait for a running write. Raises: TransientError on time-out."""
        return settled(self._lock_path(ref), timeout_s=self._lock_timeout_s)

    def new_entry(self, labels: Mapping[str, str], duration_s: float = 0.0) -> Entry:
        """A resource that begins to exist now, with a new uid, and is ready after ``duration_s``."""
        now = self._clock()
        return Entry(uuid.uuid4().hex, dict(labels), created_at=now, ready_at=now + duration_s)

    def load(self, ref: ResourceRef) -> Entry | None:
        """What exists under the name; a delete whose time has come is over."""
        stored = read_json(self._path(ref))
        entry = None if stored is None else Entry(**{**stored, "disks": tuple(stored["disks"])})
        if entry is not None and entry.deleting_until is not None and entry.deleting_until <= self._clock():
            return None
        return entry

    def save(self, ref: ResourceRef, entry: Entry) -> None:
        """Make or replace."""
        stored = {item.name: getattr(entry, item.name) for item in fields(entry)}
        write_json(self._path(ref), stored, durable=False)

    def remove(self, ref: ResourceRef) -> None:
        """Remove what exists."""
        self._path(ref).unlink()

    def everything(self) -> list[Observed]:
        """All that exists, labelled or not. Lock files of killed processes go on the way."""
        sweep_locks(self._root / "locks")
        found = []
        for kind in ResourceKind:
            for path in sorted((self._root / "resources" / kind).glob("[!.]*.json")):
                ref = ResourceRef(kind, path.name.removesuffix(".json"))
                entry = self.load(ref)
                if entry is not None:
                    found.append(self.observed(ref, entry))
        return found

    def status(self, entry: Entry) -> Status:
        """The entry's status at this moment."""
        if entry.deleting_until is not None:
            return Status.DELETING
        if entry.failed:
            return Status.FAILED
        if entry.ready_at > self._now(entry):
            return Status.CREATING
        return Status.STOPPED if entry.stopped else Status.READY

    def _now(self, entry: Entry) -> float:
        """The clock may have been set back since the entry was made; what was ready at once stays so."""
        return max(self._clock(), entry.created_at)

    def observed(self, ref: ResourceRef, entry: Entry) -> Observed:
        """The entry as the protocol shows it."""
        status, progress = self.status(entry), None
        if status is Status.CREATING:
            done = (self._now(entry) - entry.created_at) / (entry.ready_at - entry.created_at)
            progress = max(0, min(99, int(100 * done)))
        return Observed(ref, entry.uid, status, entry.labels, entry.failed, progress)

    def _path(self, ref: ResourceRef) -> Path:
        return self._root / "resources" / ref.kind / f"{check_name(ref.name)}.json"

    def _lock_path(self, ref: ResourceRef) -> Path:
        return self._root / "locks" / f"{ref.kind}-{check_name(ref.name)}"
