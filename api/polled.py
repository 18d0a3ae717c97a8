"""GetCloneJob, which everybody polls: what waits at the same time is read together, in the loop's own thread if possible."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from google.protobuf.message import Message

from api.call_threads import CallThreads
from api.handlers import clone_jobs
from api.handlers.common import attempt
from api.lots import Lots
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

    def lots(self, read: Callable[[A], tuple[Any, Message]], give: Callable[[Any, Message], T]) -> Lots[A, T]:
        """``read`` makes of a call what its answer is to be made with, and its request; ``give`` makes the answer.

        Either may raise for its own call.
        """

        async def answer(calls: Sequence[A]) -> Sequence[T | Exception]:
            asked = [attempt(read, call) for call in calls]
            requests = [each[1] for each in asked if not isinstance(each, Exception)]
            responses = iter(await self._responses(requests))
            answers: list[T | Exception] = []
            for each in asked:
                response = each if isinstance(each, Exception) else next(responses)
                if isinstance(each, Exception):
                    answers.append(each)
                elif isinstance(response, Exception):
                    answers.append(response)
                else:
                    answers.append(attempt(give, each[0], response))
            return answers

        return Lots(answer)

    async def close(self) -> None:
        """Give up what it holds."""
        await self._polling.close()

    async def _responses(self, requests: Sequence[Message]) -> Sequence[Message | Exception]:
        found = await self._polling.get_many(clone_jobs.names_of(requests))
        if found is None:
            return await self._executor.run(self._seconds, clone_jobs.get_together, self._services, requests)
        return clone_jobs.get_together(self._services, requests, found)
