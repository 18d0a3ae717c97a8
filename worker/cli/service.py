"""Commands that run the service or a part of it: up, worker, api, db upgrade; and the doctor."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from typing import Any

import click

from worker.cli.context import Cli, common_options
from worker.cli.errors import CliError, ExitCode
from worker.cli.output import print_json

_PORT = click.IntRange(0, 65535)


@click.command()
@click.option("--rest-port", type=_PORT, help="Port of the REST front end; 0: any free port.  [default: 8080]")
@click.option("--grpc-port", type=_PORT, help="Port of the gRPC front end; 0: any free port.  [default: 8081]")
@click.option("--workers", type=click.IntRange(1, 1024), help="Processes that run steps.  [default: 2]")
@common_options
@click.pass_obj
def up(cli: Cli, rest_port: int | None, grpc_port: int | None, workers: int | None) -> None:
    """Run the whole service in the foreground, with its own broker.

    Prints one line that starts with `ready` when it serves. Ctrl-C or SIGTERM stops all it started; cloned VMs live on.
    """
    from worker import up as service
    from worker.broker import BrokerError
    from worker.service_file import DataDirInUse
    from worker.settings import SettingsError
    from worker.supervisor import ChildFailed

    try:
        service.main(
            rest_port=rest_port, grpc_port=grpc_port, workers=workers,
            data_dir=cli.data_dir, project=cli.project, location=cli.location,
        )  # fmt: skip
    except SettingsError as error:
        raise CliError(str(error), ExitCode.USAGE) from None
    except (service.UpError, BrokerError, DataDirInUse, ChildFailed) as error:
        raise CliError(str(error)) from None


@click.command()
@click.option("--queues", "-Q", metavar="Q,...", help="Queues to work on; default: all of them.")
@click.option("--pool", type=click.Choice(["prefork", "threads", "solo"]), default="prefork", show_default=True)
@click.option("--concurrency", "-c", type=click.IntRange(1, 1024), help="Tasks at once; default: setting workers.")
@click.option("--autoscale", metavar="MAX,MIN", help="Tasks at once, by need (prefork only), in place of -c.")
@click.option("--name", "-n", metavar="NAME@%h", help="Name of this worker; default: its queues, such as disks@%h.")
@common_options
@click.pass_obj
def worker(
    cli: Cli, queues: str | None, pool: str, concurrency: int | None, autoscale: str | None, name: str | None
) -> None:
    """Run one Celery worker on the broker CLONEJOB_BROKER_URL.

    Told to stop (SIGTERM), it takes no more messages, hands back what it runs and ends within seconds: a call to a
    target that is under way is waited for, up to its limit. Processes (prefork) are for what must be killable, threads
    for what waits for others. Several workers of the same queues on one machine need a --name each.
    """
    from worker.health import QUEUES
    from worker.settings import child_command, child_environment

    settings = _with_broker(cli)
    chosen = (queues or ",".join(QUEUES)).split(",")
    if unknown := sorted(set(chosen) - set(QUEUES)):
        raise CliError(f"unknown queue {', '.join(unknown)}; there are {', '.join(QUEUES)}", ExitCode.USAGE)
    command = child_command("celery", "-A", "worker.app", "worker", "--loglevel", settings.log_level)
    command += ["-Q", ",".join(chosen), "--pool", pool, *_size(pool, concurrency, autoscale, settings.workers)]
    command += ["-n", name or ("-".join(chosen) if queues else "worker") + "@%h"]
    os.execve(sys.executable, command, child_environment(settings))  # noqa: S606 - our own interpreter, no shell


def _size(pool: str, concurrency: int | None, autoscale: str | None, default: int) -> list[str]:
    """Celery's options for how many tasks run at once."""
    if pool == "solo" and (concurrency or 1) > 1:
        raise CliError("--pool solo runs one task at once; leave --concurrency out, or use threads", ExitCode.USAGE)
    if autoscale is None:
        return ["-c", str(1 if pool == "solo" else concurrency or default)]
    if pool != "prefork" or concurrency is not None:
        raise CliError("--autoscale is for --pool prefork and replaces --concurrency", ExitCode.USAGE)
    parts = autoscale.split(",")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() for part in parts):
        raise CliError(f"--autoscale {autoscale}: give two numbers, such as 8,2", ExitCode.USAGE)
    most, least = map(int, parts)
    if not 1 <= least <= most <= 1024:
        raise CliError(
            f"--autoscale {autoscale}: the first is the most, from 1 to 1024, the second the least", ExitCode.USAGE
        )
    return ["--autoscale", f"{most},{least}"]


