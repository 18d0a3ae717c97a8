"""The two ends of ``benchmarks/api.py``, each a process of its own: a server (one of three) and a client.

    python benchmarks/api_parts.py serve '{"database": "…", "folder": "…", "broker": "", "profile": ""}'
    python benchmarks/api_parts.py same_stack '{…the same…}'
    python benchmarks/api_parts.py plain
    python benchmarks/api_parts.py client          (one JSON request per line on stdin, one answer per line on stdout)

``same_stack`` is ours but for the handler of GetCloneJob, which returns a constant. ``plain`` has what ours has below its
front ends: a grpc.aio server with a generic handler, and uvicorn with the same protocol class; it answers every call with
the same bytes, which are those of a real CloneJob.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # python -P does not

import grpc
import uvicorn
from google.cloud import vmmigration_v1 as v1
from google.protobuf import json_format

from api.grpc_server import MAX_REQUEST_BYTES
from api.http_protocol import bounded_protocol
from api.limits import Limits, grpc_options
from api.methods import METHODS
from api.server import serve
from models import migrate
from models.catalog import Catalog
from models.db import make_engine
from models.store import JobStore
from targets.simulated import SimulatedTarget
from targets.snapshot_store import FileSnapshotStore
from tasks.evidence import EvidenceStore
from tasks.runtime import Publisher, Runtime
from tasks.services import Services

_SERVICE = "/google.cloud.vmmigration.v1.VmMigration/"
SOURCE = "projects/p/locations/global/sources/s"


def vm_name(number: int) -> str:
    """The VMs that are created from, a job each."""
    return f"{SOURCE}/migratingVms/vm-{number}"


LIST_VM = f"{SOURCE}/migratingVms/listed"
JOBS = 60


def job_name(number: int) -> str:
    """The jobs that are read, all of the VM that is listed."""
    return f"{LIST_VM}/cloneJobs/job-{number}"


class Silent:
    """Sends nothing: creates are measured up to their commit and answer, without the broker."""

    def steps(self, job_id: str, epoch: int, first: int, kinds: tuple[str, ...]) -> bool:
        """Sent, as far as the service knows."""
        return True

    def cleanup(self, job_id: str, epoch: int) -> bool:
        """Sent, as far as the service knows."""
        return True


def make_runtime(database: str, folder: Path, publisher: Publisher) -> Runtime:
    """What a service needs, as ``worker.composition`` puts it together."""
    engine = make_engine(database)
    migrate.upgrade(engine)
    return Runtime(
        store=JobStore(engine),
        catalog=Catalog(engine),
        snapshots=FileSnapshotStore(folder / "snapshots"),
        evidence=EvidenceStore(folder / "evidence"),
        targets={"simulated": SimulatedTarget(folder / "target")},
        publisher=publisher,
        page_token_key=b"of the benchmark, and of no use elsewhere",
    )


# The server processes


def _serve(options: dict[str, str]) -> None:
    publisher: Publisher = Silent()
    if options["broker"]:
        from celery import Celery

        from tasks.chain import CeleryPublisher

        publisher = CeleryPublisher(Celery(broker=options["broker"], set_as_current=False))
    runtime = make_runtime(options["database"], Path(options["folder"]), publisher)
    # As in production: a line per call is made and written.
    logging.basicConfig(filename=str(Path(options["folder"]) / "server.log"), level=logging.INFO)
    with _profiled(options["profile"]):
        asyncio.run(_until_told(Services(runtime)))


def _same_stack(options: dict[str, str]) -> None:
    """Our own two front ends, with everything that they do for a call, and behind them a constant instead of a job."""
    for method in METHODS:
        if method.rpc == "GetCloneJob":
            object.__setattr__(method, "handler", lambda _services, _request: _CONSTANT)
            object.__setattr__(method, "polled", False)  # there is nothing that could be read together
    _serve(options)


async def _until_told(services: Services) -> None:
    leave = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leave.set)
    await serve(
        services, rest_host="127.0.0.1", rest_port=0, grpc_host="127.0.0.1", grpc_port=0,
        on_ready=lambda rest, grpc_: print(json.dumps({"rest": rest, "grpc": grpc_}), flush=True), should_exit=leave,
    )  # fmt: skip


@contextlib.contextmanager
def _profiled(path: str) -> Iterator[None]:
    """All threads under cProfile, which is what the figures are then not good for."""
    if not path:
        yield
        return
    import cProfile
    import pstats
    import threading

    profiles: list[cProfile.Profile] = []
    run = threading.Thread.run

    def profiled(self: threading.Thread) -> None:
        profile = cProfile.Profile()
        profiles.append(profile)
        profile.runcall(run, self)

    threading.Thread.run = profiled  # type: ignore[method-assign]
    main = cProfile.Profile()
    profiles.append(main)
    main.enable()
    yield
    main.disable()
    for name, some in (("loop", profiles[:1]), ("threads", profiles[1:])):
        found = [each for each in some if each.getstats()]
        if found:
            with Path(f"{path}.{name}").open("w") as file:
                stats = pstats.Stats(found[0], stream=file)
                for each in found[1:]:
                    stats.add(each)
                stats.sort_stats("tottime").print_stats(60)
                stats.sort_stats("cumtime").print_stats(80)


_CONSTANT = v1.CloneJob.pb()(name=job_name(0), state="ACTIVE")
_CONSTANT.create_time.FromSeconds(1767225600)
_CONSTANT.state_time.FromSeconds(1767225600)
json_format.ParseDict({"vmName": "clone", "project": "simulated", "machineType": "e2-small", "labels": {"env": "test"}},
                      _CONSTANT.compute_engine_target_details)  # fmt: skip
_RAW: bytes = _CONSTANT.SerializeToString()
_JSON = json.dumps(json_format.MessageToDict(_CONSTANT), separators=(",", ":")).encode()


class _Constant(grpc.GenericRpcHandler):  # type: ignore[misc,unused-ignore]
    def __init__(self) -> None:
        self._handler = grpc.unary_unary_rpc_method_handler(self._answer)

    def service(self, handler_call_details: Any) -> Any:
        return self._handler

    async def _answer(self, _raw: bytes, _context: Any) -> bytes:
        return _RAW


async def _constant_app(_scope: Any, receive: Any, send: Any) -> None:
    await receive()
    headers = [(b"content-length", str(len(_JSON)).encode()), (b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": _JSON})


async def _plain() -> None:
    options = [("grpc.so_reuseport", 0), *grpc_options(Limits(), MAX_REQUEST_BYTES)]
    server = grpc.aio.server(options=options, maximum_concurrent_rpcs=2000)
    server.add_generic_rpc_handlers((_Constant(),))
    grpc_port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # as api.server, or Nagle waits
    listener.bind(("127.0.0.1", 0))
    listener.listen(1024)
    print(json.dumps({"rest": listener.getsockname()[1], "grpc": grpc_port}), flush=True)
    await uvicorn.Server(
        uvicorn.Config(_constant_app, http=bounded_protocol(Limits()), lifespan="off", ws="none", log_config=None,
                       access_log=False, server_header=False, proxy_headers=False, timeout_keep_alive=75)
    ).serve(sockets=[listener])  # fmt: skip


# The client process


def _client() -> None:
    for line in sys.stdin:
        work = json.loads(line)
        calls = [_call(work, number) for number in range(work["first"], work["first"] + work["distinct"])]
        measured = _over_rest if work["via"] == "rest" else _over_grpc
        print(json.dumps(measured(work, calls)), flush=True)


Call = tuple[str, bytes, bytes]  # the RPC, its message, and the same as an HTTP/1.1 request


def _call(work: dict[str, Any], number: int) -> Call:
    match work["what"]:
        case "create":
            parent = vm_name(number)
            message = v1.CreateCloneJobRequest.pb()(parent=parent, clone_job_id="c")
            return (
                "CreateCloneJob",
                message.SerializeToString(),
                _http("POST", f"{parent}/cloneJobs?cloneJobId=c", b"{}"),
            )
        case "list":
            message = v1.ListCloneJobsRequest.pb()(parent=LIST_VM, page_size=50)
            return "ListCloneJobs", message.SerializeToString(), _http("GET", f"{LIST_VM}/cloneJobs?pageSize=50")
        case _:
            name = job_name(number)
            return "GetCloneJob", v1.GetCloneJobRequest.pb()(name=name).SerializeToString(), _http("GET", name)


def _http(verb: str, path: str, body: bytes = b"") -> bytes:
    lines = [f"{verb} /v1/{path} HTTP/1.1", "Host: localhost", "Accept: application/json"]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


class _Turns:
    """Which call comes next: each once if no time is set, else in turns until the time is up."""

    def __init__(self, work: dict[str, Any], calls: list[Call]) -> None:
        self.done = 0
        self.latencies: list[float] = []
        self._next = itertools.cycle(calls) if work["seconds"] else iter(calls)
        self._until = time.perf_counter() + (work["seconds"] or float("inf"))

    def take(self) -> Call | None:
        return next(self._next, None) if time.perf_counter() < self._until else None

    def ended(self, started: float) -> None:
        self.done += 1
        self.latencies.append(time.perf_counter() - started)

    def result(self, started: float) -> dict[str, float]:
        took = time.perf_counter() - started
        ordered = sorted(self.latencies)
        return {"calls": self.done, "per_s": self.done / took, "p50_ms": 1000 * ordered[len(ordered) // 2],
                "p99_ms": 1000 * ordered[int(len(ordered) * 0.99)]}  # fmt: skip


def _over_rest(work: dict[str, Any], calls: list[Call]) -> dict[str, float]:
    """Keep-alive connections on one selector, so that the client costs next to nothing."""
    poll = select.epoll()
    open_: dict[int, tuple[socket.socket, bytearray, float]] = {}
    with contextlib.ExitStack() as stack:
        connections = [
            stack.enter_context(socket.create_connection(("127.0.0.1", work["port"])))
            for _ in range(work["connections"])
        ]
        turns, started = _Turns(work, calls), time.perf_counter()

        def send(connection: socket.socket) -> None:
            call = turns.take()
            if call is None:
                open_.pop(connection.fileno(), None)
                poll.unregister(connection)
                return
            open_[connection.fileno()] = (connection, bytearray(), time.perf_counter())
            connection.sendall(call[2])

        for connection in connections:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            poll.register(connection, select.EPOLLIN)
            send(connection)
        while open_:
            for number, _ in poll.poll(30):
                connection, buffer, begun = open_[number]
                buffer += connection.recv(1 << 20)
                if _complete(buffer):
                    turns.ended(begun)
                    send(connection)
        return turns.result(started)


def _complete(buffer: bytearray) -> bool:
    head, found, body = buffer.partition(b"\r\n\r\n")
    if not found:
        return False
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"the service answered {bytes(buffer[:1000])!r}")
    length = int(bytes(head).lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return len(body) >= length


def _over_grpc(work: dict[str, Any], calls: list[Call]) -> dict[str, float]:
    async def one(channel: grpc.aio.Channel, turns: _Turns) -> None:
        rpc = channel.unary_unary(_SERVICE + calls[0][0])
        while (call := turns.take()) is not None:
            begun = time.perf_counter()
            await rpc(call[1], timeout=30)
            turns.ended(begun)

    async def all_of_them() -> dict[str, float]:
        options = [("grpc.use_local_subchannel_pool", 1)]  # else all channels share one connection
        async with contextlib.AsyncExitStack() as stack:
            channels = [
                await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{work['port']}", options=options))
                for _ in range(work["connections"])
            ]
            await asyncio.gather(*(channel.channel_ready() for channel in channels))
            turns, started = _Turns(work, calls), time.perf_counter()
            await asyncio.gather(*(one(channel, turns) for channel in channels))
            return turns.result(started)

    return asyncio.run(all_of_them())


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", options]:
            _serve(json.loads(options))
        case ["same_stack", options]:
            _same_stack(json.loads(options))
        case ["plain"]:
            asyncio.run(_plain())
        case ["client"]:
            _client()
        case _:
            sys.exit(__doc__)
