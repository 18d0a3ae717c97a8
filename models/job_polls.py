"""The jobs that clients ask for again and again: one that has not changed since it was read is not read again.

Every answer begins with a read of the jobs' revisions (``job_records.REVISIONS``), which is as fresh as a read of the jobs
themselves would be; only the reading, decoding and encoding of what is the same is left out. Nothing is kept beyond the
connection that it came by, for on another one the same transaction numbers may stand for other rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from sqlalchemy.engine import Engine

from models.job_records import REVISIONS, WITH_REVISIONS, JobRecord, Revision, revised_in, revisions_in
from models.loop_reads import Answer, LoopReads

_REVISIONS, _WITH_REVISIONS = range(2)
MOST_JOBS = 1024
MOST_BYTES = 32 << 10  # of one job's JSON; larger ones are read each time
LIFE_S = 3600.0  # transaction numbers are 32 bits wide, and come again after days at the very least


class JobPolls:
    """``Catalog.jobs`` for one event loop, with a bounded memory. Answers on PostgreSQL only, as ``LoopReads`` does."""

    def __init__(self, engine: Engine, *, point: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._reads = LoopReads(engine, (REVISIONS, WITH_REVISIONS), point=point)
        self._clock = clock
        self._kept: dict[str, tuple[JobRecord, Revision]] = {}  # the longest unused first
        self._kept_of = 0  # the connection
        self._kept_since = clock()

    async def jobs(self, names: Collection[str]) -> dict[str, JobRecord] | None:
        """Those of the jobs that exist, by name; None if that is not possible now. A job that has not changed is the
        same object as before."""
        answer = await self._reads.answer(names, _REVISIONS)
        if answer is None:
            return None
        self._forget(answer)
        found: dict[str, JobRecord] = {}
        changed: list[str] = []
        for name, revision in revisions_in(answer.rows).items():
            kept = self._kept.pop(name, None)
            if kept is not None and kept[1] == revision:
                self._kept[name] = kept
                found[name] = kept[0]
            else:
                changed.append(name)
        if not changed:
            return found
        answer = await self._reads.answer(changed, _WITH_REVISIONS)
        if answer is None:
            return None
        self._forget(answer)
        for name, (job, revision, size_bytes) in revised_in(answer.rows).items():
            found[name] = job
            if size_bytes <= MOST_BYTES:
                self._keep(name, job, revision)
        return found

    async def close(self) -> None:
        """Give the connection up."""
        await self._reads.close()

    def _forget(self, answer: Answer) -> None:
        """Whatever came by another connection, or is old."""
        if answer.connection != self._kept_of or self._clock() > self._kept_since + LIFE_S:
            self._kept.clear()
            self._kept_of, self._kept_since = answer.connection, self._clock()

    def _keep(self, name: str, job: JobRecord, revision: Revision) -> None:
        self._kept.pop(name, None)
        while len(self._kept) >= MOST_JOBS:
            del self._kept[next(iter(self._kept))]
        self._kept[name] = (job, revision)
