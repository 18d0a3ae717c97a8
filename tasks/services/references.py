"""Disks by reference: a provider's own snapshot or image in place of an upload.

Only its name is kept. Whether it exists is for the target to say, when a clone is planned; its bytes are never read here,
and nothing of it is ever deleted.
"""

from __future__ import annotations

from models.catalog import CycleClosed, ResourceExists
from models.schema import ReplicationCycle, Snapshot
from models.states import CycleState
from tasks.errors import AlreadyExists, InvalidArgument
from tasks.references import reference_problem, size_problem
from tasks.runtime import Runtime
from tasks.services.common import must_get
from tasks.services.uploads import check_number, closed, recorded

FORMAT = "reference"


def put_reference(runtime: Runtime, name: str, disk_number: int, reference: str, size_bytes: int) -> Snapshot:
    """See ``CycleService.put_reference``."""
    check_number(disk_number)
    if problem := reference_problem(reference):
        raise InvalidArgument("reference", problem)
    if problem := size_problem(size_bytes):
        raise InvalidArgument("size_bytes", problem)
    cycle = must_get(runtime.catalog, ReplicationCycle, name)
    done = recorded(cycle, disk_number)
    if done is not None and (done.format, done.store_key, done.virtual_size_bytes) == (FORMAT, reference, size_bytes):
        return done
    if cycle.state is not CycleState.RUNNING:
        raise closed(name, cycle.state)
    if done is not None:
        raise AlreadyExists("Disk", f"{name}/disks/{disk_number}")
    snapshot = Snapshot(
        cycle=name, disk_number=disk_number, store_key=reference, format=FORMAT, virtual_size_bytes=size_bytes,
        stored_size_bytes=0, sha256="", create_time=runtime.clock(),
    )  # fmt: skip
    try:
        runtime.catalog.add_snapshot(snapshot)
    except CycleClosed as error:
        raise closed(name, error.args[0]) from None
    except ResourceExists:  # another request was faster: with the same words or not, it is what counts
        done = recorded(must_get(runtime.catalog, ReplicationCycle, name), disk_number)
        if done is not None and (done.format, done.store_key) == (FORMAT, reference):
            return done
        raise AlreadyExists("Disk", f"{name}/disks/{disk_number}") from None
    return snapshot


def remove_file(runtime: Runtime, snapshot: Snapshot) -> None:
    """Remove what lies in the store of a snapshot: nothing, if it lies at a provider. Raises: SnapshotStoreError."""
    if snapshot.format != FORMAT:
        runtime.snapshots.remove(snapshot.store_key)
