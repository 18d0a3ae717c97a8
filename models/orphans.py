"""What the auditor reads and writes: sightings of orphans, which add up over hours and processes until they are proof.

A sighting is the auditor's own memory and no truth about a job: it may be lost at any time, and only costs time then.
Triggers refuse that a delete is noted for anything but what a failed or cancelled job left behind (migration 0007).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Mapped, Session, lazyload, mapped_column, sessionmaker

from models.db import read_only
from models.io_points import io_point
from models.schema import Base, CloneJob, JobEvent, LedgerRow, ReconcilerLease
from models.states import LedgerState, Verdict
from models.store import Clock, utc_now
from models.store.reconciling import hold_turn

_AUDITOR_LEASE = 2  # the row of reconciler_lease
_CHUNK = 500
_LEFT_BEHIND = (Verdict.FAIL, Verdict.CANCEL)


class OrphanSighting(Base):
    """One orphan, as often as it was seen without a break. Another uid is another thing."""

    __tablename__ = "orphan_sightings"
    target: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    uid: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str]  # what its label says; perhaps no job of this database
    first_seen: Mapped[dt.datetime]
    last_seen: Mapped[dt.datetime]
    good_inventories: Mapped[int]
    deleting_time: Mapped[dt.datetime | None]  # a delete may have been sent


class OrphanKey(NamedTuple):
    """What names one orphan."""

    target: str
    kind: str
    name: str
    uid: str


class Expected(NamedTuple):
    """A ledger row whose resource must exist, and its job."""

    job_id: str
    position: int
    kind: str
    name: str
    uid: str | None
    state: LedgerState
    created_time: dt.datetime | None
    job_name: str
    absent_time: dt.datetime | None  # its user deleted it with our tool, and it was seen to be gone


def key_of(row: OrphanSighting) -> OrphanKey:
    """What names the row."""
    return OrphanKey(row.target, row.kind, row.name, row.uid)


class OrphanStore:
    """Thread-safe; one instance per process."""

    def __init__(self, engine: Engine, *, clock: Clock = utc_now) -> None:
        self.engine = engine
        self.clock = clock
        self._sessions = sessionmaker(engine, expire_on_commit=False)

    @io_point("audit.hold_auditor")
    def hold_auditor(self, owner: str, ttl_s: float) -> bool:
        """Be the one worker that audits periodically, for ``ttl_s``; False if another one is."""
        with self._sessions.begin() as session:
            return hold_turn(session, _AUDITOR_LEASE, owner, self.clock(), ttl_s)

    @io_point("audit.jobs")
    def jobs(self, ids: Iterable[str]) -> dict[str, CloneJob]:
        """The jobs of these ids that this database knows, with their ledgers; buried ones too."""
        wanted = sorted(set(ids))
        found: dict[str, CloneJob] = {}
        if not wanted:
            return found
        with self._reader() as session:
            for at in range(0, len(wanted), _CHUNK):
                query = sa.select(CloneJob).where(CloneJob.id.in_(wanted[at : at + _CHUNK]))
                for job in session.scalars(query.options(lazyload(CloneJob.steps))):
                    found[job.id] = job
        return found

    @io_point("audit.expected")
    def expected(self, target: str, before: dt.datetime, after: tuple[str, int] | None, limit: int) -> list[Expected]:
        """A page of what must exist at the target since ``before``, in order of (job, position) and after that place.

        What a failed or cancelled job made is clean-up's business and not expected to stay.
        """
        there = sa.or_(
            LedgerRow.state == LedgerState.KEPT,
            sa.and_(LedgerRow.state == LedgerState.CREATED, CloneJob.verdict.is_(None)),
        )
        query = (
            sa.select(LedgerRow.job_id, LedgerRow.position, LedgerRow.kind, LedgerRow.name, LedgerRow.uid,
                      LedgerRow.state, LedgerRow.created_time, CloneJob.name, LedgerRow.absent_time)
            .join(CloneJob, CloneJob.id == LedgerRow.job_id)
            .where(CloneJob.target == target, there, LedgerRow.created_time <= before)
            .order_by(LedgerRow.job_id, LedgerRow.position).limit(limit)
        )  # fmt: skip
        if after is not None:
            query = query.where(sa.tuple_(LedgerRow.job_id, LedgerRow.position) > sa.tuple_(*after))
        with self._reader() as session:
            return [Expected(*row) for row in session.execute(query)]

    @io_point("audit.left_alone")
    def left_alone(self, target: str, detail_prefix: str, limit: int) -> list[tuple[str, str, str]]:
        """Job id, kind and name of rows under whose names clean-up left something alone, the latest first."""
        query = (
            sa.select(LedgerRow.job_id, LedgerRow.kind, LedgerRow.name)
            .join(CloneJob, CloneJob.id == LedgerRow.job_id)
            .where(CloneJob.target == target, LedgerRow.detail.startswith(detail_prefix, autoescape=True))
            .order_by(LedgerRow.absent_time.desc()).limit(limit)
        )  # fmt: skip
        with self._reader() as session:
            return [(job_id, kind, name) for job_id, kind, name in session.execute(query)]

    @io_point("audit.cleanups")
    def cleanups(self) -> Sequence[CloneJob]:
        """Failed and cancelled jobs whose clean-up is not finished, longest waiting first."""
        query = sa.select(CloneJob).where(CloneJob.wake_at.is_not(None), CloneJob.verdict.in_(_LEFT_BEHIND))
        query = query.order_by(CloneJob.verdict_time).options(lazyload(CloneJob.steps), lazyload(CloneJob.ledger))
        with self._reader() as session:
            return session.scalars(query).all()

    @io_point("audit.sightings")
    def sightings(self, target: str) -> dict[OrphanKey, OrphanSighting]:
        """What is remembered of a target."""
        with self._reader() as session:
            return self._sightings(session, target)

    @io_point("audit.record")
    def record(
        self, target: str, started: dt.datetime, seen: Mapping[OrphanKey, str]
    ) -> dict[OrphanKey, OrphanSighting]:
        """Count one good inventory that was ``started`` then and showed ``seen`` (key to job id); all that is remembered.

        What it did not show is forgotten, so that only sightings without a break add up. An inventory that is older than
        the last one which was counted changes nothing.
        """
        with self._sessions.begin() as session:
            session.get(ReconcilerLease, _AUDITOR_LEASE, with_for_update=True)  # recorders take turns
            known = self._sightings(session, target)
            for key, job_id in seen.items():
                row = known.get(key)
                if row is None:
                    row = OrphanSighting(**key._asdict(), job_id=job_id, first_seen=started, last_seen=started,
                                         good_inventories=1, deleting_time=None)  # fmt: skip
                    session.add(row)
                    known[key] = row
                elif row.last_seen <= started:
                    row.last_seen, row.good_inventories = started, row.good_inventories + 1
            for key in [key for key in known if key not in seen and known[key].last_seen <= started]:
                row = known.pop(key)
                if row.deleting_time is not None:
                    self._event(session, row, "orphan_gone", "is gone")
                session.delete(row)
        return known

    @io_point("audit.mark_deleting")
    def mark_deleting(self, key: OrphanKey, counted: int) -> bool:
        """Commit that a delete is about to be sent; False if fewer than ``counted`` good inventories are remembered now.

        Raises: sqlalchemy.exc.DBAPIError if the database does not agree that a failed or cancelled job left it behind.
        """
        with self._sessions.begin() as session:
            row = session.get(OrphanSighting, key, with_for_update=True)
            if row is None or row.good_inventories < counted:
                return False
            proof = f"seen in {row.good_inventories} good inventories since {row.first_seen:%Y-%m-%d %H:%M:%S} UTC"
            if row.deleting_time is None:
                self._event(session, row, "orphan_deleting", f"is deleted: {proof}")
            row.deleting_time = self.clock()
            return True

    @io_point("audit.mark_gone")
    def mark_gone(self, key: OrphanKey) -> None:
        """Forget what the target no longer shows."""
        with self._sessions.begin() as session:
            row = session.get(OrphanSighting, key, with_for_update=True)
            if row is not None:
                if row.deleting_time is not None:
                    self._event(session, row, "orphan_gone", "is gone")
                session.delete(row)

    @staticmethod
    def _sightings(session: Session, target: str) -> dict[OrphanKey, OrphanSighting]:
        rows = session.scalars(sa.select(OrphanSighting).where(OrphanSighting.target == target))
        return {key_of(row): row for row in rows}

    def _event(self, session: Session, row: OrphanSighting, kind: str, message: str) -> None:
        epoch = session.scalar(sa.select(CloneJob.epoch).where(CloneJob.id == row.job_id))
        if epoch is not None:
            text = f"orphan {row.kind} {row.name} (uid {row.uid}) {message}"
            session.add(JobEvent(job_id=row.job_id, time=self.clock(), epoch=epoch, kind=kind, message=text[:2000]))

    @contextmanager
    def _reader(self) -> Iterator[Session]:
        with self.engine.connect().execution_options(**read_only(self.engine.dialect.name)) as connection:
            with Session(connection, expire_on_commit=False) as session:
                yield session
