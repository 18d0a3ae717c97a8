"""Calls that are answered together: each gets its own answer, and one that hangs holds nobody up."""

import asyncio

import pytest

from api.limits import CallTimeout
from api.lots import Lots

SECONDS = 60.0


class Squares:
    """Answers with the square, or with what is wrong; a lot waits for ``go``."""

    def __init__(self):
        self.lots = []
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, numbers):
        self.lots.append(list(numbers))
        await self.go.wait()
        if "all" in numbers:
            raise ConnectionError("all of them")
        return [ValueError(number) if isinstance(number, str) else number**2 for number in numbers]


def test_what_comes_at_the_same_time_is_one_lot_and_what_comes_meanwhile_the_next():
    async def main():
        squares = Squares()
        lots = Lots(squares)
        squares.go.clear()
        first = [asyncio.ensure_future(lots.ask(SECONDS, number)) for number in range(3)]
        while not squares.lots:
            await asyncio.sleep(0)
        rest = [asyncio.ensure_future(lots.ask(SECONDS, number)) for number in range(3, 6)]
        await asyncio.sleep(0)
        assert squares.lots == [[0, 1, 2]]
        squares.go.set()
        assert await asyncio.gather(*first, *rest) == [0, 1, 4, 9, 16, 25]
        assert squares.lots == [[0, 1, 2], [3, 4, 5]]

    asyncio.run(main())


def test_a_large_crowd_is_several_lots():
    async def main():
        squares = Squares()
        lots = Lots(squares)
        assert await asyncio.gather(*[lots.ask(SECONDS, n) for n in range(200)]) == [n**2 for n in range(200)]
        assert max(map(len, squares.lots)) <= 64

    asyncio.run(main())


def test_an_error_is_for_its_own_call_unless_it_is_for_all():
    async def main():
        lots = Lots(Squares())
        found = await asyncio.gather(*[lots.ask(SECONDS, each) for each in (2, "odd", 3)], return_exceptions=True)
        assert found[0] == 4
        assert isinstance(found[1], ValueError)
        assert found[2] == 9
        found = await asyncio.gather(*[lots.ask(SECONDS, each) for each in (2, "all")], return_exceptions=True)
        assert [type(each) for each in found] == [ConnectionError] * 2
        assert await lots.ask(SECONDS, 5) == 25

    asyncio.run(main())


def test_a_lot_that_hangs_holds_up_its_own_calls_only():
    async def main():
        squares = Squares()
        lots = Lots(squares)
        squares.go.clear()
        with pytest.raises(CallTimeout):
            await lots.ask(0.01, 1)
        waiting = asyncio.ensure_future(lots.ask(SECONDS, 2))
        while len(squares.lots) < 2:  # begun although the first one is still under way
            await asyncio.sleep(0.001)
        gone = asyncio.ensure_future(lots.ask(SECONDS, 3))
        await asyncio.sleep(0)
        gone.cancel()
        squares.go.set()
        assert await waiting == 4
        assert await lots.ask(SECONDS, 4) == 16
        assert [3] not in squares.lots

    asyncio.run(main())


def test_an_answer_too_few_is_an_error_for_everybody():
    async def main():
        async def none(_):
            return []

        with pytest.raises(RuntimeError, match="1 calls got 0 answers"):
            await Lots(none).ask(SECONDS, 1)

    asyncio.run(main())
