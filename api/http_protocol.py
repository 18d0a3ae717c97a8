"""uvicorn's HTTP/1.1 protocol with an end to waiting, a number of connections, and refusals in Google's shape.

uvicorn itself waits for ever for a request that has begun, counts connections only when a request is complete, and
answers malformed HTTP in plain text.
"""

from __future__ import annotations

import asyncio
import json
import sys

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from api import errors
from api.limits import (
    MAX_HEAD_BYTES,
    MOST_LENGTH_DIGITS,
    HeadTimeout,
    HeadTooLarge,
    Limits,
    MalformedHttp,
    body_too_large,
    too_many_connections,
)
from tasks.errors import ServiceError

_FLUSH_SECONDS = 5.0  # how long a closed connection may keep what nobody reads
_GOODBYE_SECONDS = 0.5
_TOO_LARGE = 413  # a hint to ourselves; the answer is the one to any body that is too large


def bounded_protocol(limits: Limits) -> type[H11Protocol]:
    """The protocol class with these limits; uvicorn makes one per connection."""
    return type("BoundedProtocol", (_Bounded,), {"limits": limits})


class _StrictConnection(h11.Connection):
    """h11 takes a request with both lengths for a chunked one, as RFC 9112 allows; who smuggles requests relies on a
    proxy that reads the other one (§6.1, §11.2)."""

    def next_event(self) -> h11.Event | type[h11.NEED_DATA | h11.PAUSED]:
        event = super().next_event()
        if isinstance(event, h11.Request):
            lengths = [value for name, value in event.headers if name == b"content-length"]
            if lengths and any(name == b"transfer-encoding" for name, _ in event.headers):
                raise h11.RemoteProtocolError("both Content-Length and Transfer-Encoding")
            if any(len(value.lstrip(b"0")) > MOST_LENGTH_DIGITS for value in lengths):
                raise h11.RemoteProtocolError("absurd Content-Length", error_status_hint=_TOO_LARGE)
        return event


class _Bounded(H11Protocol):
    limits: Limits
    _head_timer: asyncio.TimerHandle | None = None
    _head_begun = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A new connection; one too many is told so at once."""
        super().connection_made(transport)
        self.conn = _StrictConnection(h11.SERVER, MAX_HEAD_BYTES)
        self.access_log = False  # it would show query strings, where clients may have put a token; see api.audit
        if len(self.connections) > self.limits.max_connections:
            self._refuse(too_many_connections(self.limits.max_connections))
        else:
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, and with it what waits for it."""
        self._stop_head_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes; the clock of a head runs from its first byte, however many follow.

        It also runs while a client goes on with the body of a request that is answered: that, too, is waiting.
        """
        super().data_received(data)
        if self.transport.is_closing():
            return
        self._head_begun = self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])
        if self._between_requests():
            self._expect_head()
        else:
            self._stop_head_timer()

    def on_response_complete(self) -> None:
        """An answer; the rest of a body that it did not wait for is waited for as long as for a head."""
        super().on_response_complete()
        answered = self.cycle is not None and self.cycle.response_complete
        if answered and self.conn.their_state is h11.SEND_BODY and not self.transport.is_closing():
            self._expect_head()

    def send_400_response(self, msg: str) -> None:
        """Bytes that are no HTTP; called by uvicorn while it handles h11's error."""
        hint = getattr(sys.exception(), "error_status_hint", 400)
        if hint == _TOO_LARGE:
            self._refuse(body_too_large())
        else:
            self._refuse(HeadTooLarge() if hint == HeadTooLarge.http_status else MalformedHttp())

    def timeout_keep_alive_handler(self) -> None:
        """Nothing came for too long; nor is waited for a client that does not read its last answer."""
        super().timeout_keep_alive_handler()
        self._abort_soon()

    def shutdown(self) -> None:
        """The server stops. With TLS a close waits for the other side to agree, which an idle client never does."""
        super().shutdown()
        if self.transport.is_closing():
            self._abort_soon(_GOODBYE_SECONDS)

    def _unsupported_upgrade_warning(self) -> None:
        """An upgrade that is not offered is answered over HTTP/1.1, as the RFC says; that needs no warning."""

    def _expect_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.limits.head_seconds, self._head_is_late)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self.transport.is_closing() or not self._between_requests():
            return
        if self._head_begun:
            self._refuse(HeadTimeout(self.limits.head_seconds))
        else:
            self.transport.close()
            self._abort_soon()

    def _between_requests(self) -> bool:
        return self.conn.their_state is h11.IDLE or (self.cycle is not None and self.cycle.response_complete)

    def _refuse(self, error: ServiceError) -> None:
        """Answer without the application, and close."""
        status = errors.from_exception(error)
        http_status = errors.http_status_of(error, status)
        body = json.dumps(errors.to_rest(status, http_status)).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        self._stop_head_timer()
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # the application speaks to nobody from now on
            self.cycle.message_event.set()
        try:
            for event in (h11.Response(status_code=http_status, headers=headers), h11.Data(data=body),
                          h11.EndOfMessage()):  # fmt: skip
                self.transport.write(self.conn.send(event) or b"")
        except h11.LocalProtocolError:
            pass  # an answer has begun already: all that is left is to hang up
        self.transport.close()
        self._abort_soon()

    def _abort_soon(self, seconds: float = _FLUSH_SECONDS) -> None:
        self.loop.call_later(seconds, self.transport.abort)
