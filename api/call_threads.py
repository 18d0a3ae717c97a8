"""The threads in which calls block on the database, at a price that a call of 300 µs can bear.

``loop.run_in_executor`` makes two futures and wakes the loop through its socket for each call. Here a call has one
future, and whatever ends before the loop comes to look is delivered at one wake-up.
"""

from __future__ import annotations

import asyncio
import collections
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

from api.limits import CallTimeout

P = ParamSpec("P")
T = TypeVar("T")
_Job = tuple[Callable[[], bool], Callable[..., Any], tuple[Any, ...], Callable[[Any, BaseException | None], None]]


class CallThreads(Executor):
    """``run`` for calls of the one event loop it is made in; ``submit`` as every executor has it."""

    def __init__(self, threads: int, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._ended: collections.deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = collections.deque()
        self._loop_knows = False
        self._closed = False
        self._threads = [threading.Thread(target=self._work, name=f"{name}_{n}") for n in range(threads)]
        for thread in self._threads:
            thread.start()

    async def run(self, seconds: float, function: Callable[..., T], *arguments: Any) -> T:
        """The result of the call. Raises: CallTimeout after so many seconds; the call itself goes on."""
        if self._closed:
            raise RuntimeError("these threads were shut down")
        future: asyncio.Future[T] = self._loop.create_future()
        timer = self._loop.call_later(seconds, _too_late, future, seconds)
        self._jobs.put((future.done, function, arguments, lambda *outcome: self._end(future, *outcome)))
        try:
            return await future
        finally:
            timer.cancel()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """As every executor has it."""
        if self._closed:
            raise RuntimeError("these threads were shut down")
        future: Future[T] = Future()

        def end(result: T, error: BaseException | None) -> None:
            if error is None:
                future.set_result(result)
            elif not (isinstance(error, asyncio.CancelledError) and future.cancel()):
                future.set_exception(error)

        self._jobs.put((lambda: not future.set_running_or_notify_cancel(), lambda: fn(*args, **kwargs), (), end))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let calls that have begun end; those that have not are begun, too, unless ``cancel_futures``."""
        self._closed = True
        waiting = []
        while cancel_futures:
            try:
                waiting.append(self._jobs.get_nowait())
            except queue.Empty:
                break
        for job in waiting:
            if job is not None:
                job[3](None, asyncio.CancelledError())
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads if wait else ():
            thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            given_up, function, arguments, end = job
            if given_up():
                continue
            result: Any = None
            error: BaseException | None = None
            try:
                result = function(*arguments)
            except StopIteration as exc:  # no future takes one
                error = RuntimeError(f"a call raised {exc!r}")
            except BaseException as exc:  # noqa: BLE001  (whatever it is belongs to the caller)
                error = exc
            end(result, error)
            del job, given_up, function, arguments, end, result, error  # nothing of a call is kept until the next

    def _end(self, future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        self._ended.append((future, result, error))
        if not self._loop_knows:  # set back before the loop takes what has ended, so nothing is left lying
            self._loop_knows = True
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._loop_knows = False
        while self._ended:
            future, result, error = self._ended.popleft()
            if future.done():  # timed out, or its caller has gone
                continue
            if error is None:
                future.set_result(result)
            elif isinstance(error, asyncio.CancelledError):
                future.cancel()
            else:
                future.set_exception(error)


def _too_late(future: asyncio.Future[Any], seconds: float) -> None:
    if not future.done():
        future.set_exception(CallTimeout(seconds))
