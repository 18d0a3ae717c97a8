"""What an audit found, in data and in words."""

from __future__ import annotations

import datetime as dt
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field

from models.orphans import OrphanSighting
from models.schema import CloneJob
from targets.base import Observed
from tasks.orphans import Proof, Why

_TOLD = 5  # orphans named in the log, each time

_MEANING = {
    Why.CLEANED_UP: "its job has ended and was seen to have left nothing; a call that landed later made it",
    Why.JOB_RUNNING: "the ledger says that it is gone, and its job has not ended",
    Why.JOB_UNKNOWN: "this database does not know its job",
    Why.JOB_SUCCEEDED: "its job succeeded and does not keep it",
    Why.NO_LEDGER_ROW: "its job never planned a thing of this name; somebody copied the label",
    Why.NEVER_MADE: "its job ended before any call was made for it; somebody copied the label",
    Why.OTHER_EPOCH: "its labels carry an epoch that its job never had; somebody copied them",
    Why.LEDGER_OPEN: "its job has ended and its ledger does not say that it is gone; this is a defect",
    Why.NOT_SEEN: "seen before; its target could not be looked at now",
    Why.LEFT_ALONE: "clean-up looked at it, found that it is not what the job made, and left it alone",
    Why.RECREATED: "stands under the name of a kept clone and is another thing",
    Why.OTHER_TARGET: "its job belongs to another target",
    Why.NO_LABEL: "stands under a name of ours without our label",
}
_NEVER = "never deleted here"
_NEXT = {
    Why.JOB_RUNNING: "nothing until its job has ended; the next audit looks again",
    Why.JOB_UNKNOWN: f"{_NEVER}: another service may own it; if none does: clonejob instance delete {{job}} --orphan",
    Why.JOB_SUCCEEDED: f"{_NEVER}: nothing of a succeeded job is; delete it by hand if nobody needs it",
    Why.NO_LEDGER_ROW: f"{_NEVER}: remove the label clonejob-id from it, or delete it by hand",
    Why.NEVER_MADE: f"{_NEVER}: remove the label clonejob-id from it, or delete it by hand",
    Why.OTHER_EPOCH: f"{_NEVER}: remove the label clonejob-id from it, or delete it by hand",
    Why.LEDGER_OPEN: f"{_NEVER}: please report it with the job's events, then delete it by hand",
    Why.NOT_SEEN: "the next audit looks again",
}


@dataclass(frozen=True, slots=True)
class Orphan:
    """Carries our label, and the database knows no reason why it exists. ``next`` is what will become of it."""

    target: str
    kind: str
    name: str
    uid: str
    status: str
    job_id: str
    job_name: str | None
    job_state: str | None
    why: Why
    meaning: str
    first_seen: dt.datetime | None
    last_seen: dt.datetime | None
    good_inventories: int
    deletable: bool
    proven: bool
    next: str


@dataclass(frozen=True, slots=True)
class Missing:
    """A ledger row says that it exists, and the target does not show it: perhaps its user deleted it.

    ``deleted_time``: when its user did so with ``clonejob instance delete``; None if nobody knows.
    """

    target: str
    kind: str
    name: str
    uid: str | None
    job_id: str
    job_name: str
    state: str
    deleted_time: dt.datetime | None


@dataclass(frozen=True, slots=True)
class Stranger:
    """Not ours; listed and never touched. ``job_name`` is the job whose name it stands under, or whose label it has."""

    target: str
    kind: str
    name: str
    uid: str
    job_name: str | None
    why: Why
    meaning: str


@dataclass(frozen=True, slots=True)
class CleanupWait:
    """A failed or cancelled job whose clean-up is not finished: since when, and why it waits."""

    job_name: str
    state: str
    verdict: str
    target: str
    since: dt.datetime | None
    age_s: float
    attempts: int
    detail: str
    next_look: dt.datetime | None


@dataclass(frozen=True, slots=True)
class TargetLook:
    """One target's inventory: how many things have our label, and why it does not count if it is not good."""

    name: str
    good: bool
    things: int
    detail: str


