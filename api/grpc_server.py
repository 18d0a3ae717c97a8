"""gRPC: generic handlers from the table, run in a bounded thread pool.

proto-plus ships no service descriptor, hence generic handlers (seen on the wire of the official clients). Requests are parsed here rather
than by grpc, which would answer INTERNAL to bytes that are no message.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import status_pb2
from grpc_status import rpc_status

from api import errors
from api.audit import Record
from api.auth import Gate, permissions
from api.call_threads import CallThreads
from api.limits import Limits, grpc_options
from api.methods import METHODS, Method
from api.polled import Polled, encoded
from api.texts import check_texts
from api.uncovered import KNOWN_SERVICES, not_covered
from models.catalog import JobRecord
from tasks.errors import InvalidArgument
from tasks.services import Services

MAX_REQUEST_BYTES = 1 << 20
_MAX_CONCURRENT_RPCS = 2000  # most of them wait for an operation, without a thread
_LONGEST_WAIT_SECONDS = 600.0
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.05, 1.0

Behaviour = Callable[[bytes, Any], Awaitable[bytes]]


class Handlers(grpc.GenericRpcHandler):  # type: ignore[misc,unused-ignore]
    """Finds the handler of a method; known services answer UNIMPLEMENTED by name to what the table lacks."""

    def __init__(
        self,
        services: Services,
        executor: CallThreads,
        *,
        gate: Gate | None = None,
        limits: Limits | None = None,
        polled: Polled | None = None,
    ) -> None:
        self._services = services
        self._executor = executor
        self._gate = gate or Gate()
        self._limits = limits or Limits()
        self._polled = polled.lots(_whole, _encoded) if polled is not None else None
        self._by_name = {m.full_name: grpc.unary_unary_rpc_method_handler(self._behaviour(m)) for m in METHODS}

    def service(self, handler_call_details: Any) -> Any:
        """The handler for one call, None for a service that is not ours (a hook of grpc)."""
        path: str = handler_call_details.method
        if path in self._by_name:
            return self._by_name[path]
        service, _, rpc = path.removeprefix("/").partition("/")
        if service not in KNOWN_SERVICES:
            return None
        return grpc.unary_unary_rpc_method_handler(self._refusal(rpc))

    def _behaviour(self, method: Method) -> Behaviour:
        async def answer(raw: bytes, context: Any, record: Record) -> bytes:
            record.principal = await self._admit(context)
            request = _parse(method, raw)
            record.resource = permissions.resource_of(method, request)
            await self._check(record.principal, method, request)
            if method.polled and self._polled is not None:
                return await self._polled.ask(self._limits.request_seconds, request)
            response = await (self._wait(method, request, context) if method.waits else self._run(method, request))
            return bytes(response.SerializeToString())

        return _recorded(method.rpc, answer)

    def _refusal(self, rpc: str) -> Behaviour:
        async def refuse(_raw: bytes, context: Any, record: Record) -> bytes:
            record.principal = await self._admit(context)
            raise not_covered(errors.clip(rpc, 80))

        return _recorded(rpc, refuse)

    async def _admit(self, context: Any) -> str:
        given = [str(value) for key, value in context.invocation_metadata() or () if key == "authorization"]
        return await self._gate.admit(given, self._executor)

    async def _check(self, principal: str, method: Method, request: Message) -> None:
        """May it, also with what the body refers to?"""
        field, resource = permissions.resource_field(method), permissions.resource_of(method, request)
        await self._gate.check(principal, method.permission, resource, self._executor, field=field)
        if self._gate.open:
            return
        for body_field, permission, name in permissions.references(method, request):
            await self._gate.check(principal, permission, name, self._executor, field=body_field)

    async def _run(self, method: Method, request: Message) -> Message:
        return await self._executor.run(self._limits.request_seconds, method.handler, self._services, request)

    async def _wait(self, method: Method, request: Any, context: Any) -> Message:
        """Operations.Wait: the latest state when the operation is done or the time is up, without holding a thread."""
        given = request.HasField("timeout")
        seconds = request.timeout.seconds + request.timeout.nanos / 1e9 if given else _LONGEST_WAIT_SECONDS
        remaining = context.time_remaining()
        if remaining is not None:
            seconds = min(seconds, remaining * 0.9)  # answer before the client gives up
        until = time.monotonic() + min(seconds, _LONGEST_WAIT_SECONDS)
        pause = _FIRST_PAUSE_SECONDS
        while True:
            # Again each time: a right that was taken away in the meantime ends the waiting, too.
            await self._check(await self._admit(context), method, request)
            operation = await self._run(method, request)
            left = until - time.monotonic()
            if operation.done or left <= 0:
                return operation
            await asyncio.sleep(min(pause, left))
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)


def build_server(
    services: Services,
    executor: CallThreads,
    *,
    gate: Gate | None = None,
    limits: Limits | None = None,
    polled: Polled | None = None,
) -> grpc.aio.Server:
    """A server without a port; to be called inside the running loop.

    ``so_reuseport`` is off: with grpc's default, two servers would share one port without a word.
    """
    limits = limits or Limits()
    options = [("grpc.so_reuseport", 0), *grpc_options(limits, MAX_REQUEST_BYTES)]
    server = grpc.aio.server(options=options, maximum_concurrent_rpcs=_MAX_CONCURRENT_RPCS)
    server.add_generic_rpc_handlers((Handlers(services, executor, gate=gate, limits=limits, polled=polled),))
    return server


def _parse(method: Method, raw: bytes) -> Message:
    if len(raw) > MAX_REQUEST_BYTES:
        raise InvalidArgument("request", f"is larger than {MAX_REQUEST_BYTES} bytes", reason="REQUEST_TOO_LARGE")
    try:
        message: Message = method.request.FromString(raw)
    except DecodeError:
        name = method.request.DESCRIPTOR.full_name
        raise InvalidArgument("request", f"is not a {name}", reason="INVALID_MESSAGE") from None
    check_texts(message)
    return message


def _whole(request: Message) -> tuple[None, Message]:
    """What ``Polled`` reads of a call: the message is parsed already."""
    return None, request


def _encoded(_: None, job: JobRecord) -> bytes:
    return encoded(job, "grpc", lambda message: bytes(message.SerializeToString()))


def _recorded(rpc: str, answer: Callable[[bytes, Any, Record], Awaitable[bytes]]) -> Behaviour:
    """The behaviour that answers, turns every error into a status, and leaves one line in the log."""

    async def behave(raw: bytes, context: Any) -> bytes:
        record = Record("grpc", rpc)
        try:
            response = await answer(raw, context, record)
            record.code = "OK"
            return response
        except Exception as exc:  # noqa: BLE001  (every error becomes a status; the unforeseen is logged there)
            status = errors.from_exception(exc)
            record.code = errors.name_of(status.code)
            record.write()  # before the client hears of it
            await _abort(context, status)
        finally:
            record.write()

    return behave


async def _abort(context: Any, status: status_pb2.Status) -> NoReturn:
    await context.abort_with_status(rpc_status.to_status(status))
    raise AssertionError("abort_with_status always raises")
