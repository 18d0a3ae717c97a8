"""What users do to a clone by hand, and what workers try that are older than the epoch or than the present revision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from guarantee import machine_witness
from guarantee.machine_stage import Stage
from sqlalchemy.exc import DBAPIError, IntegrityError

from models.schema import CloneJob, LedgerRow
from models.states import JobState, LedgerState
from models.store import JobStore, Lease, StaleWrite
from targets.base import LABEL_JOB_ID, ResourceKind, Status
from tasks.plan import ref_of

HANDS = ("remove", "take the name", "make anew", "power off")


def use(stage: Stage, hand: str, which: int, kind: ResourceKind) -> bool:
    """A user's hand on one resource of one job; False if there is nothing to lay it on."""
    rows = [(job, row) for job in machine_witness.jobs(stage) for row in job.ledger if row.kind == kind]
    if not rows:
        return False
    job, row = rows[which % len(rows)]
    ref = ref_of(row)
    standing = next((seen for seen in stage.target.everything() if seen.ref == ref), None)
    match hand:
        case "take the name" if standing is None:
            stage.target.foreign(kind, row.name, {"owner": "a user"})
        case "remove" if standing is not None and not _late_create(stage, job):
            stage.target.remove_by_hand(ref)
        case "make anew" if standing is not None and _known(row, standing.uid):
            # With our label on it, as a console's "create similar" would. Where the ledger knows no uid, the label is
            # the only thing to go by, and a user who copies it cannot be told from a reply that was lost.
            stage.target.foreign(kind, row.name, {LABEL_JOB_ID: job.id})
        case "power off" if standing is not None and kind is ResourceKind.INSTANCE and standing.status is Status.READY:
            stage.target.power_off(ref)
        case _:
            return False
    stage.moved += 1
    return True


def _late_create(stage: Stage, job: CloneJob) -> bool:
    """Whether a frozen worker may still create for the job. What it makes after a user has deleted the first one by hand
    carries another uid than the ledger, as what the user made anew would, and is left alone: the auditor's to find."""
    return any(worker.what[:2] == ("step", job.id) for worker in stage.frozen)


def _known(row: LedgerRow, uid: str) -> bool:
    return row.uid == uid and row.state in (LedgerState.CREATED, LedgerState.KEPT, LedgerState.DELETING)


_Write = Callable[[JobStore, Lease, int], Any]
_WRITES: dict[str, _Write] = {
    "renew": lambda store, lease, at: store.renew(lease),
    "mark_intended": lambda store, lease, at: store.mark_intended(lease, at),
    "mark_created": lambda store, lease, at: store.mark_created(lease, at, "a uid of old"),
    "mark_deleting": lambda store, lease, at: store.mark_deleting(lease, at),
    "mark_absent": lambda store, lease, at: store.mark_absent(lease, at),
    "note_progress": lambda store, lease, at: store.note_progress(lease, 0, percent=1, detail="of old"),
    "complete_step": lambda store, lease, at: store.complete_step(lease, min(at, 1)),
    "pause_step": lambda store, lease, at: store.pause_step(lease, 1.0),
    "succeed": lambda store, lease, at: store.succeed(lease),
    "finish_cleanup": lambda store, lease, at: store.finish_cleanup(lease),
    "pause_cleanup": lambda store, lease, at: store.pause_cleanup(lease, 1.0, "of old"),
}
WRITES = tuple(_WRITES)


def write_late(stage: Stage, lease: Lease, write: str, position: int) -> None:
    """R8: a write under a lease that is over changes nothing and is counted. A lease that still stands is left alone."""
    job = stage.job_quietly(lease.job_id)
    if job.epoch == lease.epoch and job.lease_owner == lease.owner:
        return
    with pytest.raises(StaleWrite):
        _WRITES[write](stage.runtime.store, lease, position)
    after = stage.job_quietly(lease.job_id)
    assert after.stale_writes == job.stale_writes + 1, "R8: a stale write was not counted"
    assert _told(after) == _told(job), "R8: a stale write landed"
    stage.moved += 1
    stage.tally["stale writes tried"] += 1


def _told(job: CloneJob) -> list[Any]:
    rows = [[row.state, row.uid, row.detail] for row in job.ledger]
    return [job.state, job.verdict, job.epoch, job.current_step, job.lease_owner, job.wake_at, job.end_time, rows]


# What a worker of another revision might write if it knew none of today's guards: the database knows them.
_UNGUARDED = {
    "delete what was kept": "UPDATE ledger SET state = 'DELETING' WHERE job_id = :id AND role = 'product'",
    "give a kept disk up": "UPDATE ledger SET state = 'ABSENT' WHERE job_id = :id AND state = 'KEPT'",
    "fail what succeeded": "UPDATE clone_jobs SET verdict = 'FAIL', epoch = epoch + 1 WHERE id = :id",
    "take a verdict back": "UPDATE clone_jobs SET verdict = NULL WHERE id = :id",
    "go on after the end": "UPDATE clone_jobs SET state = 'ACTIVE', end_time = NULL, wake_at = create_time WHERE id = :id",
    "an earlier epoch": "UPDATE clone_jobs SET epoch = epoch - 1 WHERE id = :id",
    "end without a verdict": "UPDATE clone_jobs SET state = 'SUCCEEDED', end_time = create_time, wake_at = NULL"
    " WHERE id = :id",
}  # fmt: skip
UNGUARDED = tuple(_UNGUARDED)


def write_unguarded(stage: Stage, which: int, write: str) -> None:
    """The database refuses what no revision may do."""
    found = machine_witness.jobs(stage)
    wrong_for = {
        "end without a verdict": lambda job: job.verdict is None,
        "an earlier epoch": lambda job: True,
        "go on after the end": lambda job: job.end_time is not None,
    }.get(write, lambda job: job.state is JobState.SUCCEEDED)
    found = [job for job in found if wrong_for(job)]
    if not found:
        return
    with pytest.raises((DBAPIError, IntegrityError)), stage.engine.begin() as connection:
        connection.execute(sa.text(_UNGUARDED[write]), {"id": found[which % len(found)].id})
    stage.moved += 1
    stage.tally["unguarded writes refused"] += 1