@dataclass(slots=True)
class Audit:
    """All of it. ``elsewhere``: findings of other projects, which are not shown."""

    time: dt.datetime
    proof: Proof
    targets: list[TargetLook] = field(default_factory=list)
    orphans: list[Orphan] = field(default_factory=list)
    deleted: list[Orphan] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    strangers: list[Stranger] = field(default_factory=list)
    cleanups: list[CleanupWait] = field(default_factory=list)
    elsewhere: int = 0

    def log_lines(self) -> Iterator[str]:
        """What a worker's log should say of it; nothing while all is in order."""
        for look in self.targets:
            if not look.good:
                yield f"target {look.name} could not be audited: {look.detail}"
        for orphan in self.deleted:
            yield f"deleted orphan {_line(orphan)}"
        for orphan in self.orphans[:_TOLD]:
            yield f"orphan {_line(orphan)}: {orphan.meaning}; {orphan.next}"
        if len(self.orphans) > _TOLD:
            yield f"and {len(self.orphans) - _TOLD} more orphans; see `clonejob audit`"


def _line(orphan: Orphan) -> str:
    return f"{orphan.target}/{orphan.kind} {orphan.name} (uid {orphan.uid}) of job {orphan.job_name or orphan.job_id}"


def meaning(why: Why) -> str:
    """The finding in words."""
    return _MEANING[why]


def orphan_of(
    target: str, seen: Observed, why: Why, job: CloneJob | None, sighting: OrphanSighting | None, proof: Proof, end: str
) -> Orphan:
    """``end`` is what came of deleting it, if that was tried."""
    proven = why is Why.CLEANED_UP and proof.complete(sighting)
    return Orphan(
        target, str(seen.ref.kind), seen.ref.name, seen.uid, str(seen.status), seen.job_id or "",
        job.name if job else None, str(job.state) if job else None, why, meaning(why),
        sighting.first_seen if sighting else None, sighting.last_seen if sighting else None,
        sighting.good_inventories if sighting else 0, why is Why.CLEANED_UP, proven,
        end or _next(seen.job_id or "", why, sighting, proof, proven=proven),
    )  # fmt: skip


def sighted(sighting: OrphanSighting, job: CloneJob | None) -> Orphan:
    """What is remembered of an orphan that could not be looked at."""
    return Orphan(
        sighting.target, sighting.kind, sighting.name, sighting.uid, "unknown", sighting.job_id,
        job.name if job else None, str(job.state) if job else None, Why.NOT_SEEN, meaning(Why.NOT_SEEN),
        sighting.first_seen, sighting.last_seen, sighting.good_inventories, deletable=False, proven=False,
        next=_NEXT[Why.NOT_SEEN],
    )  # fmt: skip


def _next(job_id: str, why: Why, sighting: OrphanSighting | None, proof: Proof, *, proven: bool) -> str:
    if why is not Why.CLEANED_UP:
        return _NEXT[why].replace("{job}", shlex.quote(job_id))  # a label may hold anything, and this is to be pasted
    if proven:
        return "proven; an audit that is told to delete deletes it"
    if sighting is None:
        return "not counted yet; the next good inventory begins the proof"
    seen_s = (sighting.last_seen - sighting.first_seen).total_seconds()
    so_far = f"{sighting.good_inventories} of {proof.inventories} good inventories over {seen_s:.0f} of {proof.quarantine_s:.0f} s"
    return f"kept until it is proven: {so_far}"


def cleanup_of(job: CloneJob, now: dt.datetime) -> CleanupWait:
    """Why a clean-up is not finished."""
    age_s = (now - job.verdict_time).total_seconds() if job.verdict_time else 0.0
    return CleanupWait(job.name, str(job.state), str(job.verdict), job.target, job.verdict_time, round(age_s, 1),
                       job.cleanup_attempts, job.cleanup_detail or "", job.wake_at)  # fmt: skip
