"""``clonejob doctor``: looks at everything that a clone needs, and says of what is wrong what to do about it."""

from __future__ import annotations

import datetime as dt
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from targets.qemu_options import QemuOptions
from worker.doctor_check import QEMU, Check, Status
from worker.doctor_targets import target_checks
from worker.service_file import read_service
from worker.settings import Settings, redact_url, unknown_variables

if TYPE_CHECKING:
    import sqlalchemy as sa

_SCRATCH_MIN_BYTES = 1 << 30  # less is a warning
_SERVICE_MIN_BYTES = 64 << 20  # with less, database and broker may stop at any moment


@dataclass(frozen=True, slots=True)
class Report:
    """All findings, with the settings as they may be shown."""

    settings: dict[str, Any]
    checks: list[Check]

    @property
    def ok(self) -> bool:
        """Nothing failed."""
        return all(check.status != "fail" for check in self.checks)

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {"ok": self.ok, "settings": self.settings, "checks": [asdict(check) for check in self.checks]}

    def lines(self, *, settings: bool = False) -> Iterator[str]:
        """For people: the checks, and if asked for, the settings."""
        yield "checks"
        for check in self.checks:
            yield f"  {check.status:<4}  {check.name}: {check.detail}" + (f" -> {check.action}" if check.action else "")
        if settings:
            yield "settings (CLONEJOB_...)"
            yield from (f"  {name} = {value}" for name, value in self.settings.items())


def examine(settings: Settings) -> Report:
    """Make every check; what a check did not foresee is a finding too."""
    service = read_service(settings.data_dir)
    if service is not None:
        found = {name: service[name] for name in ("broker_url", "database_url")}
        settings = settings.model_copy(update={k: v for k, v in found.items() if k not in settings.model_fields_set})
    running = service is not None
    probes: dict[str, Callable[[], Iterator[Check]]] = {
        "environment": _environment,
        "programs": lambda: _programs(settings),
        "data folder": lambda: _data_dir(settings),
        "service": lambda: _service(settings, service),
        "database": lambda: _database(settings),
        "broker": lambda: _broker(settings, running=running),
        "workers": lambda: _workers(settings, running=running),
        "targets": lambda: target_checks(settings),
    }
    checks = [check for name, probe in probes.items() for check in _guarded(name, probe)]
    return Report(settings.redacted(), checks)


def _guarded(name: str, probe: Callable[[], Iterator[Check]]) -> list[Check]:
    try:
        return list(probe())
    except Exception as error:  # noqa: BLE001
        # A doctor that dies of what it finds is of no use: the finding is the error.
        return [Check(name, "fail", f"{type(error).__name__}: {_first_line(error)}", "look at this part first")]


def _environment() -> Iterator[Check]:
    for name in unknown_variables():
        yield Check("environment", "warn", f"{name} is read by no setting", "check its spelling, or unset it")


def _programs(settings: Settings) -> Iterator[Check]:
    yield Check("python", "ok", platform.python_version())
    for package in ("celery", "kombu", "redis"):
        yield Check(package, "ok", metadata.version(package))
    # With a vmhost the machines' programs are in its container.
    needed = any(
        isinstance(each.options, QemuOptions) and not each.options.vmhost for each in settings.targets.values()
    )
    for program in (QEMU, "qemu-img"):
        path = shutil.which(program)
        if path is None:
            action = "install QEMU (Debian: apt-get install qemu-system-x86 qemu-utils)"
            yield Check(program, "fail" if needed else "warn", "is not on the PATH", action)
        else:
            yield Check(program, "ok", f"{_version(path)} at {path}")


def _version(program: str) -> str:
    answer = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=True)
    return answer.stdout.splitlines()[0]


def _data_dir(settings: Settings) -> Iterator[Check]:
    folder = settings.data_dir
    if not folder.exists():
        yield Check("data folder", "warn", f"{folder} does not exist yet", "`clonejob up` makes it")
        return
    if not os.access(folder, os.W_OK | os.X_OK):
        yield Check("data folder", "fail", f"{folder} cannot be written", "change its owner, or choose --data-dir")
        return
    yield Check("data folder", "ok", str(folder))
    free_bytes = shutil.disk_usage(folder).free
    status: Status = "fail" if free_bytes < _SERVICE_MIN_BYTES else "warn" if free_bytes < _SCRATCH_MIN_BYTES else "ok"
    action = "" if status == "ok" else "make room: delete clones that nobody needs (`clonejob instance list`)"
    yield Check("free space", status, f"{_size(free_bytes)} on the disk of {folder}", action)


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 1 << 30 else f"{count / 2**20:.1f} MiB"


def _service(settings: Settings, service: dict[str, Any] | None) -> Iterator[Check]:
    import httpx

    from worker.access import trusted

    if service is None and "server" not in settings.model_fields_set:
        yield Check(
            "service", "warn", "no `clonejob up` runs in the data folder", "start it, or name one with --server"
        )
        return
    address = settings.server
    try:
        answer = httpx.get(f"{address}/healthz", timeout=5.0, verify=trusted(settings))
    except httpx.TransportError as error:
        yield Check("service", "fail", f"{address} does not answer ({_first_line(error)})", "look into its api.log")
        return
    if service is not None and not service.get("ready", True):
        yield Check("service", "warn", f"{address} answers, but is still starting", "wait a little")
        return
    healthy = answer.status_code == httpx.codes.OK
    detail = f"{address} answers" if healthy else f"{address} answers HTTP {answer.status_code}"
    yield Check("service", "ok" if healthy else "fail", detail, "" if healthy else "look into its api.log")


