"""Producers: submit and cancel at random through the official client, over gRPC and REST, as stubborn users do.

A request whose fate is unknown (no answer, UNAVAILABLE, a deadline) is sent again under the same request id.
"""

from __future__ import annotations

import contextlib
import heapq
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import httpx
import requests
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import vmmigration_v1
from google.cloud.vmmigration_v1.services.vm_migration import transports

from worker.settings import Settings

PARENT = "projects/clonejob/locations/global"
SOURCE = f"{PARENT}/sources/s"
_TIMEOUT_S = 4.0
_PATIENCE_S = 45.0
_REFUSED = {"FAILED_PRECONDITION", "ABORTED", "INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS"}
_BLOCK = b"\0" * 510 + b"\x55\xaa"


class Refused(Exception):
    """A definite no; ``args[0]`` is the status."""


@dataclass
class Book:
    """What clients were told."""

    accepted: dict[str, str] = field(default_factory=dict)  # request id -> job
    refused: set[str] = field(default_factory=set)  # jobs whose creation was refused at the first try
    cancels: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)  # promises that were not kept (R7)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, method: str, status: str) -> None:
        """Count an answer."""
        with self.lock:
            self.answers[f"{method}: {status}"] += 1


def client_of(settings: Settings, transport: str) -> vmmigration_v1.VmMigrationClient:
    """The official client on one of its transports."""
    if transport == "grpc":
        options = [("grpc.max_reconnect_backoff_ms", 1000), ("grpc.use_local_subchannel_pool", 1)]
        channel = grpc.insecure_channel(settings.grpc_address, options=options)
        return vmmigration_v1.VmMigrationClient(transport=transports.VmMigrationGrpcTransport(channel=channel))
    return vmmigration_v1.VmMigrationClient(
        transport=transports.VmMigrationRestTransport(
            host=settings.rest_url.removeprefix("http://"), url_scheme="http", credentials=AnonymousCredentials()
        )
    )


def import_vms(settings: Settings, names: list[str]) -> list[str]:
    """VMs with one successful cycle each, every third with two disks; their resource names."""
    with httpx.Client(base_url=settings.rest_url, timeout=30, trust_env=False) as http:

        def ask(answer: httpx.Response) -> Any:
            answer.raise_for_status()
            return answer.json()

        if http.get(f"/v1/{SOURCE}").status_code == 404:
            ask(http.post(f"/v1/{PARENT}/sources?sourceId=s", json={}))
        defaults = {"computeEngineTargetDefaults": {"targetProject": f"{PARENT}/targetProjects/simulated"}}
        for number, name in enumerate(names):
            ask(http.post(f"/v1/{SOURCE}/migratingVms?migratingVmId={name}", json=defaults))
            vm = f"{SOURCE}/migratingVms/{name}"
            cycle = ask(http.post(f"/clonejob/v1/{vm}/replicationCycles", json={}))["name"]
            for disk in range(2 if number % 3 == 0 else 1):
                ask(http.put(f"/clonejob/v1/{cycle}/disks/{disk}?format=raw", content=_BLOCK))
            ask(http.post(f"/clonejob/v1/{cycle}:finish", json={}))
    return [f"{SOURCE}/migratingVms/{name}" for name in names]


