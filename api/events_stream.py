"""Live progress of a job by server-sent events.

    event: snapshot   id: of the newest job event    where the job stands; first, on every connection
    event: change     id: of the job event           something happened to the job
    event: progress   (no id)                        where the job stands now, whenever that is not what was said last
    event: end                                       the job has ended; nothing follows

A client that comes back with ``Last-Event-ID`` gets every change after it. One task per job looks into the database for
all streams of the job in this process; a stream holds no thread, and what a slow client has not read is not kept for it
here, but read again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Executor
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.additions.jobs import event_json, progress_json
from models.schema import JobEvent
from tasks.errors import ResourceExhausted, ServiceError
from tasks.services import Services

MOST_STREAMS = 200
POLL_SECONDS = 0.5
HEARTBEAT_SECONDS = 15.0
LONGEST_SECONDS = 900.0  # then the client comes back, and is asked for its credentials again
RETRY_MILLISECONDS = 2000  # when a client connects again
_POLLS_PER_SECOND = 50  # of all jobs that are watched, together
_KEPT_EVENTS = 1000
_HEARTBEAT = b": keep-alive\n\n"
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # a proxy must not collect them

Json = dict[str, Any]
log = logging.getLogger(__name__)


class Streams:
    """All streams of one process. To be used in one event loop."""

    def __init__(self, services: Services, executor: Executor) -> None:
        self.services = services
        self.executor = executor
        self.closing = False
        self._feeds: dict[str, _Feed] = {}
        self._count = 0

    async def open(self, name: str, last_event_id: str) -> Response:
        """A stream of the job's events. Raises: NotFound, ResourceExhausted."""
        if self._count >= MOST_STREAMS:
            raise ResourceExhausted(
                f"{MOST_STREAMS} streams are open in this process; poll without Accept: text/event-stream, or try later",
                reason="TOO_MANY_STREAMS",
            )
        self._count += 1
        try:
            feed = self._feeds.get(name)
            if feed is None:
                feed = _Feed(self, name)
                await feed.look()
                feed = self._feeds.setdefault(name, feed)
            feed.join()
        except BaseException:
            self._count -= 1
            raise
        known = last_event_id.isascii() and last_event_id.isdigit() and len(last_event_id) < 19
        cursor = int(last_event_id) if known else None
        return _EventStream(self, feed, cursor)

    def leave(self, feed: _Feed) -> None:
        """A stream has ended."""
        self._count -= 1
        if feed.leave() and self._feeds.get(feed.name) is feed:
            del self._feeds[feed.name]

    def pause_s(self) -> float:
        """Between two looks at one job: longer when many jobs are watched."""
        return max(POLL_SECONDS, len(self._feeds) / _POLLS_PER_SECOND)

    def close(self) -> None:
        """End all streams: the process is about to stop, and clients come back to another one."""
        self.closing = True
        for feed in self._feeds.values():
            feed.wake()


class _Feed:
    """One job, looked at once for all who watch it."""

    def __init__(self, streams: Streams, name: str) -> None:
        self.name = name
        self.progress: Json = {}
        self.last_id = 0
        self.changed = asyncio.Event()
        self._streams = streams
        self._events: deque[JobEvent] = deque(maxlen=_KEPT_EVENTS)
        self._floor = 0  # events up to here are not kept
        self._readers = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def ended(self) -> bool:
        return self.progress["endTime"] is not None

    def join(self) -> None:
        self._readers += 1
        if self._task is None and not self.ended:
            self._task = asyncio.create_task(self._poll())

    def leave(self) -> bool:
        """Whether that was the last reader."""
        self._readers -= 1
        if self._readers == 0 and self._task is not None:
            self._task.cancel()
        return self._readers == 0

    def wake(self) -> None:
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    async def look(self) -> None:
        progress, events = await self._run(_read, self.name, self.last_id)
        if progress == self.progress and not events:
            return
        self.progress = progress
        for event in events:
            if len(self._events) == _KEPT_EVENTS:
                self._floor = self._events[0].id
            self._events.append(event)
            self.last_id = event.id
        self.wake()

    async def after(self, cursor: int) -> Sequence[JobEvent]:
        """The events after ``cursor``."""
        if cursor >= self._floor:
            return [event for event in self._events if event.id > cursor]
        _, events = await self._run(_read, self.name, cursor)
        return [event for event in events if event.id <= self.last_id]

    async def _poll(self) -> None:
        while not self.ended:
            await asyncio.sleep(self._streams.pause_s())
            try:
                await self.look()
            except Exception:  # the database may come back; the streams go on with their heartbeats
                log.warning("the progress of %s cannot be read", self.name, exc_info=True)

    async def _run(self, function: Any, *arguments: Any) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._streams.executor, function, self._streams.services, *arguments)


class _EventStream(Response):
    """The response: ends with the job, with the client, or with the process."""

    def __init__(self, streams: Streams, feed: _Feed, cursor: int | None) -> None:
        super().__init__(media_type="text/event-stream", headers=_HEADERS)
        del self.headers["content-length"]
        self._streams = streams
        self._feed = feed
        self._cursor = cursor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        writing = asyncio.create_task(self._write(send))
        leaving = asyncio.create_task(_disconnected(receive))
        try:
            await asyncio.wait({writing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (writing, leaving):
                task.cancel()
            await asyncio.gather(writing, leaving, return_exceptions=True)
            self._streams.leave(self._feed)

    async def _write(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async for chunk in self._chunks():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except ServiceError as error:
            log.warning("a stream of %s ends: %s", self._feed.name, error)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _chunks(self) -> AsyncIterator[bytes]:
        feed = self._feed
        shown, cursor = feed.progress, feed.last_id if self._cursor is None else self._cursor
        until = time.monotonic() + LONGEST_SECONDS
        yield f"retry: {RETRY_MILLISECONDS}\n".encode() + _event("snapshot", shown, cursor)
        while True:
            changed = feed.changed
            ended = feed.ended  # before the events are read, so that none of them is missing at the end
            for event in await feed.after(cursor):
                yield _event("change", event_json(event), event.id)
                cursor = event.id
            if feed.progress != shown:
                shown = feed.progress
                yield _event("progress", shown)
            if ended:
                yield _event("end", {"name": shown["name"], "state": shown["state"]})
                return
            if self._streams.closing or time.monotonic() > until:
                return
            try:
                async with asyncio.timeout(HEARTBEAT_SECONDS):  # not wait_for, see api.body
                    await changed.wait()
            except TimeoutError:
                yield _HEARTBEAT


def accepts_events(accept: str) -> bool:
    """Whether the client asks for server-sent events; ``*/*`` does not."""
    kinds = (part.partition(";")[0].strip().lower() for part in accept.split(","))
    return "text/event-stream" in kinds


def _read(services: Services, name: str, after: int) -> tuple[Json, Sequence[JobEvent]]:
    """The job first: when it has ended there, all of its events are in the second answer."""
    progress = progress_json(services.clone_jobs.get(name))
    return progress, services.clone_jobs.events(name, after=after)


def _event(kind: str, data: Json, event_id: int | None = None) -> bytes:
    line = "" if event_id is None else f"id: {event_id}\n"
    return f"{line}event: {kind}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
