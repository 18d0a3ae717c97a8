"""The orphan auditor: holds each target's inventory against the database, both ways.

It reports; only when it is told to, it also deletes, and then only orphans for which there is proof (tasks/orphans.py):
seen in several good inventories without a break, over a quarantine, and everything read again right before the call,
which ``tasks/cleanup.py`` makes. An inventory is good when it was answered and shows all that is known to exist; one that
is not counts neither for an orphan nor against it. What is seen is remembered in the database, so that runs hours apart
and those of the worker pool add up.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterator, Mapping, Sequence

from sqlalchemy.exc import DBAPIError

from models.orphans import Expected, OrphanKey, OrphanSighting, OrphanStore
from models.schema import CloneJob
from models.states import LedgerState
from targets.base import Observed, ResourceKind, ResourceRef
from targets.errors import TargetError
from tasks.audit_report import Audit, Missing, Stranger, TargetLook, cleanup_of, meaning, orphan_of, sighted
from tasks.cleanup import OrphanEnd, remove_orphan
from tasks.orphans import LEFT_ALONE_PREFIX, STRANGERS, Proof, Why, judge, key_of
from tasks.runtime import Runtime
from tasks.target_calls import TargetCalls

logger = logging.getLogger(__name__)
_PAGE = 2000
_MOST_LOOKS = 200  # at single things that an inventory does not show, newest first
# An instance goes before the disks that it uses.
_ORDER = (ResourceKind.INSTANCE, ResourceKind.DISK, ResourceKind.ADAPTED_IMAGE)
_GUARD = "clonejob guard"  # how the triggers' messages begin
_Shown = Mapping[tuple[str, str], Observed]


def audit(
    runtime: Runtime, *, targets: Sequence[str] = (), proof: Proof | None = None, delete: bool = False,
    project: str = "",
) -> Audit:  # fmt: skip
    """Look at the named targets, or at all, once. With ``delete``, what is proven goes.

    With ``project`` only what its jobs made is shown and deleted, and what belongs to no known job is shown; findings of
    other projects are counted in ``elsewhere``.
    """
    orphans = OrphanStore(runtime.store.engine, clock=runtime.clock)
    found = Audit(time=runtime.clock(), proof=proof or Proof())
    for name in targets or sorted(runtime.targets):
        look = _Look(runtime, orphans, name, found.proof, project)
        look.take()
        if delete:
            look.delete()
        look.add_to(found)
    now = runtime.clock()
    for job in orphans.cleanups():
        if targets and job.target not in targets:
            continue
        if is_of(project, job.name):
            found.cleanups.append(cleanup_of(job, now))
        else:
            found.elsewhere += 1
    return found


def audit_periodically(runtime: Runtime, owner: str, hold_s: float, *, delete: bool) -> Audit | None:
    """The worker pool's own audit; None while another worker's is the active one."""
    if not OrphanStore(runtime.store.engine, clock=runtime.clock).hold_auditor(owner, hold_s):
        return None
    found = audit(runtime, delete=delete)
    for line in found.log_lines():
        logger.warning("audit: %s", line)
    return found


def is_of(project: str, job_name: str | None) -> bool:
    """Whether a job, buried or not, is of the project; one that is not known is everybody's."""
    if not project or job_name is None:
        return True
    start = f"projects/{project}/"
    return job_name.startswith(start) or (job_name.startswith("deleted/") and f"/{start}" in job_name)


