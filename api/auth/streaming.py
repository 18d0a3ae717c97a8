"""A response that goes on for minutes, only as long as its caller may see it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send


class WhileAllowed(Response):
    """Asks again before each chunk (what it asks is cached), and lets the stream end with the error that it gets."""

    def __init__(self, stream: Response, check: Callable[[], Awaitable[object]]) -> None:
        super().__init__()
        self._stream = stream
        self._check = check

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""

        async def guarded(message: Message) -> None:
            if message.get("more_body"):
                await self._check()
            await send(message)

        await self._stream(scope, receive, guarded)
