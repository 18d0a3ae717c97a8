"""The stand-in as an HTTP server in a thread, on a free port of loopback."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from standins.compute_engine.discovery import BadRequest, compute_v1
from standins.compute_engine.faults import Fault, Script
from standins.compute_engine.methods import Methods
from standins.compute_engine.project import ApiError, Project, Resource
from targets.base import Observed, ResourceKind, ResourceRef
from targets.simulated_log import Call

Json = dict[str, Any]
PROJECT, ZONE = "clones", "europe-west1-b"
_PLACES = {
    ResourceKind.DISK: f"projects/{PROJECT}/zones/{ZONE}/disks",
    ResourceKind.INSTANCE: f"projects/{PROJECT}/zones/{ZONE}/instances",
    ResourceKind.ADAPTED_IMAGE: f"projects/{PROJECT}/global/images",
}


class _Closed(Exception):
    """The connection is to be closed without an answer."""


class StandIn:
    """One project of Compute Engine. ``requests`` has every method called, ``refused`` what the description refused."""

    def __init__(self, clock: Callable[[], float] = time.time, **behaviour: Any) -> None:
        self.project = Project(clock, **behaviour)
        self.methods = Methods(self.project)
        self.script = Script()
        self.requests: list[str] = []
        self.refused: list[str] = []
        self.bodies: list[tuple[str, Json]] = []
        self._lock = threading.RLock()
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.close()

    # What a test says and sees

    def fault(self, method: str, kind: str, **more: Any) -> None:
        self.script.add(Fault(method, kind, **more))

    def add_snapshot(self, name: str = "s", *, size_gb: int = 10, project: str = PROJECT) -> str:
        path = f"projects/{project}/global/snapshots/{name}"
        self.methods.sources[path] = {"name": name, "id": "7", "status": "READY", "diskSizeGb": str(size_gb)}
        return path

    def add_image(self, name: str = "i", *, size_gb: int = 10, project: str = "golden") -> str:
        path = f"projects/{project}/global/images/{name}"
        self.methods.sources[path] = {"name": name, "id": "8", "status": "READY", "diskSizeGb": str(size_gb)}
        return path

    def add_address(self, path: str, address: str) -> None:
        self.methods.sources[path] = {"name": path.rpartition("/")[2], "address": address}

    def resource(self, ref: ResourceRef) -> Resource | None:
        with self._lock:
            self.project.settle()
            return self.project.resources.get(f"{_PLACES[ref.kind]}/{ref.name}")

    def foreign(self, ref: ResourceRef, labels: Json | None = None) -> Resource:
        """What a user makes by hand."""
        with self._lock:
            path = f"{_PLACES[ref.kind]}/{ref.name}"
            if old := self.project.resources.get(path):
                self.project._end(old, self.project.clock(), "foreign")
            self.project.next_uid += 1
            status = "RUNNING" if ref.kind is ResourceKind.INSTANCE else "READY"
            made = Resource(
                path, str(self.project.next_uid), {"labels": dict(labels or {})}, status, self.project.clock()
            )
            self.project.resources[path] = made
            self.project.effect("foreign", made, "made", self.project.clock())
            return made

    def remove_by_hand(self, ref: ResourceRef) -> None:
        with self._lock:
            self.project._end(
                self.project.resources[f"{_PLACES[ref.kind]}/{ref.name}"], self.project.clock(), "remove_by_hand"
            )

    def power_off(self, ref: ResourceRef) -> None:
        with self._lock:
            self.project.resources[f"{_PLACES[ref.kind]}/{ref.name}"].status = "TERMINATED"

    def calls(self) -> list[Call]:
        """The log of effects, for a judge."""
        with self._lock:
            self.project.settle()
            return list(self.project.log)

    def everything(self) -> list[Observed]:
        with self._lock:
            self.project.settle()
            return self.project.everything()

    def made(self, kind: ResourceKind) -> list[Call]:
        """Everything of a kind that ever came to exist by a call of ours."""
        return [call for call in self.calls() if (call.op, call.outcome, call.kind) == ("create", "made", kind)]

    # Inside

    def answer(self, verb: str, target: str, raw: bytes) -> tuple[int, Json]:
        """One request. Raises: _Closed."""
        parts = urlsplit(target)
        with self._lock:
            self.project.settle()
            try:
                call = compute_v1().check(verb, parts.path, parse_qs(parts.query, keep_blank_values=True), raw)
                self.requests.append(call.method)
                self.bodies.append((call.method, call.body))
                name = str(call.body.get("name") or next(reversed(call.path.values())))
                fault = self.script.take(call.method, name)
                if fault is not None and fault.kind == "drop":
                    raise _Closed
                if fault is not None and fault.kind == "http":
                    raise ApiError(fault.status, fault.reason, fault.message)
                done = self.methods.run(call, fault)
                if fault is not None and fault.kind == "lose":
                    raise _Closed
                return 200, done
            except ApiError as error:
                return error.status, _error(error.status, error.reason, str(error))
            except BadRequest as error:
                self.refused.append(f"{verb} {parts.path}: {error}")
                return 400, _error(400, error.reason, str(error))
            except LookupError:
                self.refused.append(f"{verb} {parts.path}: no such method")
                return 404, _error(404, "notFound", f"No method {verb} {parts.path}")


def _error(status: int, reason: str, message: str) -> Json:
    errors = [{"message": message, "domain": "global", "reason": reason}]
    return {"error": {"code": status, "message": message, "errors": errors}}


class _Server(ThreadingHTTPServer):
    """Remembers its connections: clients keep them open, and their threads must end with the server."""

    daemon_threads = False
    block_on_close = True

    def __init__(self, stand_in: StandIn) -> None:
        self.stand_in = stand_in
        self.connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def close(self) -> None:
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def _answer(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        try:
            status, body = self.server.stand_in.answer(self.command, self.path, raw)
        except _Closed:
            self.close_connection = True
            return
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_DELETE = do_PUT = do_PATCH = _answer

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing: pytest shows what a test needs."""
