"""REST: the contract's paths from the table, our additions, and every error in Google's shape.

An ASGI application on Starlette's requests and responses. It finds routes itself, because Starlette matches the decoded
path, on which ``{name}:cancel`` and an encoded slash cannot be told apart.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from google.protobuf.message import Message
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from api import additions, errors, transcode, translate
from api.additions import ADDITIONS, EVIDENCE, UPLOADS, Addition, evidence, uploads
from api.additions.evidence import EvidenceRoute
from api.additions.uploads import UploadRoute
from api.audit import Record
from api.auth import Gate, permissions
from api.auth.browsers import refuse_foreign
from api.auth.streaming import WhileAllowed
from api.body import Body
from api.call_threads import CallThreads
from api.docs_page import PAGES, Page
from api.events_stream import Streams, accepts_events
from api.limits import MAX_JSON_BYTES, Limits, body_too_large, check_depth, check_head, may_be_deep
from api.lots import Lots
from api.methods import METHODS, Method
from api.names import CLONE_JOB, check_name
from api.paths import match_path
from api.polled import Polled, encoded
from api.system_parameters import WHOLE, Form, read_form
from api.texts import check_json
from api.uncovered import UNCOVERED, Uncovered, not_covered
from models.catalog import JobRecord
from tasks.errors import InvalidArgument
from tasks.services import Services

_JSON_TYPES = ("application/json", "text/json")


@dataclass(frozen=True)
class _Health:
    verb: str = "GET"
    path: str = "/healthz"


class _HasRoute(Protocol):
    @property
    def verb(self) -> str: ...
    @property
    def path(self) -> str: ...


Route = Method | Uncovered | Addition | EvidenceRoute | UploadRoute | Page | _Health
R = TypeVar("R", bound=_HasRoute)
_CONTRACT: tuple[Route, ...] = (*(method for method in METHODS if method.verb), *UNCOVERED)
_OURS: tuple[Route, ...] = (*ADDITIONS, *EVIDENCE, *UPLOADS, *PAGES, _Health())


class RestApp:
    """The ASGI application. ``upload_executor`` is a pool of its own, so that slow uploads never starve the calls."""

    def __init__(
        self,
        services: Services,
        executor: CallThreads,
        upload_executor: Executor,
        *,
        gate: Gate | None = None,
        limits: Limits | None = None,
        polled: Polled | None = None,
    ) -> None:
        self._services = services
        self._executor = executor
        self._upload_executor = upload_executor
        self.streams = Streams(services, executor)
        self._gate = gate or Gate()
        self._limits = limits or Limits()
        self._polled: Lots[Any, Any] | None = None
        if polled is not None:
            self._polled = polled.lots(lambda call: _read_call(*call), _give)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry; HTTP only."""
        if scope["type"] != "http":
            raise RuntimeError(f"{scope['type']} is not served; run the server with lifespan and websockets off")
        request = Request(scope, receive)
        body = Body(receive, total_seconds=self._limits.body_seconds)
        record = Record("rest")
        try:
            response = await self._answer(request, body, record)
            record.code = "OK"
        except Exception as exc:  # noqa: BLE001  (every error becomes a status; the unforeseen is logged there)
            response, record.code = _error_response(exc)
            if getattr(exc, "reason", "") != "REQUEST_TOO_LARGE":  # that one is answered at once; uvicorn reads on
                await body.drain(expects_continue="expect" in request.headers)
        finally:
            if request.scope["path"] != _Health.path:
                record.write()
        await response(scope, receive, send)

    async def _answer(self, request: Request, body: Body, record: Record) -> Response:
        check_head(request.scope["raw_path"], request.scope["query_string"], request.scope["headers"])
        record.resource = f"{request.method} {request.scope['path']}"
        if self._gate.open:
            refuse_foreign(request.method, request.headers)
        route, variables = find_route(request.method, request.scope["raw_path"].decode("latin-1"))
        query = transcode.parse_query(request.scope["query_string"])
        if isinstance(route, _Health):
            return JSONResponse({"status": "ok"})
        if isinstance(route, Page):
            page: Response = await self._run(route.answer)
            return page
        principal = await self._admit(request, route, variables, record)
        if isinstance(route, Uncovered):
            raise not_covered(route.rpc)
        if isinstance(route, EvidenceRoute | UploadRoute):
            return await self._file(request, route, variables, query, body)
        raw = await self._read_json(request, route, body)
        if isinstance(route, Addition):
            form = read_form(query, None)
            arguments = additions.parse_json(route, raw)
            check_json(arguments)
            if route.streams and accepts_events(request.headers.get("accept", "")):
                return await self._stream(request, route, variables)
            answer = await self._run(route.handler, self._services, variables["name"], arguments)
            return JSONResponse(form.shape(answer))
        if route.body == permissions.BODY_WITH_REFERENCES:
            await self._check_references(principal, route, variables, query, raw)
        return await self._call(route, variables, query, raw)

    async def _call(self, method: Method, variables: dict[str, str], query: transcode.Query, raw: bytes) -> Response:
        if method.polled and self._polled is not None:
            given: bytes = await self._polled.ask(self._limits.request_seconds, (method, variables, query, raw))
        else:
            given = await self._run(_call, self._services, method, variables, query, raw)
        return Response(given, media_type=_JSON_TYPES[0])

    async def _file(
        self,
        request: Request,
        route: EvidenceRoute | UploadRoute,
        variables: dict[str, str],
        query: transcode.Query,
        body: Body,
    ) -> Response:
        """What is no JSON on its way in or out."""
        form = read_form(query, None)
        if isinstance(route, EvidenceRoute):
            kept: Response = await self._run(evidence.file, self._services, route, variables["name"])
            return kept
        uploads.check_plain(query, request.headers)
        if route.verb != "PUT":
            received: Response = await self._run(uploads.received, self._services, variables)
            return _shaped(received, form)
        upload = uploads.check_upload(variables, query, request.headers)
        return _shaped(await uploads.put(self._services, self._upload_executor, body, upload), form)

    async def _stream(self, request: Request, route: Addition, variables: dict[str, str]) -> Response:
        name = check_name("name", variables["name"], CLONE_JOB)
        stream = await self.streams.open(name, request.headers.get("last-event-id", ""))
        again = functools.partial(self._admit, request, route, variables, Record("rest"))
        return stream if self._gate.open else WhileAllowed(stream, again)

    async def _admit(
        self,
        request: Request,
        route: Method | Uncovered | Addition | EvidenceRoute | UploadRoute,
        variables: dict[str, str],
        record: Record,
    ) -> str:
        """The principal, once it may do this; nothing of the body has been read by then."""
        record.method = _name_of(route)
        principal = await self._gate.admit(request.headers.getlist("authorization"), self._executor)
        record.principal = principal
        if isinstance(route, Uncovered):
            return principal
        field = permissions.resource_field(route) if isinstance(route, Method) else "name"
        record.resource = variables[field]
        await self._gate.check(principal, route.permission, variables[field], self._executor, field=field)
        return principal

    async def _read_json(self, request: Request, route: Method | Addition, body: Body) -> bytes:
        raw = await _read_json(request, body)
        if may_be_deep(raw):
            await self._run(check_depth, raw, getattr(route, "body", "").strip("*") or "body")
        return raw

    async def _check_references(
        self, principal: str, method: Method, variables: dict[str, str], query: transcode.Query, raw: bytes
    ) -> None:
        """What the body names in other projects, perhaps."""
        message = await self._run(transcode.to_request, method, variables, query, raw)
        for field, permission, name in permissions.references(method, message):
            await self._gate.check(principal, permission, name, self._executor, field=field)

    async def _run(self, function: Any, *arguments: Any) -> Any:
        return await self._executor.run(self._limits.request_seconds, function, *arguments)