def _database(settings: Settings) -> Iterator[Check]:
    import sqlalchemy as sa

    from models.db import make_engine
    from models.migrate import current, head

    shown = redact_url(settings.database_url)
    file = sa.make_url(settings.database_url).database if settings.database_url.startswith("sqlite") else None
    if file and not Path(file).exists():
        yield Check(
            "database", "warn", f"{shown} does not exist yet", "`clonejob up` or `clonejob db upgrade` makes it"
        )
        return
    engine = make_engine(settings.database_url)
    try:
        found, expected = current(engine), head()
        if found != expected:
            detail = f"{shown}, schema {found}, expected {expected}"
            yield Check("database", "fail", detail, "run `clonejob db upgrade`")
            return
        yield Check("database", "ok", f"{shown}, schema {found}")
        yield _jobs(engine)
    except sa.exc.SQLAlchemyError as error:
        reason = _first_line(getattr(error, "orig", None) or error)
        stuck = "end the stopped process (state T in `ps`) that holds its lock; `clonejob up` does so by itself"
        remedy = stuck if "locked" in reason else "check CLONEJOB_DATABASE_URL"
        yield Check("database", "fail", f"{shown} does not answer ({reason})", remedy)
    finally:
        engine.dispose()


def _jobs(engine: sa.Engine) -> Check:
    """How many jobs have not ended, and the clean-up that has been waiting longest."""
    import sqlalchemy as sa

    from models.schema import CloneJob
    from worker.cli.context import short_name

    waiting = (
        sa.select(CloneJob.name, CloneJob.verdict_time, CloneJob.cleanup_detail)
        .where(
            CloneJob.end_time.is_(None),
            CloneJob.cleanup_detail.is_not(None),
            sa.or_(CloneJob.lease_owner.is_(None), CloneJob.cleanup_start_time.is_(None)),
        )
        .order_by(CloneJob.verdict_time)
    )
    with engine.connect() as connection:
        unfinished = connection.scalar(sa.select(sa.func.count()).where(CloneJob.end_time.is_(None)))
        stuck = connection.execute(waiting).all()
    if not stuck:
        return Check("jobs", "ok", f"{unfinished} unfinished, no clean-up waits")
    name, since, reason = stuck[0]
    name = short_name(name)
    ago = f" for {(dt.datetime.now(dt.UTC) - since).total_seconds():.0f} s" if since else ""
    return Check("jobs", "warn", f"{unfinished} unfinished, {len(stuck)} wait with their clean-up; "
                 f"the oldest, {name},{ago}: {reason}", f"mend what it names; it is tried again by itself (`clonejob show {name}`)")  # fmt: skip


def _broker(settings: Settings, *, running: bool) -> Iterator[Check]:
    if not settings.broker_url:
        yield _embedded_broker()
        return
    shown = redact_url(settings.broker_url)
    if not settings.broker_url.startswith(("redis://", "rediss://")):
        yield Check("broker", "ok", f"{shown}: only its workers are checked, not its queues")
        return
    import redis

    from worker.health import read_broker_health, redis_client

    client = redis_client(settings.broker_url)
    try:
        health = read_broker_health(client)
    except redis.RedisError as error:
        action = "look into broker.log" if running else "check CLONEJOB_BROKER_URL"
        yield Check("broker", "fail", f"{shown} does not answer ({_first_line(error)})", action)
        return
    finally:
        client.close()
    yield Check("broker", "ok", f"{shown}, version {health.version}, {health.used_memory_bytes / 2**20:.1f} MiB used")
    yield from (Check("broker", "warn", *problem.split("; ", 1)) for problem in health.problems)
    depths = ", ".join(f"{queue} {depth}" for queue, depth in health.queue_depths.items())
    yield Check("queues", "ok", f"{depths}; unacknowledged {health.unacked}")


def _embedded_broker() -> Check:
    from worker.broker import BrokerError, find_server

    try:
        return Check("broker", "ok", f"embedded, not running; `clonejob up` runs {find_server()}")
    except BrokerError as error:
        detail, _, action = str(error).partition("; ")
        return Check("broker", "fail", detail, action)


def _workers(settings: Settings, *, running: bool) -> Iterator[Check]:
    if not settings.broker_url:
        return
    import kombu.exceptions

    from worker.health import ping_workers

    try:
        names = ping_workers(settings.broker_url, timeout_s=1.0)
    except (OSError, kombu.exceptions.OperationalError) as error:
        yield Check("workers", "fail", f"cannot be asked ({_first_line(error)})", "see the broker")
        return
    if names:
        yield Check("workers", "ok", ", ".join(names))
    else:
        action = "look into worker-*.log" if running else "start `clonejob worker`"
        yield Check("workers", "fail", "none answers", action)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
