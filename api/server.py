"""Both front ends in one event loop, on two ports.

Ports are taken before anything is served. The REST socket is bound here, without SO_REUSEPORT; gRPC is told not to use
it either, since with its default a second server would share the port without a word.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import socket
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import uvicorn

from api.auth import Gate
from api.call_threads import CallThreads
from api.grpc_server import build_server
from api.http_protocol import bounded_protocol
from api.limits import MAX_HEAD_BYTES, Limits
from api.polled import Polled
from api.rest import RestApp
from tasks.services import Services

CALL_THREADS = 16
UPLOAD_THREADS = 8
_BACKLOG = 1024
_GRACE_SECONDS = 5
_UNREAD_MILLISECONDS = 60_000
_KEEP_ALIVE_SECONDS = 620  # longer than load balancers (600 s) and clients that do not retry a POST keep a connection


@dataclass(frozen=True, slots=True)
class Tls:
    """Certificate (its chain below it) and private key, in PEM; both front ends use the same."""

    cert_file: Path
    key_file: Path

    def for_rest(self) -> ssl.SSLContext:
        """TLS 1.2 and up, HTTP/1.1. Raises: CannotUseTls."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self.cert_file, self.key_file, password="")  # an encrypted key asks nobody
        except (OSError, ssl.SSLError) as error:
            raise CannotUseTls(self, error) from error
        return context

    def for_grpc(self) -> grpc.ServerCredentials:
        """The same for gRPC. Raises: CannotUseTls."""
        try:
            pair = (self.key_file.read_bytes(), self.cert_file.read_bytes())
        except OSError as error:
            raise CannotUseTls(self, error) from error
        return grpc.ssl_server_credentials([pair])


class CannotUseTls(Exception):
    """The certificate or its key cannot be used."""

    def __init__(self, tls: Tls, error: Exception) -> None:
        why = getattr(error, "strerror", None) or str(error)
        super().__init__(
            f"TLS with {tls.cert_file} and {tls.key_file} is not possible: {why}; both must be PEM, belong together,"
            " and the key must have no password"
        )


class CannotListen(Exception):
    """An address that cannot be served. ``host`` and ``port`` say which."""

    def __init__(self, host: str, port: int, why: str) -> None:
        super().__init__(f"cannot listen on {host}:{port}: {why}")
        self.host = host
        self.port = port


class PortInUse(CannotListen):
    """Something listens there already."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port, "another process listens there; stop it or choose another port")


async def serve(
    services: Services,
    *,
    rest_host: str,
    rest_port: int,
    grpc_host: str,
    grpc_port: int,
    on_ready: Callable[[int, int], None] | None = None,
    should_exit: asyncio.Event,
    gate: Gate | None = None,
    tls: Tls | None = None,
    limits: Limits | None = None,
) -> None:
    """Serve until ``should_exit`` is set, then let running calls end for a few seconds.

    Port 0 takes any free port; ``on_ready`` gets the ports that were taken (REST, gRPC) once both answer. Signals are
    left to the caller. Without a ``gate`` anybody may do anything: for loopback only.
    Raises: PortInUse, CannotListen, CannotUseTls, before anything is served.
    """
    gate, limits = gate or Gate(), limits or Limits()
    context, credentials = (tls.for_rest(), tls.for_grpc()) if tls else (None, None)
    calls = CallThreads(CALL_THREADS, "api")
    uploads = ThreadPoolExecutor(UPLOAD_THREADS, thread_name_prefix="upload")
    polled = Polled(services, calls, seconds=limits.request_seconds)
    try:
        with contextlib.closing(_listen(rest_host, rest_port)) as rest_socket:
            grpc_server = build_server(services, calls, gate=gate, limits=limits, polled=polled)
            actual_grpc_port = _add_port(grpc_server, grpc_host, grpc_port, credentials)
            actual_rest_port = rest_socket.getsockname()[1]
            app = RestApp(services, calls, uploads, gate=gate, limits=limits, polled=polled)
            ready = functools.partial(_tell, on_ready, actual_rest_port, actual_grpc_port)
            rest_server = _Server(app, ready, limits, context)
            await grpc_server.start()
            try:
                await _run_rest(rest_server, rest_socket, should_exit)
            finally:
                await grpc_server.stop(_GRACE_SECONDS)
    finally:
        await polled.close()
        # In a thread: a worker may still be waiting for the loop.
        await asyncio.to_thread(_shut_down, calls, uploads)


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers (the process belongs to the caller), telling when it serves."""

    def __init__(self, app: RestApp, ready: Callable[[], None], limits: Limits, context: ssl.SSLContext | None) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=bounded_protocol(limits),
                h11_max_incomplete_event_size=MAX_HEAD_BYTES,
                ssl_context_factory=None if context is None else lambda _config, _default: context,
                lifespan="off",
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=_GRACE_SECONDS,
            )
        )
        self._ready = ready
        self._streams = app.streams

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start as uvicorn does, then tell."""
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams, which would not end by themselves, then stop as uvicorn does."""
        self._streams.close()
        await super().shutdown(sockets)


async def _run_rest(server: _Server, listener: socket.socket, should_exit: asyncio.Event) -> None:
    """Run uvicorn until it is told to stop; if it ends on its own, its error is raised here."""
    running = asyncio.create_task(server.serve(sockets=[listener]))
    leaving = asyncio.create_task(should_exit.wait())
    try:
        await asyncio.wait({running, leaving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        leaving.cancel()
        server.should_exit = True
        await running


def _tell(on_ready: Callable[[int, int], None] | None, rest_port: int, grpc_port: int) -> None:
    if on_ready is not None:
        on_ready(rest_port, grpc_port)


def _shut_down(*executors: Executor) -> None:
    for executor in executors:
        executor.shutdown(wait=True, cancel_futures=True)


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, str]:
    """One address for a host, IPv4 first: a name with two addresses must not be served on half of them."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise CannotListen(host, port, error.strerror or str(error)) from error
    family, *_, address = min(found, key=lambda entry: entry[0] is not socket.AF_INET)
    return family, str(address[0])


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket. Listening at once matters: two sockets may be bound to one port as long as none listens."""
    try:
        family, address = _resolve(host, port)
        # The protocol is named because asyncio turns Nagle's algorithm off only then: without, 40 ms per answer.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OverflowError:
        raise CannotListen(host, port, "a port is a number from 0 to 65535") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # inherited: ends connections whose client does not read its answers
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREAD_MILLISECONDS)
        listener.bind((address, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(host, port) from error
        raise CannotListen(host, port, error.strerror or str(error)) from error
    except OverflowError:
        listener.close()
        raise CannotListen(host, port, "a port is a number from 0 to 65535") from None
    return listener


def _add_port(server: grpc.aio.Server, host: str, port: int, credentials: grpc.ServerCredentials | None = None) -> int:
    """Bind gRPC. Tried with a socket of our own first, whose errors say what is wrong; grpc's do not."""
    _listen(host, port).close()
    family, address = _resolve(host, port)
    shown = f"[{address}]" if family is socket.AF_INET6 else address
    try:
        where = f"{shown}:{port}"
        bound: int = server.add_secure_port(where, credentials) if credentials else server.add_insecure_port(where)
    except RuntimeError as error:
        raise PortInUse(host, port) from error
    if bound == 0:
        raise PortInUse(host, port)
    return bound
