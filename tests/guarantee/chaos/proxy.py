"""A TCP proxy between two parts of the service, which can be slow, refuse, go silent, or cut a reply off.

All links run in one event loop in a thread of their own; the monkey switches their behaviour from outside.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import socket
import struct
import threading
from typing import Any

_CHUNK_BYTES = 65_536
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER with no time: close() sends RST instead of FIN


class Mode(enum.StrEnum):
    """How a link behaves."""

    THROUGH = "through"
    LATENCY = "latency"  # every piece of data waits ``delay_s``, both ways
    RESET = "reset"  # a request goes through, and instead of its reply comes a reset
    HALF_OPEN = "half_open"  # connections are accepted and stay open, and nothing passes in either direction
    REFUSE = "refuse"  # nobody listens; what was connected is reset


class Link:
    """One listening port with the address behind it. ``touched`` counts what the present mode has disturbed."""

    def __init__(self, name: str, to_port: int) -> None:
        self.name = name
        self.mode = Mode.THROUGH
        self.delay_s = 0.0
        self.touched = 0
        self.port = 0
        self._to_port = to_port
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._calm = asyncio.Event()

    async def listen(self) -> None:
        """Listen on a free port, the same one after a time of refusing."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def switch(self, mode: Mode, delay_s: float = 0.0) -> None:
        """Behave so from now on. What was silent or refused is reset when that ends, as the other side's kernel would."""
        ended, self.mode, self.delay_s, self.touched = self.mode, mode, delay_s, 0
        if mode is Mode.REFUSE:
            self.touched += len(self._open)
            await self.close()
        elif ended is Mode.REFUSE:
            await self.listen()
        if mode is Mode.REFUSE or ended is Mode.HALF_OPEN:
            self._reset_all()
        if mode is Mode.HALF_OPEN:
            self._calm.clear()
        else:
            self._calm.set()

    async def close(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def _reset_all(self) -> None:
        for writer in list(self._open):
            _reset(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        behind: asyncio.StreamWriter | None = None
        try:
            if self.mode is Mode.HALF_OPEN:
                self.touched += 1
                await self._calm.wait()
            answers, behind = await asyncio.open_connection("127.0.0.1", self._to_port)
            self._open.add(behind)
            ways = [
                asyncio.create_task(self._pump(reader, behind, writer, is_reply=False)),
                asyncio.create_task(self._pump(answers, writer, behind, is_reply=True)),
            ]
            _, other = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for task in other:
                task.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        except OSError:
            _reset(writer)  # nobody behind us: the client sees a connection that breaks at once
        finally:
            for end in (writer, behind):
                if end is not None:
                    self._open.discard(end)
                    end.close()

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, back: asyncio.StreamWriter, *, is_reply: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(_CHUNK_BYTES):
                match self.mode:
                    case Mode.LATENCY:
                        self.touched += 1
                        await asyncio.sleep(self.delay_s)
                    case Mode.RESET if is_reply:
                        self.touched += 1
                        _reset(sink)
                        _reset(back)
                        return
                    case Mode.HALF_OPEN:
                        self.touched += 1
                        await self._calm.wait()
                sink.write(data)
                await sink.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


class Proxies:
    """The links, and the thread that serves them."""

    def __init__(self) -> None:
        self.links: dict[str, Link] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies", daemon=True)
        self._thread.start()

    def add(self, name: str, to_port: int) -> int:
        """A new link to a port on loopback; the port to connect to instead."""
        link = self.links[name] = Link(name, to_port)
        self._do(link.listen())
        return link.port

    def switch(self, name: str, mode: Mode, delay_s: float = 0.0) -> int:
        """Change a link's behaviour; how many connections or pieces of data the last one has disturbed."""
        touched = self.links[name].touched
        self._do(self.links[name].switch(mode, delay_s))
        return touched

    def touched(self, name: str) -> int:
        """What the present behaviour of the link has disturbed so far."""
        return self.links[name].touched

    def close(self) -> None:
        """End it, with all connections."""
        for link in self.links.values():
            self._do(link.switch(Mode.REFUSE))
        self._do(_let_others_end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _do(self, what: Any) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(10)


async def _let_others_end() -> None:
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
