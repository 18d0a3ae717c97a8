"""``clonejob up``: the whole service in the foreground, with no server to install.

Order: settings, data folder and its lock, ports, broker, database, workers and API, readiness, target projects; then
one line that starts with ``ready``. On SIGTERM or SIGINT the same backwards: API, workers, broker. Cloned VMs live on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from worker import broker as embedded
from worker.freezes import FreezeWatch
from worker.service_file import ServiceFile, lock_data_dir
from worker.settings import Settings, child_command, child_environment, load_settings
from worker.supervisor import ChildFailed, ChildSpec, Supervisor

log = logging.getLogger("clonejob.up")

API = "api"
STEPS = "steps"
CONTROL = "control"
READY_TIMEOUT_S = 120.0
_LOOK_S = 0.1


__all__ = ["ChildFailed", "ChildSpec", "UpError", "child_specs", "main", "run", "with_ports"]


class UpError(Exception):
    """The service cannot start; the message says why and what to do."""


class _Stopped(Exception):
    """A signal asked to stop before the service was ready."""


class _Signals:
    """SIGTERM and SIGINT, remembered; the second one means: hurry."""

    def __init__(self) -> None:
        self.count = 0

    def install(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, *_: Any) -> None:
        self.count += 1


def run(settings: Settings, *, announce: Callable[[str], None] = print) -> None:
    """Run the service until a signal ends it.

    Raises: UpError, DataDirInUse, BrokerError or ChildFailed when it cannot start.
    """
    signals = _Signals()
    signals.install()
    made = _make_data_dir(settings.data_dir)
    with lock_data_dir(settings.data_dir):
        try:
            settings = with_ports(settings)
        except UpError:
            if made:
                shutil.rmtree(settings.data_dir)  # nothing half-made: it holds the lock file only
            raise
        service = ServiceFile(settings)
        supervisor = Supervisor(on_change=lambda: service.write(supervisor.pids()))
        try:
            with contextlib.suppress(_Stopped):
                _start(settings, service, supervisor, signals)
                announce(_ready_line(settings))
                freezes = FreezeWatch(settings.freeze_limit_s)
                while not signals.count:
                    freezes.look(supervisor.pids().values())
                    supervisor.tend()
                    time.sleep(_LOOK_S)
        finally:
            log.info("stopping")
            asked = signals.count
            supervisor.stop([API], [STEPS, CONTROL], [embedded.NAME], hurry=lambda: signals.count > asked)
            service.remove()


def with_ports(settings: Settings) -> Settings:
    """The settings with every port that is 0 replaced by a free one. Raises: UpError when a port is in use."""
    ports: dict[str, int] = {}
    with contextlib.ExitStack() as held:
        for front in ("rest", "grpc"):
            host, port = getattr(settings, f"{front}_host"), getattr(settings, f"{front}_port")
            probe = held.enter_context(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET))
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
                probe.listen()
            except OSError as error:
                raise UpError(
                    f"port {port} on {host} is in use; choose another with --{front}-port ({error.strerror})."
                ) from None
            ports[f"{front}_port"] = probe.getsockname()[1]
    return settings.model_copy(update=ports)


def child_specs(settings: Settings) -> list[ChildSpec]:
    """The API and the two workers; the steps run in processes, decisions and clean-up in threads."""
    env = child_environment(settings)
    logs = settings.data_dir / "logs"
    celery = child_command("celery", "-A", "worker.app", "worker", "--loglevel", settings.log_level)
    steps = ["-n", f"{STEPS}@%h", "-Q", "disks,adapt,instances", "-c", str(settings.workers), "--pool", "prefork"]
    control = ["-n", f"{CONTROL}@%h", "-Q", "control,cleanup", "-c", "4", "--pool", "threads"]
    # A worker whose supervisor was killed has no broker either, and every gentler end of Celery's waits for one: it is
    # killed, as the power going off would do; leases and the reconciler are made for that. Its pool children die with
    # it (worker/app.py).
    return [
        ChildSpec(STEPS, [*celery, *steps], logs / "worker-steps.log", env, signal.SIGKILL),
        ChildSpec(CONTROL, [*celery, *control], logs / "worker-control.log", env, signal.SIGKILL),
        ChildSpec(API, child_command("worker.cli", "api"), logs / "api.log", env),
    ]


def _start(settings: Settings, service: ServiceFile, supervisor: Supervisor, signals: _Signals) -> None:
    def tend() -> None:
        if signals.count:
            raise _Stopped
        supervisor.tend()

    if not settings.broker_url:
        broker = embedded.prepare_broker(settings.data_dir)
        settings = settings.model_copy(update={"broker_url": broker.url})
        service.settings = settings
        supervisor.start(broker.spec)
        embedded.wait_until_ready(broker.url, tend=tend)
    _upgrade_database(settings)
    for spec in child_specs(settings):
        supervisor.start(spec)
    _wait_until_ready(settings, tend)
    _seed_target_projects(settings, tend)
    supervisor.mark_ready()
    service.ready = True
    service.write(supervisor.pids())


def _upgrade_database(settings: Settings) -> None:
    from worker.composition import upgrade_database

    upgrade_database(settings)


def _wait_until_ready(settings: Settings, tend: Callable[[], None]) -> None:
    """Wait for /healthz and for the answer of both workers."""
    waiting_for: dict[str, Callable[[], bool]] = {
        "the API": lambda: _healthy(settings),
        "the workers": lambda: _workers_answer(settings),
    }
    deadline = time.monotonic() + READY_TIMEOUT_S
    while waiting_for:
        tend()
        for what in [what for what, ready in waiting_for.items() if ready()]:
            del waiting_for[what]
        if time.monotonic() > deadline:
            raise UpError(
                f"{' and '.join(waiting_for)} did not answer within {READY_TIMEOUT_S:.0f} s; "
                f"look into {settings.data_dir / 'logs'}."
            )
        time.sleep(_LOOK_S)


def _healthy(settings: Settings) -> bool:
    import httpx

    from worker.access import own_certificate

    try:
        answer = httpx.get(
            f"{settings.rest_url}/healthz", timeout=2.0, trust_env=False, verify=own_certificate(settings)
        )
    except httpx.TransportError:
        return False
    return answer.status_code == httpx.codes.OK


def _workers_answer(settings: Settings) -> bool:
    import kombu.exceptions

    from worker.health import ping_workers

    try:
        names = ping_workers(settings.broker_url, timeout_s=0.3)
    except (OSError, kombu.exceptions.OperationalError):
        return False
    return {STEPS, CONTROL} <= {name.partition("@")[0] for name in names}


def _seed_target_projects(settings: Settings, tend: Callable[[], None]) -> None:
    """Offer every configured target under its own name at location global; the API may ask for credentials, so not
    through it."""
    from tasks.errors import ServiceError
    from worker.composition import offer_target

    for target in settings.targets:
        tend()
        try:
            offer_target(settings, target)
        except ServiceError as error:
            raise UpError(f"target project {target} cannot be created: {error}") from None


def _ready_line(settings: Settings) -> str:
    return f"ready rest={settings.rest_url} grpc={settings.grpc_address} data={settings.data_dir}"


def _make_data_dir(data_dir: Path) -> bool:
    """Whether it is new."""
    try:
        made = not data_dir.exists()
        if made:
            data_dir.mkdir(mode=0o700, parents=True)
        if not os.access(data_dir, os.W_OK | os.X_OK) or not data_dir.is_dir():
            raise UpError(f"data folder {data_dir} is not a folder that can be written; choose another --data-dir.")
    except OSError as error:
        raise UpError(f"data folder {data_dir} cannot be made ({error.strerror}); choose another --data-dir.") from None
    return made


def log_to_stderr(level: str) -> None:
    """Log what the supervisor does."""
    logging.basicConfig(stream=sys.stderr, level=level, format="%(asctime)s clonejob %(message)s", datefmt="%H:%M:%S")
    for chatty in ("httpx", "httpcore", "alembic", "redis.connection"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def main(**overrides: Any) -> None:
    """Load the settings and run; what the command line calls."""
    settings = load_settings(**overrides)
    log_to_stderr(settings.log_level)
    run(settings, announce=lambda line: print(line, flush=True))  # noqa: T201
