"""The real services on SQLite and the simulated target behind both front ends, and every client as a process."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import datetime as dt
import fcntl
import itertools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import harness
import pytest
from conftest import missing
from google.cloud import vmmigration_v1 as v1
from google.cloud.location import locations_pb2
from google.longrunning import operations_pb2
from google.protobuf import empty_pb2, json_format
from serving import make_ca, serving

from api.auth import Gate
from api.server import Tls
from models.access import AccessStore
from tasks.runtime import Pacing
from tasks.services import AccessService, Request, Services

HERE = pathlib.Path(__file__).parent
NODE = HERE / "node"
CALLS = json.loads((HERE / "calls.json").read_text())
PYTHON = ("grpc", "grpc_asyncio", "rest")
CLIENTS = (
    *(f"python-{transport}" for transport in PYTHON),
    "python-discovery",
    "node-googleapis",
    "node-gax-grpc",
    "node-gax-rest",
    *(f"python-{transport}-tls" for transport in PYTHON),
)


class Failed(Exception):
    """What a client raised: ``code`` or ``http`` (some know one of them), ``reason``, ``details``, ``message``."""

    def __init__(self, client: str, error: dict) -> None:
        super().__init__(client, error)
        self.client = client
        self.code, self.http, self.reason = error["code"], error["http"], error["reason"]
        self.details, self.message = error["details"], error["message"]


class Client:
    """One client in a process of its own; what it gives is parsed strictly into the contract's messages."""

    def __init__(self, name: str, command: list[str], log: pathlib.Path, addresses, **environment: str) -> None:
        self.name = name
        self._log = log
        self._addresses, self._grpc, self.tls = addresses, "grpc" in name, name.endswith("-tls")
        self._at = self._where("open", self.tls, "")
        with log.open("w") as errors:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                                             text=True, env=os.environ | environment)  # fmt: skip

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def at(self, service: str = "open", *, tls: bool | None = None, token: str = "") -> Client:
        """The same process on another service, or with other credentials."""
        other = copy.copy(self)
        other._at = self._where(service, self.tls if tls is None else tls, token)
        return other

    def _where(self, service: str, tls: bool, token: str) -> dict:
        ports = self._addresses.of[service, tls]
        return {
            "endpoint": f"localhost:{ports.grpc_port if self._grpc else ports.rest_port}",
            "tls": tls,
            "token": token,
        }

    def call(self, method: str, **request):
        return _message(_response(method), self._do("call", method, request))

    def finish(self, method: str, **request):
        """Start, and wait for the operation as the client does; gives its response."""
        return _message(_contract(CALLS[method]["response"]), self._do("finish", method, request))

    def pages(self, method: str, **request) -> list:
        return [[_message(_item(method), item) for item in page] for page in self._do("pages", method, request)]

    def error(self, method: str, **request) -> Failed:
        with pytest.raises(Failed) as caught:
            self._do("call", method, request)
        return caught.value

    def _do(self, what: str, method: str, request: dict):
        try:
            command = {"do": what, "method": method, "request": request, "at": self._at}
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        assert line, f"{self.name} ended:\n{self._log.read_text()[-3000:]}"
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(self.name, answer["error"])
        return answer["result"]


def _contract(name: str):
    return getattr(v1, name).pb()


def _response(method: str):
    if method in ("DeleteOperation", "CancelOperation"):
        return empty_pb2.Empty
    if method == "GetLocation":
        return locations_pb2.Location
    if method == "GetOperation" or "response" in CALLS[method]:
        return operations_pb2.Operation
    return _contract(method.removeprefix("Get"))


def _item(method: str):
    others = {"ListOperations": operations_pb2.Operation, "ListLocations": locations_pb2.Location}
    return others.get(method) or _contract({"ListCloneJobs": "CloneJob", "ListMigratingVms": "MigratingVm"}[method])


def _message(cls, answer: dict):
    """Strict but for the ``@type`` that discovery clients leave on an operation's response."""
    return json_format.ParseDict({key: value for key, value in answer.items() if key != "@type"}, cls())


class LiveClock(harness.Clock):
    """The time of the day, moved ahead by whoever does not want to wait."""

    def __init__(self) -> None:
        self._ahead = dt.timedelta()

    @property
    def now(self) -> dt.datetime:
        return dt.datetime.now(dt.UTC) + self._ahead

    @now.setter
    def now(self, value: dt.datetime) -> None:
        self._ahead = value - dt.datetime.now(dt.UTC)

    def __call__(self) -> dt.datetime:
        return self.now


