"""Receiving a disk: whole in one request, or in chunks that may be repeated, resumed and sent to any process."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from models.catalog import CycleClosed, ResourceExists
from models.schema import ReplicationCycle, Snapshot
from models.states import CycleState
from targets.images import MAX_VIRTUAL_SIZE_BYTES, MOST_DISKS, ImageError, inspect_image
from targets.snapshot_store import SnapshotStoreError
from targets.uploads import PartialUpload, Received, UploadBusy
from tasks.errors import Aborted, AlreadyExists, FailedPrecondition, InvalidArgument, ResourceExhausted, ServiceError
from tasks.runtime import Runtime
from tasks.services.common import must_get

FORMATS = ("raw", "qcow2")


@dataclass(frozen=True, slots=True)
class Chunk:
    """``Content-Range: bytes first-last/total``; ``first`` is None for ``bytes */total``, which carries nothing.

    ``total`` is None while the sender does not know it; ``sha256`` (hex), if given, is that of the chunk.
    """

    first: int | None
    last: int
    total: int | None
    sha256: str = ""

    @property
    def size(self) -> int:
        """How many bytes it carries."""
        return 0 if self.first is None else self.last - self.first + 1


class Uploads:
    """The disks of cycles that are RUNNING."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._catalog = runtime.catalog

    def put_whole(
        self, name: str, disk_number: int, image_format: str, chunks: Iterable[bytes], sha256: str
    ) -> Snapshot:
        """One disk in one request. What an earlier request left is thrown away; so is this one if it breaks off."""
        self._check(name, disk_number, image_format)
        try:
            with self._runtime.uploads.open(name, disk_number, image_format, None) as upload:
                self._check_again(upload, name, disk_number, image_format)
                try:
                    upload.restart(image_format, None)
                    for data in chunks:
                        upload.write(data)
                    return self._record(upload, name, disk_number, sha256)
                except BaseException:
                    upload.discard()
                    raise
        except SnapshotStoreError as error:
            raise self._refused(name, disk_number, error) from error

    def put_chunk(
        self, name: str, disk_number: int, image_format: str, chunks: Iterable[bytes], chunk: Chunk, sha256: str
    ) -> Snapshot | Received:
        """One chunk. What arrives of it is kept even if it breaks off; the last one makes the disk a snapshot."""
        if done := self._repeated(name, disk_number, image_format, chunk, sha256):
            return done
        self._check(name, disk_number, image_format)
        if chunk.total is not None and chunk.total > MAX_VIRTUAL_SIZE_BYTES:
            raise InvalidArgument(
                "Content-Range", f"announces more than the {MAX_VIRTUAL_SIZE_BYTES} bytes a disk may have"
            )
        try:
            with self._runtime.uploads.open(name, disk_number, image_format, chunk.total) as upload:
                self._check_again(upload, name, disk_number, image_format)
                self._check_chunk(upload, image_format, chunk)
                try:
                    self._append(upload, chunks, chunk)
                except SnapshotStoreError:
                    upload.discard()
                    raise
                self._check_not_ended(upload, name)
                if chunk.total is None or upload.received_bytes < chunk.total:
                    return Received(upload.received_bytes, image_format, upload.total_bytes, self._now())
                try:
                    return self._record(upload, name, disk_number, sha256)
                except (InvalidArgument, SnapshotStoreError):  # it will never become a disk of this cycle
                    upload.discard()
                    raise
        except SnapshotStoreError as error:
            raise self._refused(name, disk_number, error) from error

    def received(self, name: str, disk_number: int) -> Snapshot | Received | None:
        """What has arrived of a disk; None for nothing. Raises: NotFound (cycle), InvalidArgument."""
        cycle = must_get(self._catalog, ReplicationCycle, name)
        check_number(disk_number)
        done = recorded(cycle, disk_number)
        return done or self._runtime.uploads.received(name, disk_number)

    def incomplete(self, cycle: ReplicationCycle) -> dict[int, Received]:
        """The disks of which something has arrived, or arrives now, and that are not recorded; by number."""
        recorded = {snapshot.disk_number for snapshot in cycle.snapshots}
        found = ((n, self._runtime.uploads.received(cycle.name, n)) for n in range(MOST_DISKS) if n not in recorded)
        return {number: received for number, received in found if received is not None}

    def _append(self, upload: PartialUpload, chunks: Iterable[bytes], chunk: Chunk) -> None:
        start, left = upload.received_bytes, chunk.size
        digest = hashlib.sha256() if chunk.sha256 else None
        try:
            for data in chunks:
                left -= len(data)
                if left < 0:
                    break
                upload.write(data)
                if digest:
                    digest.update(data)
        except SnapshotStoreError:
            raise
        except BaseException:
            upload.checkpoint()  # the sender went away: what has arrived need not be sent again
            raise
        if left < 0:
            upload.cut(start)
            raise InvalidArgument("Content-Range", f"says {chunk.size} bytes, and more arrived")
        if digest and left > 0:
            upload.cut(start)  # it cannot be checked, so it is not kept
        elif digest and digest.hexdigest() != chunk.sha256.lower():
            upload.cut(start)
            message = "what arrived of this chunk has another one; send the chunk again"
            raise InvalidArgument("Content-Digest", message, reason="CHECKSUM_MISMATCH")
        else:
            upload.checkpoint()

    def _check(self, name: str, disk_number: int, image_format: str) -> None:
        if image_format not in FORMATS:
            raise InvalidArgument(
                "format", f"{image_format!r} is not one of raw, qcow2; formats are named, never guessed"
            )
        check_number(disk_number)
        cycle = must_get(self._catalog, ReplicationCycle, name)
        if cycle.state is not CycleState.RUNNING:
            raise closed(name, cycle.state)
        if recorded(cycle, disk_number) is not None:
            raise AlreadyExists("Disk", f"{name}/disks/{disk_number}")

    def _check_again(self, upload: PartialUpload, name: str, disk_number: int, image_format: str) -> None:
        """Now that nobody else can write it. A part that was only made by this request goes with the refusal."""
        try:
            self._check(name, disk_number, image_format)
        except ServiceError:
            if not upload.received_bytes:
                upload.discard()
            raise

    def _check_not_ended(self, upload: PartialUpload, name: str) -> None:
        """Whether the cycle was finished or aborted under the upload; then what is left of it goes."""
        try:
            cycle = must_get(self._catalog, ReplicationCycle, name)
            if cycle.state in (CycleState.SUCCEEDED, CycleState.FAILED):
                raise closed(name, cycle.state)
        except ServiceError:
            upload.discard()
            raise

    @staticmethod
    def _check_chunk(upload: PartialUpload, image_format: str, chunk: Chunk) -> None:
        begun = (upload.format, upload.total_bytes or chunk.total)
        if begun != (image_format, chunk.total or upload.total_bytes):
            raise InvalidArgument(
                "Content-Range",
                f"this upload was begun as {begun[0]} of {begun[1] or 'unknown'} bytes; go on so, or send the disk whole",
                reason="UPLOAD_CHANGED",
            )
        if chunk.first is not None and chunk.first != upload.received_bytes:
            raise Aborted(
                f"the next chunk must begin at byte {upload.received_bytes}, not {chunk.first}; go on from there",
                reason="UPLOAD_OFFSET_MISMATCH",
                metadata={"receivedBytes": str(upload.received_bytes)},
            )

    def _repeated(self, name: str, disk_number: int, image_format: str, chunk: Chunk, sha256: str) -> Snapshot | None:
        """The snapshot, if this repeats the last chunk of a disk whose answer was lost."""
        done = recorded(must_get(self._catalog, ReplicationCycle, name), disk_number)
        if done is None or (done.format, done.stored_size_bytes) != (image_format, chunk.total):
            return None
        return done if sha256.lower() in ("", done.sha256) else None

    def _record(self, upload: PartialUpload, name: str, disk_number: int, sha256: str) -> Snapshot:
        upload.checkpoint()
        digest = upload.sha256()
        self._check_not_ended(upload, name)
        if sha256 and sha256.lower() != digest:
            raise InvalidArgument(
                "sha256", f"what arrived has {digest}; send the disk again", reason="CHECKSUM_MISMATCH"
            )
        try:
            info = inspect_image(upload.path, upload.format)
        except ImageError as error:
            self._check_not_ended(upload, name)  # then the file is gone, and nothing is wrong with the image
            message = str(error).replace(upload.path.name, f"disk{disk_number}")
            message = message.replace("name it with --format ", "add ?format=")  # disks arrive over REST only
            raise InvalidArgument("disk", message, reason="IMAGE_REFUSED") from error
        key = upload.publish()
        snapshot = Snapshot(
            cycle=name, disk_number=disk_number, store_key=key, format=upload.format,
            virtual_size_bytes=info.virtual_size_bytes, stored_size_bytes=upload.received_bytes, sha256=digest,
            create_time=self._runtime.clock(),
        )  # fmt: skip
        try:
            self._catalog.add_snapshot(snapshot)
        except CycleClosed as error:
            self._runtime.snapshots.remove(key)
            upload.discard()
            raise closed(name, error.args[0]) from None
        except ResourceExists:
            self._runtime.snapshots.remove(key)
            upload.discard()
            raise AlreadyExists("Disk", f"{name}/disks/{disk_number}") from None
        upload.discard()
        return snapshot

    def _refused(self, name: str, disk_number: int, error: SnapshotStoreError) -> Exception:
        if isinstance(error, UploadBusy):
            return Aborted(
                f"disk {disk_number} of {name} is being written by another request; wait for it, or try again in a moment",
                reason="UPLOAD_RUNNING",
                metadata={"resource": f"{name}/disks/{disk_number}"},
            )
        cycle = must_get(self._catalog, ReplicationCycle, name)
        if cycle.state is not CycleState.RUNNING:  # it was aborted under the upload
            return closed(name, cycle.state)
        return ResourceExhausted(f"the disk cannot be stored: {error}")

    def _now(self) -> float:
        return self._runtime.clock().timestamp()


def closed(name: str, state: str) -> FailedPrecondition:
    """What a cycle that is not RUNNING answers."""
    return FailedPrecondition(name, f"{name} is {state}; disks go into a RUNNING cycle only", reason="CYCLE_CLOSED")


def check_number(disk_number: int) -> None:
    """Raises: InvalidArgument."""
    if not 0 <= disk_number < MOST_DISKS:
        raise InvalidArgument("disk_number", f"must be between 0 and {MOST_DISKS - 1}")


def recorded(cycle: ReplicationCycle, disk_number: int) -> Snapshot | None:
    """The cycle's disk of that number, if it has been recorded."""
    return next((each for each in cycle.snapshots if each.disk_number == disk_number), None)