@click.command()
@common_options
@click.pass_obj
def api(cli: Cli) -> None:
    """Run one API process (REST and gRPC) until SIGTERM."""
    from api.server import CannotListen, CannotUseTls, serve
    from worker.access import build_gate, limits_of, tls_of
    from worker.composition import build_services

    settings = _with_broker(cli)
    _log(settings.log_level)
    services = build_services(settings)
    if swept := services.cycles.sweep():
        logging.getLogger(__name__).info("removed %s abandoned parts of uploads", swept)

    def announce(rest_port: int, grpc_port: int) -> None:
        ports = {"rest_port": rest_port, "grpc_port": grpc_port}
        bound = settings.model_copy(update=ports)
        click.echo(f"serving rest={bound.rest_url} grpc={bound.grpc_address}")

    async def run() -> None:
        should_exit = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, should_exit.set)
        await serve(
            services,
            rest_host=settings.rest_host,
            rest_port=settings.rest_port,
            grpc_host=settings.grpc_host,
            grpc_port=settings.grpc_port,
            on_ready=announce,
            should_exit=should_exit,
            gate=build_gate(settings, services.access),
            tls=tls_of(settings),
            limits=limits_of(settings),
        )

    try:
        asyncio.run(run())
    except (CannotListen, CannotUseTls) as error:
        raise CliError(str(error)) from None


@click.group()
def db() -> None:
    """Look after the database."""


@db.command()
@click.option(
    "--offer-targets", is_flag=True, help="Also make the target project of each configured target, as `up` does."
)
@common_options
@click.pass_obj
def upgrade(cli: Cli, *, offer_targets: bool) -> None:
    """Bring the database to the schema of this version."""
    import sqlalchemy.exc

    from tasks.errors import ServiceError
    from worker.composition import offer_target, upgrade_database
    from worker.settings import redact_url

    settings = cli.settings
    try:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        upgrade_database(settings)
        for target in settings.targets if offer_targets else ():
            offer_target(settings, target)
    except ServiceError as error:
        raise CliError(f"target project {target} cannot be made: {error}") from None
    except (sqlalchemy.exc.SQLAlchemyError, OSError) as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise CliError(
            f"the database {redact_url(settings.database_url)} cannot be upgraded ({reason}); "
            "check CLONEJOB_DATABASE_URL and that it runs"
        ) from None
    if cli.json:
        print_json({"upgraded": True, "database": redact_url(settings.database_url)})
    else:
        click.echo(f"{redact_url(settings.database_url)} is up to date")


@click.command()
@click.option("--settings", "with_settings", is_flag=True, help="Print every setting, too.")
@common_options
@click.pass_obj
def doctor(cli: Cli, *, with_settings: bool) -> int:
    """Check settings, programs, database, broker, workers and targets; say what to do about what is wrong."""
    from worker.doctor import examine

    report = examine(cli.settings)
    if cli.json:
        print_json(report.as_json())
    else:
        for line in report.lines(settings=with_settings):
            click.echo(line)
    return ExitCode.OK if report.ok else ExitCode.FAILURE


def _with_broker(cli: Cli) -> Any:
    """The settings, with the broker and the database of a running ``up`` where the environment names none."""
    from worker.service_file import read_service

    settings = cli.settings
    if settings.broker_url:
        return settings
    service = read_service(settings.data_dir)
    if service is None:
        raise CliError(
            "no broker: set CLONEJOB_BROKER_URL, or run `clonejob up`, which starts one of its own", ExitCode.USAGE
        )
    return settings.model_copy(update={"broker_url": service["broker_url"], "database_url": service["database_url"]})


def _log(level: str) -> None:
    logging.basicConfig(stream=sys.stderr, level=level, format="%(asctime)s %(levelname)s %(name)s %(message)s")
