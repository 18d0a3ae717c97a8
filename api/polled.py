"""GetCloneJob, which everybody polls: what waits at the same time is read together, in the loop's own thread if possible.

A job that has not changed since it was last read is not translated and encoded again either (``models/job_polls.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from google.protobuf.message import Message

from api import translate
from api.call_threads import CallThreads
from api.handlers import clone_jobs
from api.handlers.common import attempt
from api.lots import Lots
from models.catalog import JobRecord
from tasks.services import Services

A = TypeVar("A")
T = TypeVar("T")


class Polled:
    """For one event loop; each front end has its own lots, for it makes something else of the jobs."""

    def __init__(self, services: Services, executor: CallThreads, *, seconds: float) -> None:
        self._services = services
        self._executor = executor
        self._seconds = seconds
        self._polling = services.clone_jobs.polling()

    def lots(self, read: Callable[[A], tuple[Any, Message]], give: Callable[[Any, JobRecord], T]) -> Lots[A, T]:
        """``read`` makes of a call what its answer is to be made with, and its request; ``give`` makes the answer.

        Either may raise for its own call.
        """

        def wanted(call: A) -> tuple[Any, str]:
            how, request = read(call)
            return how, clone_jobs.wanted(request)

        async def answer(calls: Sequence[A]) -> Sequence[T | Exception]:
            asked = [attempt(wanted, call) for call in calls]
            names = {each[1] for each in asked if not isinstance(each, Exception)}
            found = await self._polling.get_many(names)
            if found is None:
                found = await self._executor.run(self._seconds, self._services.clone_jobs.get_many, names)
            answers: list[T | Exception] = []
            for each in asked:
                job = each if isinstance(each, Exception) else found[each[1]]
                if isinstance(each, Exception):
                    answers.append(each)
                elif isinstance(job, Exception):
                    answers.append(job)
                else:
                    answers.append(attempt(give, each[0], job))
            return answers

        return Lots(answer)

    async def close(self) -> None:
        """Give up what it holds."""
        await self._polling.close()


def encoded(job: JobRecord, key: str, encode: Callable[[Message], bytes]) -> bytes:
    """What ``encode`` makes of the job's message, made once for each key as long as the job is kept."""
    done = job.encoded.get(key)
    if done is None:
        done = job.encoded[key] = encode(translate.clone_job(job))
    return done
