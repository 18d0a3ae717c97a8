"""The threads of the calls: every outcome arrives, none twice, and nothing is left behind."""

import asyncio
import contextlib
import gc
import threading
import weakref

import pytest

from api.call_threads import CallThreads
from api.limits import CallTimeout

SECONDS = 60.0


@contextlib.asynccontextmanager
async def threads(count=2):
    made = CallThreads(count, "test")
    try:
        yield made
    finally:
        await asyncio.to_thread(made.shutdown)


def fails(error):
    raise error


def test_results_and_errors_reach_their_own_callers():
    async def main():
        async with threads(4) as calls:
            made = [calls.run(SECONDS, pow, number, 2) for number in range(200)]
            assert await asyncio.gather(*made) == [number**2 for number in range(200)]
            for error in (ValueError("v"), KeyboardInterrupt(), SystemExit(3)):
                with pytest.raises(type(error)):
                    await calls.run(SECONDS, fails, error)
            with pytest.raises(RuntimeError, match="StopIteration"):
                await calls.run(SECONDS, fails, StopIteration())
            assert await calls.run(SECONDS, pow, 2, 2) == 4  # the thread has survived all of it

    asyncio.run(main())


def test_a_call_that_takes_too_long_is_given_up_and_its_result_thrown_away():
    async def main():
        go = threading.Event()
        async with threads(1) as calls:
            with pytest.raises(CallTimeout):
                await calls.run(0.01, go.wait)
            waiting = asyncio.ensure_future(calls.run(SECONDS, pow, 3, 2))
            begun = []
            cancelled = asyncio.ensure_future(calls.run(SECONDS, begun.append, 1))
            await asyncio.sleep(0)
            cancelled.cancel()
            go.set()
            assert await waiting == 9
            assert await calls.run(SECONDS, pow, 1, 1) == 1  # behind the cancelled one
            assert not begun

    asyncio.run(main())


def test_it_is_an_executor_for_whoever_wants_one():
    async def main():
        loop = asyncio.get_running_loop()
        async with threads(1) as calls:
            assert await loop.run_in_executor(calls, pow, 2, 3) == 8
            with pytest.raises(ValueError, match="v"):
                await loop.run_in_executor(calls, fails, ValueError("v"))
            assert calls.submit(pow, 2, exp=4).result(SECONDS) == 16

    asyncio.run(main())


def test_shutting_down_ends_what_has_begun_and_cancels_the_rest():
    async def main():
        go, begun = threading.Event(), threading.Event()

        def work():
            begun.set()
            return go.wait(SECONDS)

        calls = CallThreads(1, "test")
        running = asyncio.ensure_future(calls.run(SECONDS, work))
        await asyncio.to_thread(begun.wait, SECONDS)
        waiting = asyncio.ensure_future(calls.run(SECONDS, pow, 1, 1))
        await asyncio.sleep(0)
        submitted = calls.submit(pow, 1, 1)
        ending = asyncio.ensure_future(asyncio.to_thread(calls.shutdown, wait=True, cancel_futures=True))
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with pytest.raises(asyncio.CancelledError):  # what asyncio makes of the other one
            await asyncio.wrap_future(submitted)
        go.set()
        await ending
        assert await running is True
        for late in (calls.run(SECONDS, pow, 1, 1), asyncio.to_thread(calls.submit, pow, 1, 1)):
            with pytest.raises(RuntimeError):
                await late
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("test_")]

    asyncio.run(main())


def test_nothing_of_a_call_is_kept_by_an_idle_thread():
    class Thing:
        pass

    async def main():
        async with threads(1) as calls:
            thing = Thing()
            gone = weakref.ref(thing)
            await calls.run(SECONDS, id, thing)
            del thing
            await calls.run(SECONDS, id, None)
            gc.collect()
            assert gone() is None

    asyncio.run(main())