def find_route(verb: str, raw_path: str) -> tuple[Route, dict[str, str]]:
    """The route of a request and the variables in its path.

    Raises: RouteNotFound, MethodNotAllowed, InvalidArgument for a path that is not UTF-8 once it is decoded.
    """
    if raw_path.startswith("/v1/"):
        return _find(_CONTRACT, verb, raw_path)
    return _find(_OURS, verb, raw_path)


def _find(routes: Iterable[R], verb: str, raw_path: str) -> tuple[R, dict[str, str]]:
    allowed: list[str] = []
    for route in routes:
        variables = match_path(route.path, raw_path)
        if variables is not None:
            verbs = ("GET", "HEAD") if isinstance(route, Page | _Health) else (route.verb,)
            if verb in verbs:  # the server sends no body to HEAD
                return route, variables
            allowed += verbs
    if allowed:
        raise errors.MethodNotAllowed(verb, sorted(set(allowed)))
    raise errors.RouteNotFound(
        f"nothing is served at {errors.clip(raw_path, 200)}; the contract is below /v1/projects/"
    )


def _call(services: Services, method: Method, variables: dict[str, str], query: transcode.Query, raw: bytes) -> bytes:
    """One call of the contract, in a worker thread: JSON costs more than most handlers."""
    form, message = _read_call(method, variables, query, raw)
    return _shape(form, method.handler(services, message))


