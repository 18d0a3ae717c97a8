"""A target whose calls are noted before they are made, so that whatever they made can be removed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from targets.base import BootReport, Observed, ResourceKind, ResourceRef, ResourceSpec, Target
from targets.errors import TransientError

T = TypeVar("T")
# Dependants first: the order in which a job's resources can be deleted.
REMOVAL_ORDER = (ResourceKind.INSTANCE, ResourceKind.DISK, ResourceKind.BOOT_IMAGE, ResourceKind.ADAPTED_IMAGE)


@dataclass
class Notes:
    """What one check did: each name with the job for which it was to be made, the jobs it buried, the longest calls."""

    intended: dict[tuple[ResourceRef, str], None] = field(default_factory=dict)
    slowest_s: dict[str, float] = field(default_factory=dict)
    buried: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def intend(self, ref: ResourceRef, job_id: str) -> None:
        """Note what is about to be made."""
        with self.lock:
            self.intended[ref, job_id] = None

    def took(self, call: str, seconds: float) -> None:
        """Note how long a call took."""
        with self.lock:
            self.slowest_s[call] = max(seconds, self.slowest_s.get(call, 0.0))

    def in_removal_order(self) -> list[tuple[ResourceRef, str]]:
        """What was intended, dependants first."""
        return sorted(self.intended, key=lambda each: REMOVAL_ORDER.index(each[0].kind))


class WatchedTarget:
    """The protocol, passed on. A TransientError is tried again for ``patience_s``, as a step does; 0: never."""

    def __init__(self, target: Target, notes: Notes, *, patience_s: float, poll_s: float) -> None:
        self.inner = target
        self.name = target.name
        self.call_timeout_s = target.call_timeout_s
        self.boots_from_image = target.boots_from_image
        self._notes = notes
        self._patience_s = patience_s
        self._poll_s = poll_s

    def check(self, specs: Sequence[ResourceSpec]) -> None:
        """See ``Target.check``."""
        self._call("check", lambda: self.inner.check(specs))

    def create(self, spec: ResourceSpec) -> Observed:
        """See ``Target.create``."""
        self._notes.intend(spec.ref, spec.owner.job_id)
        return self._call("create", lambda: self.inner.create(spec))

    def find(self, ref: ResourceRef, job_id: str | None = None) -> Observed | None:
        """See ``Target.find``."""
        return self._call("find", lambda: self.inner.find(ref, job_id))

    def delete(self, ref: ResourceRef, *, job_id: str, uid: str) -> None:
        """See ``Target.delete``."""
        self._call("delete", lambda: self.inner.delete(ref, job_id=job_id, uid=uid))

    def bury(self, job_id: str) -> None:
        """See ``Target.bury``."""
        with self._notes.lock:
            self._notes.buried.add(job_id)
        self._call("bury", lambda: self.inner.bury(job_id))

    def inventory(self) -> list[Observed]:
        """See ``Target.inventory``."""
        return self._call("inventory", self.inner.inventory)

    def boot_report(self, ref: ResourceRef) -> BootReport:
        """See ``Target.boot_report``."""
        return self._call("boot_report", lambda: self.inner.boot_report(ref))

    def screenshot(self, ref: ResourceRef) -> bytes | None:
        """See ``Target.screenshot``."""
        return self._call("screenshot", lambda: self.inner.screenshot(ref))

    def _call(self, name: str, call: Callable[[], T]) -> T:
        deadline = time.monotonic() + self._patience_s
        while True:
            start = time.monotonic()
            try:
                return call()
            except TransientError:
                if time.monotonic() + self._poll_s > deadline:
                    raise
            finally:
                self._notes.took(name, time.monotonic() - start)
            time.sleep(self._poll_s)
