"""Commands for one part of a service whose parts run apart: the vmhost, and the health checks of each part."""

from __future__ import annotations

import socket

import click

from worker.cli.context import Cli, common_options
from worker.cli.errors import CliError, ExitCode


@click.command()
@common_options
@click.pass_obj
def vmhost(cli: Cli) -> None:
    """Run the machines of QEMU targets with the option vmhost, for workers that are in containers of their own.

    One per data folder. Machines outlive workers, and this process, too; they end with its container or host.
    """
    from worker import vmhost as service
    from worker.settings import SettingsError

    try:
        service.main(data_dir=cli.data_dir, project=cli.project, location=cli.location)
    except SettingsError as error:
        raise CliError(str(error), ExitCode.USAGE) from None
    except service.VmHostError as error:
        raise CliError(str(error)) from None


@click.group()
def health() -> None:
    """Ask one part whether it works; exit code 0 if it does. For health checks of containers."""


@health.command("api")
@common_options
@click.pass_obj
def health_api(cli: Cli) -> None:
    """The API of these settings answers."""
    import httpx

    from worker.access import own_certificate

    settings = cli.settings
    address = f"{settings.rest_url}/healthz"
    try:
        answer = httpx.get(address, timeout=5.0, trust_env=False, verify=own_certificate(settings))
    except httpx.TransportError as error:
        raise CliError(f"{address} does not answer ({error})", ExitCode.UNREACHABLE) from None
    if answer.status_code != httpx.codes.OK:
        raise CliError(f"{address} answers HTTP {answer.status_code}")
    click.echo(f"{address} answers")


@health.command("worker")
@click.argument("name")
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(min=0.1), default=5.0, show_default=True, metavar="SECONDS"
)
@common_options
@click.pass_obj
def health_worker(cli: Cli, name: str, timeout_s: float) -> None:
    """The worker NAME of this host answers through the broker: it can be sent work, and its process is not stuck."""
    import kombu.exceptions

    from worker.health import ping_workers
    from worker.service_file import read_service

    node = name if "@" in name else f"{name}@{socket.gethostname()}"
    url = cli.settings.broker_url or (read_service(cli.settings.data_dir) or {}).get("broker_url")
    if not url:
        raise CliError("no broker: set CLONEJOB_BROKER_URL", ExitCode.USAGE)
    try:
        answered = ping_workers(url, timeout_s, [node])
    except (OSError, kombu.exceptions.OperationalError) as error:
        raise CliError(f"the broker does not answer ({error})", ExitCode.UNREACHABLE) from None
    if node not in answered:
        raise CliError(f"{node} does not answer within {timeout_s:g} s")
    click.echo(f"{node} answers")


@health.command("vmhost")
@common_options
@click.pass_obj
def health_vmhost(cli: Cli) -> None:
    """The vmhost of every target with the option vmhost answers."""
    from targets.errors import TransientError
    from worker.vmhost import client_of, hosted

    names = hosted(cli.settings)
    if not names:
        raise CliError("no target has the option vmhost", ExitCode.USAGE)
    for name in names:
        try:
            answer = client_of(cli.settings, name).ping()
        except TransientError as error:
            raise CliError(str(error), ExitCode.UNREACHABLE) from None
        click.echo(f"vmhost of target {name} answers, {answer['machines']} machines run")
