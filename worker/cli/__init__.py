"""``clonejob``: the one binary. Commands import what they need when they run, so that ``--help`` is quick."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import click

from worker.cli import access, audit, instances, jobs, parts, service, snapshots, targets, vms
from worker.cli.context import Cli, common_options
from worker.cli.errors import CliError, ExitCode


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=True)
@click.version_option(package_name="clonejob", message="%(prog)s %(version)s")
@common_options
@click.pass_context
def cli(context: click.Context) -> None:
    """Test clones of migrating virtual machines.

    VM is web-1, SOURCE/web-1 or a full resource name; JOB is web-1/clone-1, SOURCE/web-1/clone-1 or a full name.
    Every option can be set as CLONEJOB_<NAME> in the environment, too.

    Exit codes: 0 ok, 1 failure, 2 usage, 3 service unreachable, 4 not found, 5 conflict or precondition,
    130 interrupted.
    """
    context.ensure_object(Cli)


for _command in (
    service.up,
    vms.vm,
    jobs.plan,
    jobs.submit,
    jobs.list_jobs,
    jobs.show,
    jobs.watch,
    jobs.explain,
    jobs.cancel,
    access.token,
    access.role,
    instances.instance,
    snapshots.snapshot,
    audit.audit,
    targets.target,
    service.doctor,
    service.worker,
    service.api,
    parts.vmhost,
    parts.health,
    service.db,
):
    cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit; whatever goes wrong is one line on stderr, with --json one JSON object."""
    try:
        code = _run(arguments)
    except KeyboardInterrupt:  # a second one, while the first is being told of
        code = ExitCode.INTERRUPTED
    sys.exit(code)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        result = cli.main(args=arguments, prog_name="clonejob", standalone_mode=False)
    except BrokenPipeError:  # the reader of our output, such as head, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.FAILURE
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the last line of defence, see _explain
        message, code = _explain(error)
        if code == ExitCode.INTERRUPTED:
            with contextlib.suppress(ValueError):  # not the main thread
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # we are as good as gone
        if "--json" in (sys.argv[1:] if arguments is None else arguments):
            told = {"code": code.name, "message": message.removeprefix("error: ")}
            message = json.dumps({"error": told})
        click.echo(message, err=True)
        return code
    return result if isinstance(result, int) else ExitCode.OK


def _debugging() -> bool:
    from worker.settings import SettingsError, load_settings

    try:
        return load_settings().log_level == "DEBUG"
    except SettingsError:
        return False


def _explain(error: BaseException) -> tuple[str, ExitCode]:
    """What to say on stderr, and the exit code."""
    match error:
        case CliError():
            return f"error: {error}", error.code
        case click.exceptions.NoArgsIsHelpError():
            return error.format_message(), ExitCode.USAGE
        case click.UsageError():
            path = error.ctx.command_path if error.ctx else "clonejob"
            return f"error: {error.format_message().rstrip('.')}; see `{path} --help`", ExitCode.USAGE
        case click.ClickException():
            return f"error: {error.format_message()}", ExitCode.FAILURE
        case click.Abort() | KeyboardInterrupt():
            return "error: interrupted", ExitCode.INTERRUPTED
    if _debugging():
        traceback.print_exception(error)
    return (
        f"error: unexpected {type(error).__name__}: {error}; this is a bug, please report it with what CLONEJOB_LOG_LEVEL=DEBUG shows",
        ExitCode.FAILURE,
    )
