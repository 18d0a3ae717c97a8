"""What a labelled thing at a target is to this database: in order, an orphan, or not ours. Pure: no database, no target.

Only one finding is ever deleted, ``CLEANED_UP``: a failed or cancelled job of this database made it, its ledger says that
its absence was observed, and it exists all the same. That is what the call of a frozen worker leaves which lands after
its job has ended, on a target that keeps no tombstones. A user who copies our labels to a thing of his own does not get
here: the ledger has no such name, or no call was ever made for it, or the epoch is none of the job's.
"""

from __future__ import annotations

import datetime as dt
import enum
from dataclasses import dataclass

from models.orphans import OrphanKey, OrphanSighting
from models.schema import CloneJob, LedgerRow
from models.states import TERMINAL, JobState, LedgerState
from targets.base import LABEL_EPOCH, Observed, ResourceRef

LEFT_ALONE_PREFIX = "ours is gone; another resource"


class Why(enum.StrEnum):
    """Why a thing with our label is reported."""

    CLEANED_UP = "CLEANED_UP"  # its failed or cancelled job was seen to have left nothing: a late call made it
    JOB_RUNNING = "JOB_RUNNING"  # the ledger says absent, and the job has not ended
    JOB_UNKNOWN = "JOB_UNKNOWN"  # the label names a job that this database does not know
    JOB_SUCCEEDED = "JOB_SUCCEEDED"  # not among what a succeeded job keeps
    NO_LEDGER_ROW = "NO_LEDGER_ROW"  # the job never planned a thing of this name
    NEVER_MADE = "NEVER_MADE"  # planned, but no call was ever made for it
    OTHER_EPOCH = "OTHER_EPOCH"  # the epoch in its labels is none of the job's
    LEDGER_OPEN = "LEDGER_OPEN"  # the job has ended and the ledger does not say absent: a defect
    NOT_SEEN = "NOT_SEEN"  # seen before; its target could not be looked at now
    # Not ours
    LEFT_ALONE = "LEFT_ALONE"  # clean-up looked at it and left it alone
    RECREATED = "RECREATED"  # not the clone that was kept: somebody made it anew under its name
    OTHER_TARGET = "OTHER_TARGET"  # the job was to be made on another target
    NO_LABEL = "NO_LABEL"  # stands under a name of ours without our label


STRANGERS = frozenset({Why.LEFT_ALONE, Why.RECREATED, Why.OTHER_TARGET, Why.NO_LABEL})


@dataclass(frozen=True, slots=True)
class Proof:
    """How often, and for how long at least, an orphan must have been seen before it is deleted."""

    inventories: int = 3
    quarantine_s: float = 60.0

    def complete(self, seen: OrphanSighting | None) -> bool:
        """Whether what was seen is enough."""
        if seen is None or seen.good_inventories < self.inventories:
            return False
        return seen.last_seen - seen.first_seen >= dt.timedelta(seconds=self.quarantine_s)


def left_alone_detail(uid: str) -> str:
    """What the ledger says when clean-up found another thing under the name; the uid is what the auditor knows it by."""
    return f"{LEFT_ALONE_PREFIX} (uid {uid}) stands under its name and was left alone"


def row_of(job: CloneJob, ref: ResourceRef) -> LedgerRow | None:
    """The job's ledger row of that kind and name."""
    return next((row for row in job.ledger if (row.kind, row.name) == (ref.kind, ref.name)), None)


def key_of(target: str, seen: Observed) -> OrphanKey:
    """What names it in the sightings."""
    return OrphanKey(target, str(seen.ref.kind), seen.ref.name, seen.uid)


def judge(job: CloneJob | None, target: str, seen: Observed) -> Why | None:
    """What is wrong with a thing whose label names ``job``, None for a job that is not known; None if it is in order."""
    if job is None:
        return Why.JOB_UNKNOWN
    if job.target != target:
        return Why.OTHER_TARGET
    row = row_of(job, seen.ref)
    if row is None:
        return Why.NO_LEDGER_ROW
    if row.state is LedgerState.KEPT:
        return None if row.uid == seen.uid else Why.RECREATED
    if row.state is LedgerState.ABSENT and row.detail == left_alone_detail(seen.uid):
        return Why.LEFT_ALONE
    if job.state not in TERMINAL:
        return Why.JOB_RUNNING if row.state is LedgerState.ABSENT else None
    if job.state is JobState.SUCCEEDED:
        return Why.JOB_SUCCEEDED
    if row.state is not LedgerState.ABSENT:
        return Why.LEDGER_OPEN
    if row.intended_time is None:
        return Why.NEVER_MADE
    return Why.CLEANED_UP if _epoch_is_of(job, seen) else Why.OTHER_EPOCH


def _epoch_is_of(job: CloneJob, seen: Observed) -> bool:
    epoch = seen.labels.get(LABEL_EPOCH, "")
    return epoch.isascii() and epoch.isdigit() and len(epoch) < 10 and 1 <= int(epoch) <= job.epoch
