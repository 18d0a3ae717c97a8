"""Replication cycles: reading them, and uploading one (our addition; the contract has no public call for it)."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Any, Unpack

from models.catalog import CycleChanged, CycleClosed, CycleRunning, WrongState
from models.schema import MigratingVm, ReplicationCycle, Snapshot
from models.states import CycleState, VmState
from targets.uploads import Received
from tasks.errors import Aborted, FailedPrecondition, InvalidArgument, NotFound
from tasks.plan import DEFAULT_LICENSE
from tasks.runtime import Runtime
from tasks.services.common import Page, Paging, list_page, must_get
from tasks.services.references import put_reference, remove_file
from tasks.services.uploads import Chunk, Uploads

_HINTS = {VmState.PAUSED: " until ResumeMigration", VmState.EXPIRED: " until ExtendMigration"}


class CycleService:
    """A cycle is RUNNING while its disks arrive; only a SUCCEEDED one is ever cloned."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._catalog = runtime.catalog
        self._uploads = Uploads(runtime)

    def get(self, name: str) -> ReplicationCycle:
        """Raises: NotFound."""
        return must_get(self._catalog, ReplicationCycle, name)

    def list(self, parent: str, **paging: Unpack[Paging]) -> Page[ReplicationCycle]:
        """Newest first. Raises: InvalidArgument, NotFound (VM)."""
        if "/-" not in parent:
            must_get(self._catalog, MigratingVm, parent)
        return list_page(self._runtime, ReplicationCycle, parent, paging)

    def begin(self, vm_name: str, adaptation: dict[str, Any] | None = None) -> ReplicationCycle:
        """Start the VM's next cycle, and the migration of a READY VM with it.

        ``adaptation`` says what its snapshots are adapted for already: ``{"licenseType": …, "modifiers": {…}}``, both optional. Raises: NotFound, Aborted, InvalidArgument,
        FailedPrecondition (the VM is paused, expired or finalized)."""
        if adaptation is not None:
            adaptation = _checked(adaptation)
        try:
            cycle = self._begin(vm_name, adaptation)
        except CycleRunning as error:
            self._abort_if_idle(error.args[0])
            try:
                cycle = self._begin(vm_name, adaptation)
            except CycleRunning as still:
                raise self._running(still.args[0]) from None
        if cycle is None:
            raise NotFound("MigratingVm", vm_name)
        return cycle

    def _begin(self, vm_name: str, adaptation: dict[str, Any] | None) -> ReplicationCycle | None:
        try:
            return self._catalog.begin_cycle(vm_name, adaptation)
        except WrongState as error:
            hint = _HINTS.get(error.args[0], "")
            raise FailedPrecondition(vm_name, f"{vm_name} is {error.args[0]}; it takes no replication cycle{hint}",
                                     reason="VM_STATE_NOT_ALLOWED") from None  # fmt: skip

    def put_disk(
        self, name: str, disk_number: int, image_format: str, chunks: Iterable[bytes], sha256: str = ""
    ) -> Snapshot:
        """Stream one disk into the snapshot store and check it there; refused images leave nothing behind.

        ``sha256`` (hex), if given, must match what arrived. Raises: InvalidArgument, NotFound, FailedPrecondition,
        AlreadyExists, Aborted (another request writes this disk), ResourceExhausted.
        """
        return self._uploads.put_whole(name, disk_number, image_format, chunks, sha256)

    def put_chunk(
        self, name: str, disk_number: int, image_format: str, chunks: Iterable[bytes], chunk: Chunk, sha256: str = ""
    ) -> Snapshot | Received:
        """Stream one chunk of a disk; what arrives is kept until the rest comes, to whichever process.

        ``sha256`` is that of the whole disk. The snapshot, once all has arrived; until then what has been received.
        Raises: as ``put_disk``; Aborted also for a chunk that does not begin where the last one ended.
        """
        return self._uploads.put_chunk(name, disk_number, image_format, chunks, chunk, sha256)

    def put_reference(self, name: str, disk_number: int, reference: str, size_bytes: int) -> Snapshot:
        """Register a disk that lies at the provider already; again with the same words, it only returns it.

        Raises: InvalidArgument, NotFound, FailedPrecondition, AlreadyExists.
        """
        return put_reference(self._runtime, name, disk_number, reference, size_bytes)

    def received(self, name: str, disk_number: int) -> Snapshot | Received:
        """What has arrived of a disk. Raises: NotFound (cycle, or nothing has arrived), InvalidArgument."""
        found = self._uploads.received(name, disk_number)
        if found is None:
            raise NotFound("Disk", f"{name}/disks/{disk_number}", "; nothing of it has arrived yet")
        return found

    def sweep(self) -> int:
        """Remove parts of uploads that nobody goes on with; how many. For the start of an API process."""
        return self._runtime.uploads.sweep(self._runtime.upload_idle_s) + self._runtime.snapshots.sweep()

    def finish(self, name: str) -> ReplicationCycle:
        """Make the cycle SUCCEEDED: from now on new clones use it; again, it only returns the cycle.

        Raises: NotFound, FailedPrecondition (also while a disk has begun to arrive and is not complete)."""
        cycle = self.get(name)
        if cycle.state is not CycleState.RUNNING:
            return self._end(name, CycleState.SUCCEEDED, None)
        if begun := self._uploads.incomplete(cycle):
            disks = ", ".join(f"disk {number} ({_amount(received)})" for number, received in begun.items())
            raise FailedPrecondition(
                name,
                f"{name} has disks that have not arrived in full: {disks}; finish their uploads, or abort the cycle with "
                f"POST {name}:abort below /clonejob/v1/; nothing was discarded",
                reason="DISKS_INCOMPLETE",
            )
        numbers = [snapshot.disk_number for snapshot in cycle.snapshots]
        if numbers != list(range(len(numbers))) or not numbers:
            have = ", ".join(map(str, numbers)) or "none"
            raise FailedPrecondition(name, f"{name} needs its disks 0, 1, … without a gap; uploaded: {have}",
                                     reason="DISKS_MISSING")  # fmt: skip
        try:
            ended = self._end(name, CycleState.SUCCEEDED, None, disks=numbers)
        except CycleChanged:
            return self.finish(name)  # a disk was completed meanwhile: look at all of them again
        self._runtime.uploads.discard(name, published=False)
        return ended

    def abort(self, name: str, message: str) -> ReplicationCycle:
        """Make the cycle FAILED and remove its disks: it was never cloned; again, it only returns the cycle.

        Raises: NotFound, FailedPrecondition."""
        self.get(name)
        ended = self._end(name, CycleState.FAILED, {"message": message or "the upload was aborted"})
        self._runtime.uploads.discard(name, published=True)
        for snapshot in self.get(name).snapshots:
            remove_file(self._runtime, snapshot)
        return ended

    def _last_time(self, cycle: ReplicationCycle) -> dt.datetime:
        """When the cycle last moved: it began, a disk was complete, or a byte of one arrived."""
        times = [cycle.start_time, *(snapshot.create_time for snapshot in cycle.snapshots)]
        if (last := self._runtime.uploads.last_time(cycle.name)) is not None:
            times.append(dt.datetime.fromtimestamp(last, dt.UTC))
        return max(times)

    def _abort_if_idle(self, name: str) -> None:
        idle_s = (self._runtime.clock() - self._last_time(self.get(name))).total_seconds()
        if idle_s > self._runtime.upload_idle_s:
            with contextlib.suppress(FailedPrecondition):  # it has ended meanwhile
                self.abort(name, f"nothing was uploaded for {idle_s / 3600:.0f} h; the next cycle was begun instead")

    def _running(self, name: str) -> Aborted:
        last, hours = self._last_time(self.get(name)), self._runtime.upload_idle_s / 3600
        return Aborted(
            f"a replication cycle of this VM is running: {name}, last data at {last:%Y-%m-%d %H:%M:%S} UTC; finish it, or "
            f"abort it with clonejob vm import --abort-running or POST {name}:abort below /clonejob/v1/; "
            f"without data for {hours:g} h it is aborted when the next one begins",
            reason="CYCLE_RUNNING",
            metadata={"resource": name},
        )

    def _end(
        self, name: str, state: CycleState, reason: dict[str, Any] | None, *, disks: Sequence[int] | None = None
    ) -> ReplicationCycle:
        try:
            return self._catalog.end_cycle(name, state, reason, disks=disks)
        except CycleClosed as error:
            cycle = self.get(name)
            if cycle.state is state:  # the call is repeated, or another one was faster
                return cycle
            raise _not_now(name, str(error.args[0]), state) from None


