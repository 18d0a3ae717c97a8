"""A real server of both front ends on free ports, over the in-memory services; one per test module."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import pathlib
import sys
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import grpc
import httpx
import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import vmmigration_v1 as v1
from google.cloud.vmmigration_v1.services.vm_migration import transports

from api.server import serve

_spec = importlib.util.spec_from_file_location("fake_services", pathlib.Path(__file__).with_name("fake_services.py"))
assert _spec is not None and _spec.loader is not None
fake_services = importlib.util.module_from_spec(_spec)
sys.modules["fake_services"] = fake_services
_spec.loader.exec_module(fake_services)

LOCATION = "projects/p/locations/l"


class Server(NamedTuple):
    """A running server."""

    fake: Any
    rest_port: int
    grpc_port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.rest_port}"


class Running:
    """``serve`` in a thread of its own."""

    def __init__(self, fake: Any, **ports: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._exit = asyncio.Event()
        self._ready = threading.Event()
        self.ports: tuple[int, int] = (0, 0)
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(fake, ports), daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    def _run(self, fake: Any, ports: dict[str, int]) -> None:
        def on_ready(rest: int, grpc_: int) -> None:
            self.ports = (rest, grpc_)
            self._ready.set()

        try:
            self._loop.run_until_complete(
                serve(fake, rest_host="127.0.0.1", rest_port=ports.get("rest_port", 0), grpc_host="localhost",
                      grpc_port=ports.get("grpc_port", 0), on_ready=on_ready, should_exit=self._exit)
            )  # fmt: skip
        except BaseException as error:
            self.error = error
        finally:
            self._loop.close()
            self._ready.set()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._exit.set)
        self._thread.join(15)
        assert not self._thread.is_alive()


@pytest.fixture(scope="session")
def running() -> Iterator[tuple[Running, Any]]:
    fake = fake_services.FakeServices()
    server = Running(fake)
    yield server, fake
    server.stop()
    assert server.error is None
    gc.collect()  # finalisers that import modules crash Python 3.11 if they run while pytest parses another one


@pytest.fixture
def server(running: tuple[Running, Any]) -> Server:
    """The running server with empty tables."""
    process, fake = running
    fake.__init__()
    return Server(fake, *process.ports)


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=20) as client:
        yield client


@pytest.fixture(params=["grpc", "rest"])
def client(request: pytest.FixtureRequest, server: Server) -> Iterator[v1.VmMigrationClient]:
    """The official client, over both transports."""
    with make_client(request.param, server) as made:
        yield made


def make_client(transport: str, server: Server) -> v1.VmMigrationClient:
    if transport == "grpc":
        channel = grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}")
        return v1.VmMigrationClient(transport=transports.VmMigrationGrpcTransport(channel=channel))
    return v1.VmMigrationClient(
        credentials=AnonymousCredentials(), transport="rest", client_options={"api_endpoint": server.url}
    )


@pytest.fixture
def vm(server: Server) -> str:
    """A VM, straight in the tables."""
    from tasks.services import Request

    server.fake.sources.create(LOCATION, "src", {}, Request())
    _, row = server.fake.migrating_vms.create(f"{LOCATION}/sources/src", "vm", {}, Request())
    return str(row.name)


class Live(NamedTuple):
    """The real services on SQLite and the simulated target, behind a real server."""

    world: Any
    http: httpx.Client
    url: str
    ports: tuple[int, int]


@pytest.fixture
def live(tmp_path: pathlib.Path) -> Iterator[Live]:
    """A service of its own with the VM ``web-1``, which can be cloned."""
    from harness import World

    world = World(tmp_path)
    world.set_up()
    server = Running(world.services)
    url = f"http://127.0.0.1:{server.ports[0]}"
    with httpx.Client(base_url=url, timeout=20) as client:
        yield Live(world, client, url, server.ports)
    server.stop()
    world.close()
    assert server.error is None


@pytest.fixture
def place(tmp_path: pathlib.Path) -> Iterator[Any]:
    """A service that asks for credentials, with the same resources in the projects p and q."""
    from guarded import P, Place, Q
    from serving import serving

    from api.auth import Gate
    from models import migrate
    from models.access import AccessStore
    from models.db import make_engine
    from tasks.services import AccessService, Request

    engine = make_engine(f"sqlite:///{tmp_path}/db.sqlite3")
    migrate.upgrade(engine)
    access, fake = AccessService(AccessStore(engine)), fake_services.FakeServices()
    for parent in (P, Q):
        fake.sources.create(parent, "s", {}, Request())
        fake.migrating_vms.create(f"{parent}/sources/s", "vm", {}, Request())
        fake.target_projects.create(parent, "t", {"project": "local"}, Request())
        fake.clone_jobs.create(f"{parent}/sources/s/migratingVms/vm", "c1", Request())
    with serving(fake, gate=Gate(access)) as running:
        yield Place(running, access, fake)
    engine.dispose()