class Stage:
    """The service under test. A clone job whose id begins with ``held`` stays before its third step; the target refuses
    an instance whose name begins with ``broken``."""

    def __init__(self, world: harness.World) -> None:
        self.world = world
        self.access = AccessService(AccessStore(world.engine))
        self._numbers = itertools.count(1)
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._deliver, daemon=True)
        self._thread.start()
        self.error: BaseException | None = None

    def close(self) -> None:
        self._leave.set()
        self._thread.join(10)
        assert self.error is None, self.error

    def vm(self, project: str, vm_id: str = "web") -> str:
        """A new VM, below a source of its own, that can be cloned."""
        services, none = self.world.services, Request()
        number, location = next(self._numbers), f"projects/{project}/locations/global"
        defaults = {"targetProject": self.target_project(project)}
        source = f"{location}/sources/s-{number}"
        services.sources.create(location, f"s-{number}", {}, none)
        services.migrating_vms.create(source, vm_id, {"computeEngineTargetDefaults": defaults}, none)
        self.world.upload(f"{source}/migratingVms/{vm_id}")
        return f"{source}/migratingVms/{vm_id}"

    def token(self, project: str, role: str) -> str:
        """The secret of a new token with that role in the project."""
        return self.access.create_token(f"{role}-{next(self._numbers)}", project=project, role=role).secret

    def target_project(self, project: str) -> str:
        location, number = f"projects/{project}/locations/global", next(self._numbers)
        body = {"project": "simulated"}
        self.world.services.target_projects.create(location, f"t-{number}", body, Request())
        return f"{location}/targetProjects/t-{number}"

    def _deliver(self) -> None:
        mail, reconciled = self.world.mail.messages, time.monotonic()
        try:
            while not self._leave.wait(0.005):
                while mail and not self._leave.is_set():
                    message = mail.pop(0)
                    if not self._held(*message):
                        self.world.deliver(message)
                if time.monotonic() - reconciled > 0.25:
                    self.world.reconcile()
                    reconciled = time.monotonic()
        except BaseException as error:
            self.error = error
            raise

    def _held(self, kind: str, job_id: str, _epoch: int, position: int = 0) -> bool:
        return kind == "step" and position > 1 and "/cloneJobs/held" in self.world.job(job_id).name


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    pacing = Pacing(inline_wait_s=0.0, poll_s=0.01, cleanup_pause_s=0.05, retry_pause_s=0.05)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harness, "Clock", LiveClock)
        world = harness.World(tmp_path_factory.mktemp("stage"), pacing=pacing)
    world.target.add_fault(op="create", fault="refuse", kind="instance", name="broken-*", times=None)
    stage = Stage(world)
    yield stage
    stage.close()
    world.close()


@pytest.fixture(scope="module")
def addresses(stage, tmp_path_factory):
    """The front ends, in plaintext and with TLS: ``open`` to everybody, ``guarded`` by tokens, and with create operations
    that are ``finished`` with their job; all on the same rows."""
    files = make_ca(tmp_path_factory.mktemp("tls"), "localhost")
    world, of = stage.world, {}
    finished = Services(dataclasses.replace(world.runtime, create_operation_ends_with_job=True))
    with contextlib.ExitStack() as stack:
        for tls in (None, Tls(files.cert, files.key)):
            for name, services, gate in (("open", world.services, Gate()), ("finished", finished, Gate()),
                                         ("guarded", world.services, Gate(stage.access))):  # fmt: skip
                of[name, tls is not None] = stack.enter_context(serving(services, gate=gate, tls=tls))
        yield SimpleNamespace(of=of, trust=str(files.ca))


@pytest.fixture(scope="module")
def node() -> str:
    """The path of node, once its packages are installed as the lock says."""
    found = shutil.which("node")
    if found is None or shutil.which("npm") is None:
        missing("no node and npm, which the Node clients need")
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(re.match(r"v(\d+)", version)[1]) < 18:
        missing(f"node {version} is too old for the Node clients, which need 18")
    lock, stamp = NODE / "package-lock.json", NODE / "node_modules/.package-lock.json"
    with (NODE / "package.json").open() as guard:  # one worker installs
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.stat().st_mtime < lock.stat().st_mtime:
            command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
            done = subprocess.run(command, cwd=NODE, capture_output=True, text=True, check=False)
            if done.returncode:
                missing(f"npm ci in {NODE} failed: {done.stderr[-500:]}")
            stamp.touch()
    return found


@pytest.fixture(scope="module", params=CLIENTS)
def client(request, addresses, tmp_path_factory):
    """Each client in turn: pytest groups the tests by it, whatever their order, so that none lies idle for long."""
    log = tmp_path_factory.mktemp("client") / "log"
    with contextlib.closing(_start(request.param, addresses, log, request.getfixturevalue)) as client:
        yield client


def _start(name: str, addresses, log: pathlib.Path, fixture) -> Client:
    language, kind = name.removesuffix("-tls").split("-", 1)
    trusting = ("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "REQUESTS_CA_BUNDLE", "HTTPLIB2_CA_CERTS", "NODE_EXTRA_CA_CERTS")
    program = (
        [fixture("node"), str(NODE / "drive.js")] if language == "node" else [sys.executable, str(HERE / "drive.py")]
    )
    return Client(name, [*program, kind], log, addresses, **dict.fromkeys(trusting, addresses.trust))


@pytest.fixture
def project(client) -> str:
    """A project of the client's own."""
    return client.name.replace("_", "-")


@pytest.fixture
def vm(stage, project) -> str:
    return stage.vm(project)