class _Look:
    """One inventory of one target, and what came of it."""

    def __init__(self, runtime: Runtime, orphans: OrphanStore, target: str, proof: Proof, project: str) -> None:
        self._runtime = runtime
        self._orphans = orphans
        self._target = target
        self._proof = proof
        self._project = project
        self._bad: list[str] = []  # why the inventory is not good
        self._things = 0
        self._jobs: dict[str, CloneJob] = {}
        self._found: list[tuple[Observed, Why]] = []
        self._strangers: list[tuple[Observed, Why, str | None]] = []
        self._missing: list[Expected] = []
        self._sightings: dict[OrphanKey, OrphanSighting] = {}
        self._ends: dict[OrphanKey, tuple[OrphanEnd | None, str]] = {}

    def take(self) -> None:
        """Look, and count what was seen if the inventory is good."""
        started = self._runtime.clock()
        self._sightings = self._orphans.sightings(self._target)
        try:
            self._compare(TargetCalls(self._runtime, self._target), started)
        except (TargetError, OSError) as error:
            self._bad.append(f"the target did not answer: {str(error).rstrip('.')}")
        except DBAPIError:
            raise
        except Exception as error:  # a defect of one target must not keep the others from being audited
            logger.exception("target %s could not be audited", self._target)
            self._bad.append(f"internal error ({type(error).__name__}); see the log")
        if not self._bad:
            # What its job may still remove itself begins to count when the job has ended.
            seen = {key_of(self._target, each): each.job_id or ""
                    for each, why in self._found if why is not Why.JOB_RUNNING}  # fmt: skip
            self._sightings = self._orphans.record(self._target, started, seen)

    def delete(self) -> None:
        """Delete what is proven, if the inventory that was just taken is good."""
        if self._bad:
            return
        stuck: set[str] = set()
        for each, why in sorted(self._found, key=lambda found: _ORDER.index(found[0].ref.kind)):
            key = key_of(self._target, each)
            sighting = self._sightings.get(key)
            job = self._jobs.get(each.job_id or "")
            if job is None or why is not Why.CLEANED_UP or not is_of(self._project, job.name):
                continue
            if sighting is None or not self._proof.complete(sighting):
                stuck.add(job.id)  # an instance that is not proven yet keeps its disks
            elif job.id in stuck:
                self._ends[key] = (None, "waits until what uses it is gone")
            else:
                self._ends[key] = self._remove(each, sighting)
                if self._ends[key][0] is not OrphanEnd.GONE:
                    stuck.add(job.id)

    def _remove(self, each: Observed, sighting: OrphanSighting) -> tuple[OrphanEnd | None, str]:
        try:
            end = remove_orphan(self._runtime, self._orphans, self._target, each, sighting.good_inventories)
        except (TargetError, OSError) as error:
            return None, f"could not be deleted: {str(error).rstrip('.')}; the next audit tries again"
        except DBAPIError as error:
            logger.exception("orphan %s of job %s was not deleted", each.ref, each.job_id)
            said = str(error.orig or "").splitlines()
            guard = next((line for line in said if _GUARD in line), "")  # nothing else of it is for users
            if not guard:
                return None, "the database failed, see the log; the next audit looks again"
            return None, f"was not deleted, for the database did not allow it: {guard[guard.index(_GUARD) :]}"
        return end, f"{end.value}; the next audit looks again"

    def add_to(self, found: Audit) -> None:
        """Tell the report."""
        found.targets.append(TargetLook(self._target, not self._bad, self._things, "; ".join(self._bad[:5])))
        told = set()
        for each, why in self._found:
            key, job = key_of(self._target, each), self._jobs.get(each.job_id or "")
            told.add(key)
            if not is_of(self._project, _name(job)):
                found.elsewhere += 1
                continue
            end, text = self._ends.get(key, (None, ""))
            orphan = orphan_of(self._target, each, why, job, self._sightings.get(key), self._proof, text)
            (found.deleted if end is OrphanEnd.GONE else found.orphans).append(orphan)
        for key in sorted(self._sightings.keys() - told) if self._bad else ():
            self._add_sighted(found, self._sightings[key])
        for row in self._missing:
            if is_of(self._project, row.job_name):
                found.missing.append(Missing(self._target, row.kind, row.name, row.uid, row.job_id, row.job_name,
                                             str(row.state), row.absent_time))  # fmt: skip
        for each, why, job_name in self._strangers:
            if is_of(self._project, job_name):
                found.strangers.append(Stranger(self._target, str(each.ref.kind), each.ref.name, each.uid, job_name,
                                                why, meaning(why)))  # fmt: skip

    def _add_sighted(self, found: Audit, sighting: OrphanSighting) -> None:
        job = self._orphans.jobs([sighting.job_id]).get(sighting.job_id)
        if is_of(self._project, _name(job)):
            found.orphans.append(sighted(sighting, job))
        else:
            found.elsewhere += 1

    # Comparing

    def _compare(self, calls: TargetCalls, started: dt.datetime) -> None:
        inventory = calls.inventory()
        self._things = len(inventory)
        shown = {(str(each.ref.kind), each.ref.name): each for each in inventory}
        # Read after the inventory: a job is committed long before anything exists for it.
        self._jobs = self._orphans.jobs(each.job_id for each in inventory if each.job_id)
        for each in inventory:
            job = self._jobs.get(each.job_id or "")
            why = judge(job, self._target, each)
            if why in STRANGERS:
                self._strangers.append((each, why, _name(job)))
            elif why is Why.JOB_UNKNOWN or (why is not None and _still_stands(calls, each)):
                self._found.append((each, why))
        self._look_for_sighted(calls, shown)
        self._look_for_expected(calls, shown, started)
        self._look_at_left_alone(calls, shown)

    def _look_for_sighted(self, calls: TargetCalls, shown: _Shown) -> None:
        for key, sighting in self._sightings.items():
            if (key.kind, key.name) not in shown:
                seen = calls.find_ref(_ref(key.kind, key.name), sighting.job_id)
                if seen is not None and (seen.uid, seen.job_id) == (key.uid, sighting.job_id):
                    self._bad.append(f"the inventory does not show {key.kind} {key.name}, which exists")

    def _look_for_expected(self, calls: TargetCalls, shown: _Shown, started: dt.datetime) -> None:
        absent = [row for row in self._expected(started) if not _is_shown(row, shown)]
        gone = [row for row in absent if row.absent_time is not None]  # seen by who deleted it
        absent = [row for row in absent if row.absent_time is None]
        absent.sort(key=lambda row: row.created_time or started, reverse=True)
        gone += absent[_MOST_LOOKS:]
        for row in absent[:_MOST_LOOKS]:
            seen = calls.find_ref(_ref(row.kind, row.name), row.job_id)
            if seen is not None and seen.job_id == row.job_id:
                self._bad.append(f"the inventory does not show {row.kind} {row.name}, which exists")
                continue
            if seen is not None and seen.job_id is None:
                self._strangers.append((seen, Why.NO_LABEL, row.job_name))
            if seen is None or seen.uid != row.uid:
                gone.append(row)
        # A job that has got its verdict meanwhile may have been cleaned up by now.
        at_work = self._orphans.jobs(row.job_id for row in gone if row.state is LedgerState.CREATED)
        self._missing = [
            row for row in gone
            if row.state is LedgerState.KEPT or (row.job_id in at_work and at_work[row.job_id].verdict is None)
        ]  # fmt: skip

    def _expected(self, before: dt.datetime) -> Iterator[Expected]:
        after: tuple[str, int] | None = None
        while True:
            page = self._orphans.expected(self._target, before, after, _PAGE)
            yield from page
            if len(page) < _PAGE:
                return
            after = (page[-1].job_id, page[-1].position)

    def _look_at_left_alone(self, calls: TargetCalls, shown: _Shown) -> None:
        rows = [row for row in self._orphans.left_alone(self._target, LEFT_ALONE_PREFIX, _MOST_LOOKS)
                if (row[1], row[2]) not in shown]  # fmt: skip
        jobs = self._orphans.jobs(job_id for job_id, _, _ in rows) if rows else {}
        for job_id, kind, name in rows:
            seen = calls.find_ref(_ref(kind, name), job_id)
            if seen is not None:
                self._strangers.append((seen, Why.NO_LABEL, jobs[job_id].name if job_id in jobs else None))


def _still_stands(calls: TargetCalls, each: Observed) -> bool:
    """An inventory is old by the time that the ledger is read: a clean-up may have deleted the thing in between."""
    seen = calls.find_ref(each.ref, each.job_id)
    return seen is not None and (seen.uid, seen.job_id) == (each.uid, each.job_id)


def _name(job: CloneJob | None) -> str | None:
    return None if job is None else job.name


def _is_shown(row: Expected, shown: _Shown) -> bool:
    each = shown.get((row.kind, row.name))
    return each is not None and each.job_id == row.job_id


def _ref(kind: str, name: str) -> ResourceRef:
    return ResourceRef(ResourceKind(kind), name)
