"""What every guarded write is built from: the lease, the locked row, the WHERE that says what is believed."""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session, sessionmaker

from models.io_points import io_point
from models.schema import CloneJob, JobEvent
from models.states import JobState

Clock = Callable[[], dt.datetime]


def utc_now() -> dt.datetime:
    """The wall clock, in UTC."""
    return dt.datetime.now(dt.UTC)


class StaleWrite(Exception):
    """The write carried an old epoch or a lease that is lost; nothing was written."""


class NotReady(Exception):
    """The ledger does not allow the job to end in this way yet; a defect of the caller, never a race."""


class ActiveJobExists(Exception):
    """The MigratingVm has a running clone job; ``args[0]`` is its name."""


class JobExists(Exception):
    """A clone job of that name exists."""


class CyclePruned(Exception):
    """The cycle that the job was planned from has lost its snapshots since: a newer one has come."""


class VmNotCloneable(Exception):
    """The MigratingVm has changed since the job was planned; ``args[0]`` is its state, None if it is gone."""


class CancelRefused(Exception):
    """The job has another verdict; ``args[0]`` is its name."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on a job: valid while the row still carries this epoch and owner."""

    job_id: str
    epoch: int
    owner: str


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a right lasts, in seconds. See ``docs/architecture.md`` for how they hang together.

    ``provider_call_limit_s``: no call to a target takes longer; added to a lost lease before clean-up may begin.
    ``dispatch_grace_s``: how long a message may be under way before the reconciler sends another one.
    """

    lease_s: float = 15.0
    provider_call_limit_s: float = 30.0
    dispatch_grace_s: float = 15.0


class Settled(enum.Enum):
    """What came of settling a job."""

    LOST = "the verdict was already set, or the epoch was old"
    CLEAN_UP = "clean-up may begin now"
    CLEAN_UP_LATER = "somebody may still hold a lease; clean-up begins when it is given back or has run out"
    ENDED = "the job owned nothing and has ended"


class StoreBase:
    """Sessions, the clock, and the helpers that all writes share."""

    def __init__(self, engine: Engine, *, timing: Timing | None = None, clock: Clock = utc_now) -> None:
        self.engine = engine
        self.timing = timing or Timing()
        self.clock = clock
        self._sessions = sessionmaker(engine, expire_on_commit=False)

    @io_point("store.get_job")
    def get_job(self, job_id: str) -> CloneJob | None:
        """The job with its steps and ledger, as committed now."""
        with self._reader() as session:
            return session.get(CloneJob, job_id)

    @contextmanager
    def _held(
        self, lease: Lease, decide: Callable[[CloneJob], dict[str, Any]] | None = None, **values: Any
    ) -> Iterator[tuple[Session, CloneJob]]:
        """A transaction that holds the job's row and in which the lease is valid; renews it unless ``values`` say more,
        or ``decide`` does, which sees the locked row.

        Raises: StaleWrite, after counting it.
        """
        with self._sessions.begin() as session:
            job = self._lock(session, lease.job_id)
            held = job is not None and self._guarded(
                session,
                CloneJob.id == lease.job_id,
                CloneJob.epoch == lease.epoch,
                CloneJob.lease_owner == lease.owner,
                CloneJob.end_time.is_(None),
                **(decide(job) if decide else values or self._lease_until(self.clock())),
            )
            if held:
                assert job is not None
                session.refresh(job)
                yield session, job
        if not held:
            self._count_stale(lease)
            raise StaleWrite(f"epoch {lease.epoch} of job {lease.job_id} is over")

    def _count_stale(self, lease: Lease) -> None:
        with self._sessions.begin() as session:
            session.execute(
                sa.update(CloneJob).where(CloneJob.id == lease.job_id).values(stale_writes=CloneJob.stale_writes + 1)
            )

    @contextmanager
    def _reader(self) -> Iterator[Session]:
        with self.engine.connect().execution_options(clonejob_read_only=True) as connection:
            with Session(connection, expire_on_commit=False) as session:
                yield session

    def _lock(self, session: Session, job_id: str) -> CloneJob | None:
        return session.get(CloneJob, job_id, with_for_update={"of": CloneJob}, populate_existing=True)

    @staticmethod
    def _guarded(session: Session, *where: sa.ColumnElement[bool], **values: Any) -> bool:
        session.flush()
        update = sa.update(CloneJob).where(*where).values(**values)
        return changed(session.execute(update, execution_options={"synchronize_session": False})) == 1

    @staticmethod
    def _in_order(job: CloneJob, now: dt.datetime) -> dt.datetime:
        """A time to write down: ``now``, unless the clock was set back behind what the job has on record (R6)."""
        recorded = [job.create_time, job.state_time, job.verdict_time]
        recorded += [time for step in job.steps for time in (step.start_time, step.end_time)]
        return max([now, *(time for time in recorded if time is not None)])

    def _after(self, seconds: float) -> dt.datetime:
        return self.clock() + dt.timedelta(seconds=seconds)

    def _lease_until(self, now: dt.datetime) -> dict[str, Any]:
        expires_at = now + dt.timedelta(seconds=self.timing.lease_s)
        return {"lease_expires_at": expires_at, "wake_at": expires_at}

    @staticmethod
    def _ended(state: JobState, now: dt.datetime) -> dict[str, Any]:
        return {"state": state, "state_time": now, "end_time": now, "wake_at": None,
                "lease_owner": None, "lease_expires_at": None, "next_check_at": None}  # fmt: skip

    def _event(self, session: Session, job: CloneJob, kind: str, message: str) -> None:
        session.add(JobEvent(job_id=job.id, time=self.clock(), epoch=job.epoch, kind=kind, message=message[:2000]))


def changed(result: sa.Result[Any]) -> int:
    assert isinstance(result, sa.CursorResult)
    return result.rowcount