def _not_now(name: str, found: str, wanted: CycleState) -> FailedPrecondition:
    if wanted is CycleState.FAILED:
        text = f"{name} is {found} and cannot be aborted any more; clones may use it"
    elif found == CycleState.PAUSED:
        text = f"{name} is PAUSED and cannot be finished until ResumeMigration"
    else:
        text = f"{name} is {found} and cannot be finished any more; begin a new cycle"
    return FailedPrecondition(name, text, reason="CYCLE_CLOSED")


def _amount(received: Received) -> str:
    total = "an unknown total" if received.total_bytes is None else f"{received.total_bytes} bytes"
    return f"{received.received_bytes} {'bytes of' if received.total_bytes is None else 'of'} {total}"


def _checked(adaptation: dict[str, Any]) -> dict[str, Any]:
    license_type = adaptation.get("licenseType", DEFAULT_LICENSE)
    modifiers = adaptation.get("modifiers", {})
    unknown = set(adaptation) - {"licenseType", "modifiers"}
    texts = isinstance(modifiers, dict) and all(isinstance(v, str) for v in modifiers.values())
    if unknown or not isinstance(license_type, str) or not texts:
        raise InvalidArgument("adaptation", 'must be {"licenseType": "…", "modifiers": {"name": "value"}}')
    return {"licenseType": license_type, "modifiers": modifiers}
