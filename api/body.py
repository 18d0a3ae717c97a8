"""Request bodies: small ones read whole under a limit, disk images streamed to a worker thread chunk by chunk.

An image is never held in memory: the thread asks the event loop for one chunk at a time, and the server stops reading
from the socket while nobody asks, so what is in flight is one chunk and the server's own 64 KiB window.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
from collections.abc import Iterator

from starlette.types import Receive

from api.errors import RequestTimeout, UploadInterrupted
from api.limits import MAX_JSON_BYTES, body_too_large
from tasks.errors import ServiceError

IDLE_SECONDS = 60.0  # the longest silence in the middle of a body
_DRAIN_SECONDS = 30.0
_TOTAL_SECONDS = 60.0  # for all of a small body
_MIN_BYTES_PER_SECOND = 1024  # of a large one, after the first minute: slower than any network that works


class Body:
    """The body of one request, read once."""

    def __init__(
        self, receive: Receive, *, idle_seconds: float | None = None, total_seconds: float = _TOTAL_SECONDS
    ) -> None:
        self._receive = receive
        self._idle_seconds = IDLE_SECONDS if idle_seconds is None else idle_seconds
        self._total_seconds = total_seconds
        self._waited_seconds = 0.0  # for the client; time in which nobody asked is not its fault
        self._size = 0
        self._started = False
        self._ended = False

    async def next(self) -> bytes:
        """The next chunk; empty at the end.

        Raises: UploadInterrupted if the client went away, RequestTimeout if it fell silent.
        """
        while not self._ended:
            self._started = True
            asked = time.monotonic()
            try:
                # Not asyncio.wait_for: on Python 3.11 it swallows a cancel that meets the arrival of a chunk, and with it
                # the time limit of the whole body (python/cpython#86296, mended in 3.12).
                async with asyncio.timeout(self._idle_seconds):
                    message = await self._receive()
            except TimeoutError:
                self._ended = True  # whoever is silent now is not waited for again
                raise RequestTimeout(
                    f"nothing of the body arrived for {self._idle_seconds:g} s; send it again"
                ) from None
            if message["type"] == "http.disconnect":
                self._ended = True
                raise UploadInterrupted("the client closed the connection before the body was complete; send it again")
            self._ended = not message.get("more_body", False)
            self._count(time.monotonic() - asked, len(message.get("body", b"")))
            if chunk := message.get("body", b""):
                return bytes(chunk)
        return b""

    def _count(self, seconds: float, size: int) -> None:
        """Raises: RequestTimeout when the body trickles so slowly that it holds its place for nothing."""
        self._waited_seconds += seconds
        self._size += size
        if not self._ended and self._waited_seconds > _TOTAL_SECONDS + self._size / _MIN_BYTES_PER_SECOND:
            self._ended = True
            raise RequestTimeout(f"the body arrives at less than {_MIN_BYTES_PER_SECOND} bytes/s; send it again")

    async def read(self, limit: int = MAX_JSON_BYTES) -> bytes:
        """All of a small body. Raises: InvalidArgument if it is larger than ``limit``; as ``next``."""
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._total_seconds):
                while chunk := await self.next():
                    size += len(chunk)
                    if size > limit:
                        raise body_too_large(limit)
                    parts.append(chunk)
        except TimeoutError:
            self._ended = True
            raise RequestTimeout(f"the body did not arrive within {self._total_seconds:g} s; send it again") from None
        return b"".join(parts)

    async def drain(self, *, expects_continue: bool) -> None:
        """Throw the rest away, so that a client which is still sending can read the error instead of a reset.

        A client that waits for ``100 Continue`` has not begun to send, so there is nothing to throw away.
        """
        if expects_continue and not self._started:
            return
        try:
            async with asyncio.timeout(_DRAIN_SECONDS):
                while await self.next():
                    pass
        except (TimeoutError, UploadInterrupted, RequestTimeout):
            return  # then the answer may not reach the client, but nothing else depends on it


class Chunks(Iterator[bytes]):
    """The body as a plain iterator for a worker thread. Raises what ``Body.next`` raises, and once it is closed."""

    def __init__(self, body: Body, loop: asyncio.AbstractEventLoop) -> None:
        self._body = body
        self._loop = loop
        self._closed = False
        self._pending: concurrent.futures.Future[bytes | ServiceError] | None = None

    def __next__(self) -> bytes:
        if self._closed:
            raise _closed()
        self._pending = asyncio.run_coroutine_threadsafe(self._pull(), self._loop)
        try:
            chunk = self._pending.result()
        except concurrent.futures.CancelledError:
            raise _closed() from None
        if isinstance(chunk, ServiceError):
            raise chunk
        if not chunk:
            raise StopIteration
        return chunk

    def close(self) -> None:
        """Called in the loop: from now on the iterator raises, also the call that is waiting now."""
        self._closed = True
        if self._pending is not None:
            self._pending.cancel()

    async def _pull(self) -> bytes | ServiceError:
        """The next chunk or what went wrong: an error in a task that nobody awaits any more would go astray."""
        if self._closed:
            return _closed()
        try:
            return await self._body.next()
        except ServiceError as error:
            return error


def _closed() -> UploadInterrupted:
    return UploadInterrupted("the service stopped reading this upload; send it again")
