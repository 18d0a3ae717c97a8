"""Calls that wait at the same time are answered together: one read for all of them."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from api.limits import CallTimeout

A = TypeVar("A")
T = TypeVar("T")
_MOST_IN_A_LOT = 64
_PATIENCE_S = 0.02  # the next lot waits so long for one that is under way, and no longer: that one may hang


class Lots(Generic[A, T]):
    """``answer`` gets what was asked and gives as many results or errors; while it is at it, the next lot gathers."""

    def __init__(self, answer: Callable[[Sequence[A]], Awaitable[Sequence[T | Exception]]]) -> None:
        self._answer = answer
        self._loop = asyncio.get_running_loop()
        self._waiting: collections.deque[tuple[asyncio.Future[T], A]] = collections.deque()
        self._under_way: set[asyncio.Task[None]] = set()
        self._sent_at = 0.0
        self._is_told = False
        self._later: asyncio.TimerHandle | None = None

    async def ask(self, seconds: float, argument: A) -> T:
        """The answer to this argument. Raises: CallTimeout after so many seconds; what there is for it, or for all."""
        future: asyncio.Future[T] = self._loop.create_future()
        timer = self._loop.call_later(seconds, _too_late, future, seconds)
        self._waiting.append((future, argument))
        if not self._is_told and (not self._under_way or self._loop.time() >= self._sent_at + _PATIENCE_S):
            self._is_told = True
            self._loop.call_soon(self._send)  # after what else this turn of the loop brings
        elif not self._is_told:
            self._be_patient()
        try:
            return await future
        finally:
            timer.cancel()

    def _send(self) -> None:
        self._is_told = False
        lot: list[tuple[asyncio.Future[T], A]] = []
        while self._waiting and len(lot) < _MOST_IN_A_LOT:
            each = self._waiting.popleft()
            if not each[0].done():  # timed out, or its caller has gone
                lot.append(each)
        if lot:
            self._sent_at = self._loop.time()
            task = self._loop.create_task(self._answer_lot(lot))
            self._under_way.add(task)
            task.add_done_callback(self._ended)
            if self._waiting:
                self._be_patient()

    def _be_patient(self) -> None:
        if self._later is None:
            self._later = self._loop.call_at(self._sent_at + _PATIENCE_S, self._out_of_patience)

    def _out_of_patience(self) -> None:
        self._later = None
        if self._loop.time() >= self._sent_at + _PATIENCE_S:
            self._send()
        elif self._waiting:  # another lot went off in the meantime
            self._be_patient()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if self._waiting and not self._is_told:
            self._send()

    async def _answer_lot(self, lot: Sequence[tuple[asyncio.Future[T], A]]) -> None:
        try:
            answers = await self._answer([argument for _, argument in lot])
            if len(answers) != len(lot):
                raise RuntimeError(f"{len(lot)} calls got {len(answers)} answers")  # noqa: TRY301  (the callers hear it)
        except asyncio.CancelledError:
            for future, _ in lot:
                future.cancel()
            raise
        except Exception as error:  # noqa: BLE001  (it goes to the callers)
            answers = [error] * len(lot)
        for (future, _), answer in zip(lot, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)


def _too_late(future: asyncio.Future[T], seconds: float) -> None:
    if not future.done():
        future.set_exception(CallTimeout(seconds))
