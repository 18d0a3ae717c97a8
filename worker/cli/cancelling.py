"""Cancelling several jobs at once, and waiting until nothing of theirs exists any more."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from worker.cli.context import short_name
from worker.cli.errors import CliError, ExitCode, response_of

if TYPE_CHECKING:
    from worker.cli.client import Client

Json = dict[str, Any]
_LOOK_S = 0.2


def cancel(client: Client, names: Sequence[str], *, wait: bool, quiet: bool) -> tuple[list[Json], list[CliError]]:
    """Cancel every one, whatever becomes of another; the jobs as they are then, and what went wrong."""
    errors: list[CliError] = []
    running: dict[str, Json] = {}
    for name in names:
        try:
            running[name] = client.post(f"/v1/{name}:cancel")
            response_of(running[name])
        except CliError as error:
            errors.append(error)
            running.pop(name, None)
    if wait:
        try:
            errors += _wait(client, running, quiet=quiet)
        except KeyboardInterrupt:
            jobs = " ".join(short_name(name) for name in running)
            raise CliError(f"interrupted; the clean-up goes on: clonejob cancel {jobs} --wait",
                           ExitCode.INTERRUPTED) from None  # fmt: skip
    return [client.get(f"/v1/{name}") for name in running], errors


def _wait(client: Client, running: dict[str, Json], *, quiet: bool) -> list[CliError]:
    """Wait for the operations; takes those that end in an error out of ``running``. Stderr tells what they wait for."""
    errors: list[CliError] = []
    shown: dict[str, str] = {}
    waiting = dict(running)
    while True:
        for name in list(waiting):
            if waiting[name].get("done"):
                try:
                    response_of(waiting.pop(name))
                except CliError as error:
                    errors.append(error)
                    del running[name]
        if not waiting:
            return errors
        for name in [] if quiet else waiting:
            detail = client.get(f"/clonejob/v1/{name}/progress").get("cleanupDetail")
            if detail and shown.get(name) != detail:
                shown[name] = detail
                click.echo(f"{short_name(name)}: {detail}", err=True)
        time.sleep(_LOOK_S)
        waiting = {name: client.get(f"/v1/{operation['name']}") for name, operation in waiting.items()}
