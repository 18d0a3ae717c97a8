"""The body of a request under its limits of time, with chunks that come at the worst moment."""

import asyncio
import time

import pytest

from api.body import Body
from api.errors import RequestTimeout


def test_a_chunk_that_arrives_with_the_end_of_its_time_does_not_lift_the_limit():
    """The first chunk takes all of the time in one piece of the loop, so that both are due at once."""
    calls = 0

    async def receive():
        nonlocal calls
        calls += 1
        await asyncio.sleep(0 if calls == 1 else 0.01)
        if calls == 1:
            time.sleep(0.06)
        return {"type": "http.request", "body": b" ", "more_body": calls < 100}

    with pytest.raises(RequestTimeout):
        asyncio.run(Body(receive, total_seconds=0.05).read())
    assert calls < 100
