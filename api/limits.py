"""Bounds on what one client may take: sizes, times, depths, connections; and how each refusal reads.

Slow or endless requests are the cheapest attack there is (slowloris), so every phase has an end: the head of a request,
its body, the call itself, the answer that nobody reads, and the connection in between.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from tasks.errors import InvalidArgument, ServiceError, Unavailable

MAX_HEAD_BYTES = 32 << 10  # request line and headers; a JWT of a large provider takes 8 KiB
MAX_JSON_BYTES = 1 << 20  # of a body
MOST_LENGTH_DIGITS = 18  # of a Content-Length: more is no file on this planet
MAX_JSON_DEPTH = 100  # json_format and protobuf's own limit
# Brackets, and strings to pass over. Possessive, and the closing quote optional: no text makes it go back.
_TOKEN = re.compile(rb'[\[\]{}]|"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_OPEN, _CLOSE = (b"[", b"{"), (b"]", b"}")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a process allows. ``max_connections`` counts per front end; the REST ones come out of its open files."""

    max_connections: int = 500
    head_seconds: float = 20.0  # from the first byte of a request to the end of its headers
    body_seconds: float = 60.0  # for all of a JSON body; uploads have a least rate instead (api.body)
    request_seconds: float = 120.0  # for the call itself; Operations.Wait has its own end


class MalformedHttp(ServiceError):
    """REST: bytes that are not HTTP/1.1."""

    code = "INVALID_ARGUMENT"
    reason = "MALFORMED_HTTP"
    http_status = 400

    def __init__(self) -> None:
        super().__init__("the request is not well-formed HTTP/1.1; if the service has TLS, use https://")


class HeadTooLarge(ServiceError):
    """REST: request line and headers are too large; HTTP 431 (RFC 6585 §5)."""

    code = "INVALID_ARGUMENT"
    reason = "REQUEST_HEADERS_TOO_LARGE"
    http_status = 431

    def __init__(self) -> None:
        super().__init__(f"the request line and the headers are larger than {MAX_HEAD_BYTES} bytes")


class HeadTimeout(ServiceError):
    """REST: the headers did not arrive in time; HTTP 408."""

    code = "DEADLINE_EXCEEDED"
    reason = "REQUEST_TIMEOUT"
    http_status = 408

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the headers of the request did not arrive within {seconds:g} s; send it again")


class CallTimeout(ServiceError):
    """The call took too long. What it had begun may still be done."""

    code = "DEADLINE_EXCEEDED"
    reason = "CALL_TIMEOUT"

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"the call took longer than {seconds:g} s; it may still be done: look, or send it again with the same"
            " request_id"
        )


def body_too_large(limit: int = MAX_JSON_BYTES) -> InvalidArgument:
    """What a body that is, or says that it is, too large gets."""
    return InvalidArgument("body", f"is larger than {limit} bytes", reason="REQUEST_TOO_LARGE")


def too_many_connections(most: int) -> ServiceError:
    """What the connection after the last one gets."""
    return Unavailable(f"{most} connections are open already; try again", reason="TOO_MANY_CONNECTIONS")


def check_head(raw_path: bytes, query: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    """A head that came in one piece passes h11's own limit, which counts what is incomplete. Raises: HeadTooLarge."""
    size = len(raw_path) + len(query) + sum(len(name) + len(value) + 4 for name, value in headers)
    if size > MAX_HEAD_BYTES:
        raise HeadTooLarge


def may_be_deep(raw: bytes) -> bool:
    """Whether JSON needs a look by ``check_depth``: hardly any does."""
    return raw.count(b"[") + raw.count(b"{") > MAX_JSON_DEPTH


def check_depth(raw: bytes, field: str = "body") -> None:
    """Refuse JSON that is nested too deeply before any parser recurses into it. Raises: InvalidArgument."""
    depth = 0
    for match in _TOKEN.finditer(raw):
        token = match[0]
        if token in _OPEN:
            depth += 1
            if depth > MAX_JSON_DEPTH:
                raise InvalidArgument(field, f"is nested more than {MAX_JSON_DEPTH} deep", reason="INVALID_JSON")
        elif token in _CLOSE:
            depth -= 1


def grpc_options(limits: Limits, max_message_bytes: int) -> list[tuple[str, Any]]:
    """The same bounds for gRPC core. Sources: grpc_types.h and channel_arg_names.h of gRPC core."""
    return [
        # Above our own limit, so that what is a little too large gets our answer instead of grpc's.
        ("grpc.max_receive_message_length", 4 * max_message_bytes),
        ("grpc.max_metadata_size", MAX_HEAD_BYTES),  # soft: some of what is above it is refused
        ("grpc.absolute_max_metadata_size", MAX_HEAD_BYTES),  # hard
        ("grpc.max_concurrent_streams", 100),  # per connection
        ("grpc.max_allowed_incoming_connections", limits.max_connections),
        ("grpc.server_handshake_timeout_ms", int(limits.head_seconds * 1000)),
        # A client that has gone without a word is noticed; one that pings like mad is sent away.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.max_ping_strikes", 5),
        ("grpc.max_connection_idle_ms", 30 * 60_000),
    ]