class User:
    """One client that does not give up."""

    def __init__(
        self, settings: Settings, transport: str, book: Book, rng: random.Random, stop: threading.Event
    ) -> None:
        self._client = client_of(settings, transport)
        self._book = book
        self._rng = rng
        self._stop = stop

    def close(self) -> None:
        """Close its connections."""
        self._client.transport.close()

    def create(self, vm: str, job_id: str) -> str | None:
        """Submit; the job's name, or None if it was refused or nobody answered in time."""
        name = f"{vm}/cloneJobs/{job_id}"
        request = vmmigration_v1.CreateCloneJobRequest(
            parent=vm, clone_job_id=job_id, clone_job={}, request_id=str(uuid.UUID(int=self._rng.getrandbits(128), version=4))
        )  # fmt: skip
        tries = 0

        def send() -> str:
            nonlocal tries
            tries += 1
            return str(self._client.create_clone_job(request, timeout=_TIMEOUT_S, retry=None).operation.name)

        try:
            operation = self._insist("create", send)
        except Refused as no:
            if no.args[0] == "ALREADY_EXISTS":
                self._book.broken.append(f"{name}: its own request, sent again, was told that it exists already")
            elif tries == 1:
                self._book.refused.add(name)
            return None
        if operation is None:
            return None
        self._book.accepted[request.request_id] = name
        if self._rng.random() < 0.15:
            try:
                again = self._insist("create again", send)
            except Refused as no:
                again = no.args[0]
            if again not in (None, operation):
                self._book.broken.append(f"request {request.request_id} of {name}: {operation}, then {again}")
        return name

    def cancel(self, name: str) -> bool:
        """Cancel; whether it was accepted."""
        try:
            done = self._insist(
                "cancel",
                lambda: self._client.cancel_clone_job(name=name, timeout=_TIMEOUT_S, retry=None).operation.name,
            )
        except Refused as no:
            if no.args[0] == "NOT_FOUND":
                self._book.broken.append(f"{name} was accepted, and a cancel does not find it")
            self._book.cancels["too late" if no.args[0] == "FAILED_PRECONDITION" else no.args[0]] += 1
            return False
        self._book.cancels["accepted" if done else "no answer"] += 1
        return done is not None

    def _insist(self, method: str, send: Callable[[], str]) -> str | None:
        """Send until something definite comes back; None when patience ends. Raises: Refused."""
        ends_at = time.monotonic() + _PATIENCE_S
        pause_s = 0.1
        while True:
            try:
                answer = send()
                self._book.note(method, "OK")
                return answer
            except (exceptions.GoogleAPICallError, requests.RequestException) as error:
                status = status_of(error)
                self._book.note(method, status)
                if status in _REFUSED:
                    raise Refused(status) from error
            if time.monotonic() > ends_at or self._stop.wait(pause_s * self._rng.uniform(0.5, 1.5)):
                return None
            pause_s = min(2 * pause_s, 2.0)


def status_of(error: Exception) -> str:
    """The google.rpc.Code's name; over REST api_core knows HTTP's statuses only, which are fewer."""
    if isinstance(error, exceptions.GoogleAPICallError):
        if error.grpc_status_code is not None:
            return str(error.grpc_status_code.name)
        if isinstance(error.response, requests.Response):
            with contextlib.suppress(ValueError, KeyError, TypeError):
                return str(error.response.json()["error"]["status"])
    return type(error).__name__


class Producer(threading.Thread):
    """Submits at its pace, and cancels: at once, soon, late, twice."""

    def __init__(
        self,
        number: int,
        seed: int,
        vms: list[str],
        settings: Settings,
        book: Book,
        stop: threading.Event,
        pause_s: float,
    ) -> None:
        super().__init__(name=f"producer-{number}", daemon=True)
        self.error = ""
        self._number = number
        self._rng = random.Random(f"{seed}-{number}")
        self._vms = vms
        self._pause_s = pause_s
        self._stop_asked = stop
        self._user = User(settings, ("grpc", "rest")[number % 2], book, self._rng, stop)
        self._due: list[tuple[float, str]] = []

    def run(self) -> None:
        """Until told to stop."""
        try:
            self._produce()
        except Exception as error:
            self.error = f"{self.name}: {error!r}"
        finally:
            self._user.close()

    def _produce(self) -> None:
        count = 0
        next_at = time.monotonic()
        while not self._stop_asked.wait(0.02):
            now = time.monotonic()
            if self._due and self._due[0][0] <= now:
                self._user.cancel(heapq.heappop(self._due)[1])
            elif now >= next_at:
                count += 1
                name = self._user.create(self._rng.choice(self._vms), f"p{self._number}-{count}")
                if name is not None:
                    self._plan_cancels(name)
                next_at = time.monotonic() + self._rng.expovariate(1 / self._pause_s)

    def _plan_cancels(self, name: str) -> None:
        rng = self._rng
        if rng.random() < 0.5:
            return
        after_s = rng.choice((0.0, rng.uniform(0, 0.5), rng.uniform(0, 3), rng.uniform(2, 12)))
        heapq.heappush(self._due, (time.monotonic() + after_s, name))
        if rng.random() < 0.3:
            heapq.heappush(self._due, (time.monotonic() + after_s + rng.choice((0.0, rng.uniform(0, 4))), name))