def _read_call(method: Method, variables: dict[str, str], query: transcode.Query, raw: bytes) -> tuple[Form, Message]:
    form = read_form(query, method.response.DESCRIPTOR)
    return form, transcode.to_request(method, variables, query, raw)


def _give(form: Form, job: JobRecord) -> bytes:
    """An answer of ``Polled``; what hardly anybody asks for is not kept."""
    if form == WHOLE:
        return encoded(job, "rest", functools.partial(_shape, form))
    return _shape(form, translate.clone_job(job))


def _shape(form: Form, response: Message) -> bytes:
    shaped = form.shape(transcode.to_json(response, enums_as_integers=form.enums_as_integers))
    return json.dumps(shaped, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _shaped(response: Response, form: Form) -> Response:
    """The selected part of an answer that is JSON already."""
    if form.selection is None:
        return response
    headers = {name: value for name, value in response.headers.items() if name != "content-length"}
    return JSONResponse(form.shape(json.loads(bytes(response.body))), response.status_code, headers)


async def _read_json(request: Request, body: Body) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > MAX_JSON_BYTES:
        raise body_too_large()
    if not declared and "transfer-encoding" not in request.headers:
        return b""  # RFC 9112 §6.3: no body
    raw = await body.read()
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if raw.strip() and kind and kind not in _JSON_TYPES and not kind.endswith("+json"):
        raise InvalidArgument(
            "Content-Type", f"is {kind[:80]}; send JSON as application/json", reason="UNSUPPORTED_CONTENT_TYPE"
        )
    return raw


def _name_of(route: Route) -> str:
    """What the log calls it: an RPC of the contract, or ``clonejob.`` and a name of ours."""
    if isinstance(route, Method | Uncovered):
        return route.rpc
    if isinstance(route, Addition):
        return f"clonejob.{route.handler.__name__}"
    return "clonejob.evidence" if isinstance(route, EvidenceRoute) else "clonejob.upload"


def _error_response(exc: Exception) -> tuple[Response, str]:
    """The answer, and the name of its code."""
    status = errors.from_exception(exc)
    http_status = errors.http_status_of(exc, status)
    headers = dict(getattr(exc, "headers", {}))
    if isinstance(exc, errors.MethodNotAllowed):
        headers["Allow"] = ", ".join(exc.allowed)
    response = JSONResponse(errors.to_rest(status, http_status), status_code=http_status, headers=headers)
    return response, errors.name_of(status.code)
