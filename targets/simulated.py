"""A target without machines: resources are small files that outlive workers, with faults by script.

It keeps the same promises as a real target, so that a judge can hold our tables against what it saw. What it holds
survives the death of any process, not a power loss.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from targets import simulated_guest
from targets.base import (
    LABEL_JOB_ID,
    AdaptedImageSpec,
    BootImageSpec,
    BootReport,
    InstanceSpec,
    Observed,
    ResourceKind,
    ResourceRef,
    ResourceSpec,
    Status,
    parts_of,
)
from targets.errors import ConflictError, RefusedError, TargetError, TransientError
from targets.local_files import Tombstones, check_job_id, check_name, storage_errors_translated
from targets.simulated_faults import Fault, FaultScript
from targets.simulated_log import Call, CallLog
from targets.simulated_store import Entry, SimulatedStore


class SimulatedTarget:
    """See ``targets.base.Target``. Everything is under ``root``; several processes may use one root.

    ``durations``: seconds by kind that a create takes to be READY (0 if not named); ``delete_durations``: the same
    for a delete to be through. ``clock`` and ``sleep`` can be moved by tests. ``keeps_tombstones=False`` behaves like
    a cloud that cannot refuse late calls, ``boots_from_image`` like one that knows no disks without an instance.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        name: str = "simulated",
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        durations: Mapping[ResourceKind, float] | None = None,
        delete_durations: Mapping[ResourceKind, float] | None = None,
        call_timeout_s: float = 10.0,
        keeps_tombstones: bool = True,
        boots_from_image: bool = False,
    ) -> None:
        self.name = name
        self.boots_from_image = boots_from_image
        self.call_timeout_s = call_timeout_s
        self.root = Path(root).absolute()
        self._clock = clock
        self._sleep = sleep
        self._durations = dict(durations or {})
        self._delete_durations = dict(delete_durations or {})
        self._keeps_tombstones = keeps_tombstones
        self._store = SimulatedStore(self.root, clock, lock_timeout_s=call_timeout_s)
        self._tombstones = Tombstones(self.root / "tombstones", durable=False)
        self.remove_tombstone = self._tombstones.remove_of_kit  # for the conformance kit
        self._script = FaultScript(self.root)
        self._log = CallLog(self.root / "calls.jsonl", clock)

    # The protocol

    def check(self, specs: Sequence[ResourceSpec]) -> None:
        """Accepts every plan."""
        job_id = specs[0].owner.job_id if specs else None
        with self._call("check", None, job_id=job_id):
            for spec in specs:
                check_name(spec.ref.name)

    def create(self, spec: ResourceSpec) -> Observed:
        """See ``Target.create``. The disks of an instance and the image of a disk must be READY."""
        check_name(spec.ref.name)
        check_job_id(spec.owner.job_id)
        owner = spec.owner
        with (
            self._call("create", spec.ref, job_id=owner.job_id, epoch=owner.epoch) as fault,
            self._store.locked(spec.ref),
        ):
            if self._keeps_tombstones:
                self._tombstones.refuse_buried(owner.job_id)
            entry = self._store.load(spec.ref)
            if entry is not None and entry.labels.get(LABEL_JOB_ID) != owner.job_id:
                raise ConflictError(f"{spec.ref} exists and does not belong to job {owner.job_id}.")
            if entry is not None and not entry.failed:
                if entry.deleting_until is not None:
                    raise TransientError(f"{spec.ref} is still being deleted; try again.")
                return self._start(spec.ref, entry)
            return self._make(spec, fault)

    def find(self, ref: ResourceRef, job_id: str | None = None) -> Observed | None:
        """See ``Target.find``."""
        with self._call("find", ref), self._store.settled(ref):
            entry = self._store.load(ref)
            return None if entry is None else self._store.observed(ref, entry)

    def delete(self, ref: ResourceRef, *, job_id: str, uid: str) -> None:
        """See ``Target.delete``."""
        with self._call("delete", ref, job_id=job_id, uid=uid) as fault, self._store.locked(ref):
            entry = self._store.load(ref)
            if entry is None or (entry.uid == uid and entry.deleting_until is not None):
                return
            if entry.uid != uid or entry.labels.get(LABEL_JOB_ID) != job_id:
                raise ConflictError(f"{ref} is not the one that was to be deleted; it stays.")
            duration = self._delete_durations.get(ref.kind, 0.0) + _slowness(fault)
            if duration > 0:
                self._store.save(ref, replace(entry, deleting_until=self._clock() + duration))
            else:
                self._store.remove(ref)
            self._effect("delete", ref, entry, "deleting" if duration > 0 else "gone")

    def bury(self, job_id: str) -> None:
        """See ``Target.bury``."""
        with self._call("bury", None, job_id=job_id):
            if self._keeps_tombstones:
                self._tombstones.bury(job_id)

    def inventory(self) -> list[Observed]:
        """See ``Target.inventory``."""
        with self._call("inventory", None):
            return [observed for observed in self.everything() if observed.job_id is not None]

    def boot_report(self, ref: ResourceRef) -> BootReport:
        """BOOTED as soon as the instance is READY; the console shows its host name. See ``Target.boot_report``."""
        with self._call("boot_report", ref) as fault:
            entry = self._store.load(ref)
            status = None if entry is None else self._store.status(entry)
            return simulated_guest.report(entry, status, fault, self._clock())

    def screenshot(self, ref: ResourceRef) -> bytes | None:
        """A small picture of an instance that is READY. See ``Target.screenshot``."""
        with self._call("screenshot", ref):
            entry = self._store.load(ref)
            is_on = entry is not None and self._store.status(entry) is Status.READY
            return simulated_guest.screen(entry) if entry is not None and is_on else None

    # For tests, demonstrations and judges

    def add_fault(
        self,
        *,
        op: str,
        fault: str,
        kind: str | None = None,
        name: str = "*",
        job_id: str | None = None,
        times: int | None = 1,
        delay_s: float = 0.0,
    ) -> str:
        """Script a fault (see ``simulated_faults.FAULTS``) for the next ``times`` calls that match; returns its id.

        ``find``, ``inventory`` and ``boot_report`` know no job id. A hang may outlast ``call_timeout_s``: it stands
        for a frozen process, which keeps no promise about time.
        """
        return self._script.add(Fault(op, fault, kind, name, job_id, times, delay_s))

    def clear_faults(self) -> None:
        """Forget all scripted faults."""
        self._script.clear()

    def faults_left(self) -> list[Fault]:
        """Scripted faults that were not used up."""
        return self._script.left()

    def calls(self) -> list[Call]:
        """The call log, oldest first."""
        return self._log.read()

    def clear(self) -> None:
        """Empty the call log. What exists stays."""
        self._log.clear()

    def everything(self) -> list[Observed]:
        """All that exists, also what has no label of ours; not a call, so not logged."""
        return self._store.everything()

    def foreign(self, kind: ResourceKind, name: str, labels: Mapping[str, str] | None = None) -> Observed:
        """Make a resource as a user would by hand, replacing what has the name; returns it."""
        ref = ResourceRef(kind, check_name(name))
        with self._store.locked(ref):
            entry = self._store.new_entry(labels or {})
            self._store.save(ref, entry)
            self._effect("foreign", ref, entry, "made")
            return self._store.observed(ref, entry)

    def remove_by_hand(self, ref: ResourceRef) -> None:
        """Remove a resource as a user would, whoever owns it."""
        with self._store.locked(ref):
            entry = self._store.load(ref)
            if entry is not None:
                self._store.remove(ref)
                self._effect("remove_by_hand", ref, entry, "gone")

    def power_off(self, ref: ResourceRef) -> None:
        """Stop an instance as a user would. Raises: ValueError if there is none."""
        with self._store.locked(ref):
            entry = self._store.load(ref)
            if entry is None:
                raise ValueError(f"there is no {ref}")
            self._store.save(ref, replace(entry, stopped=True))

    # Inside

    @contextmanager
    def _call(
        self,
        op: str,
        ref: ResourceRef | None,
        *,
        job_id: str | None = None,
        epoch: int | None = None,
        uid: str | None = None,
    ) -> Iterator[Fault | None]:
        """Log the call and let its fault happen around the body, which is the effect."""
        kind, name = (str(ref.kind), ref.name) if ref else (None, None)

        def log(phase: str, outcome: str | None = None) -> None:
            self._log.add(op, phase, kind=kind, name=name, job_id=job_id, epoch=epoch, uid=uid, outcome=outcome)

        log("start")
        try:
            fault = self._script.take(op, kind, name, job_id)
            self._before(fault, op)
            with storage_errors_translated():
                yield fault
        except (TargetError, OSError) as error:
            log("end", f"error:{type(error).__name__}")
            raise
        if fault is not None and fault.fault == "crash_after":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault is not None and fault.fault == "lose_reply":
            log("end", "lost")
            raise TransientError(f"The reply to {op} was lost (scripted fault).")
        log("end", "ok")

    def _before(self, fault: Fault | None, op: str) -> None:
        match fault.fault if fault else None:
            case "fail":
                raise TransientError(f"{op} failed for now (scripted fault).")
            case "refuse":
                raise RefusedError(f"{op} was refused (scripted fault).")
            case "crash_before":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                self._sleep(fault.delay_s if fault else 0.0)

    def _make(self, spec: ResourceSpec, fault: Fault | None) -> Observed:
        self._require_parts(spec)
        half_made = fault is not None and fault.fault == "half_made"
        extra = {} if isinstance(spec, AdaptedImageSpec) else spec.labels
        duration = self._durations.get(spec.ref.kind, 0.0) + _slowness(fault)
        entry = self._store.new_entry({**extra, **spec.owner.labels()}, duration)
        if isinstance(spec, InstanceSpec):
            entry = replace(entry, hostname=spec.hostname, machine_type=spec.machine_type, disks=spec.disks)
        else:
            snapshots = spec.snapshots if isinstance(spec, BootImageSpec) else (spec.snapshot,)
            entry = replace(entry, snapshot=" ".join(each.key for each in snapshots))
        entry = replace(entry, failed="half made (scripted fault)" if half_made else "")
        self._store.save(spec.ref, entry)
        self._effect("create", spec.ref, entry, "half_made" if half_made else "made")
        if half_made:
            raise TransientError(f"{spec.ref} was left half made (scripted fault).")
        return self._store.observed(spec.ref, entry)

    def _start(self, ref: ResourceRef, entry: Entry) -> Observed:
        if entry.stopped:
            ready_at = self._clock() + self._durations.get(ref.kind, 0.0)
            entry = replace(entry, stopped=False, ready_at=ready_at)
            self._store.save(ref, entry)
            self._effect("create", ref, entry, "started")
        return self._store.observed(ref, entry)

    def _require_parts(self, spec: ResourceSpec) -> None:
        for part in parts_of(spec):
            entry = self._store.load(part)
            is_ready = entry is not None and self._store.status(entry) is Status.READY
            if entry is None or not is_ready or entry.labels.get(LABEL_JOB_ID) != spec.owner.job_id:
                raise RefusedError(f"{spec.ref} needs {part}, which is not ready.")

    def _effect(self, op: str, ref: ResourceRef, entry: Entry, outcome: str) -> None:
        job_id = entry.labels.get(LABEL_JOB_ID)
        self._log.add(op, "effect", kind=ref.kind, name=ref.name, job_id=job_id, uid=entry.uid, outcome=outcome)


def _slowness(fault: Fault | None) -> float:
    return fault.delay_s if fault is not None and fault.fault == "slow" else 0.0
