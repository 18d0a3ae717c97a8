"""What every command shares: the global options, the settings, the client, and resource names from short ones."""

from __future__ import annotations

import functools
import re
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from worker.cli.errors import CliError, ExitCode

if TYPE_CHECKING:
    from worker.cli.client import Client
    from worker.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])
ID_RULE = "a lower-case letter, then up to 62 lower-case letters, digits and hyphens, not ending in a hyphen"
_ID = re.compile(r"[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?")
_VM = re.compile(r"projects/[^/]+/locations/[^/]+/sources/[^/]+/migratingVms/[^/]+")
_JOB = re.compile(_VM.pattern + r"/cloneJobs/[^/]+")
DEFAULT_SOURCE = "default"
START_TIMEOUT_S = 20.0
_LOOK_S = 0.1


@dataclass
class Cli:
    """The global options of one call."""

    json: bool = False
    server: str | None = None
    project: str | None = None
    location: str | None = None
    data_dir: Path | None = None

    @functools.cached_property
    def settings(self) -> Settings:
        """The settings; where they are silent, what a running ``up`` in the data folder says.

        Raises: CliError when a setting cannot be used.
        """
        from worker.service_file import read_service
        from worker.settings import SettingsError, load_settings

        given = {"server": self.server, "project": self.project, "location": self.location, "data_dir": self.data_dir}
        try:
            settings = load_settings(**given)
            service = read_service(settings.data_dir)
            if service is not None:
                found = {"server": service["rest_url"], "project": service["project"]}
                missing = {name: value for name, value in found.items() if name not in settings.model_fields_set}
                settings = load_settings(**(given | missing))
        except SettingsError as error:
            raise CliError(str(error), ExitCode.USAGE) from None
        return settings

    @functools.cached_property
    def client(self) -> Client:
        """The client of the service. Raises: CliError when none can be meant."""
        from worker.cli.client import Client

        self._find_service()
        settings = self.settings
        try:
            token = settings.sent_token()
        except (OSError, ValueError) as error:
            raise CliError(f"CLONEJOB_TOKEN_FILE cannot be read: {error}", ExitCode.USAGE) from None
        client = Client(settings.server, token=token, ca_file=settings.ca_file)
        click.get_current_context().call_on_close(client.close)
        return client

    def _find_service(self) -> None:
        """Unless a server is named: the service of the data folder, once it is ready; never another one instead.

        Raises: CliError when a data folder is named and no service runs in it, or when its service does not start.
        """
        from worker.service_file import read_service
        from worker.settings import load_settings

        folder = self.settings.data_dir
        named = load_settings(server=self.server, data_dir=self.data_dir).model_fields_set
        if "server" in named:
            return
        service = read_service(folder)
        if service is None and "data_dir" in named:
            raise CliError(
                f"no clonejob service runs in {folder}; start one with: clonejob up --data-dir {shlex.quote(str(folder))}, "
                "or name a server with --server",
                ExitCode.UNREACHABLE,
            )
        if service is None or service.get("ready", True):
            return
        if not self.json:  # then stderr is for the one error
            click.echo(f"waiting for the service in {folder} to start …", err=True)
        deadline = time.monotonic() + START_TIMEOUT_S
        while service is not None and not service.get("ready", True):
            if time.monotonic() > deadline:
                raise CliError(
                    f"the service in {folder} is not ready after {START_TIMEOUT_S:.0f} s; look into {folder / 'logs'}, "
                    "or try again",
                    ExitCode.UNREACHABLE,
                )
            time.sleep(_LOOK_S)
            service = read_service(folder)
        if service is None:
            raise CliError(f"the service in {folder} stopped before it was ready; see what `clonejob up` said",
                           ExitCode.UNREACHABLE)  # fmt: skip

    @property
    def parent(self) -> str:
        """``projects/P/locations/L``."""
        return f"projects/{self.settings.project}/locations/{self.settings.location}"

    def source_name(self, source: str) -> str:
        """The Source's full name."""
        return f"{self.parent}/sources/{check_id('source', source)}"

    def vm_name(self, text: str) -> str:
        """The full name of ``web-1``, ``SOURCE/web-1`` or a full name. Raises: CliError."""
        if text.startswith("projects/"):
            return _full(text, _VM, "projects/P/locations/L/sources/S/migratingVms/VM")
        source, _, vm = text.rpartition("/")
        return f"{self.source_name(source or DEFAULT_SOURCE)}/migratingVms/{check_id('VM', vm)}"

    def job_name(self, text: str) -> str:
        """The full name of ``web-1/clone-1``, ``SOURCE/web-1/clone-1`` or a full name. Raises: CliError."""
        if text.startswith("projects/"):
            return _full(text, _JOB, "projects/P/locations/L/sources/S/migratingVms/VM/cloneJobs/JOB")
        vm, separator, job = text.rpartition("/")
        if not separator:
            raise CliError(f"{text!r} names no job: write VM/JOB, for example web-1/clone-1", ExitCode.USAGE)
        return f"{self.vm_name(vm)}/cloneJobs/{check_id('job', job)}"


def check_id(what: str, text: str) -> str:
    """The id if it is legal. Raises: CliError."""
    if not _ID.fullmatch(text):
        raise CliError(f"{what} {text[:80]!r} is not a legal id: use {ID_RULE}", ExitCode.USAGE)
    return text


def short_name(name: str) -> str:
    """How a full name of a VM or a job is written shortest: the reverse of ``vm_name`` and ``job_name``."""
    ids = name.split("/")[5::2]
    return "/".join(ids[1:] if ids and ids[0] == DEFAULT_SOURCE else ids)


def common_options(function: F) -> F:
    """Give a command the global options, so that they may stand before or after its name."""
    options = [
        click.option("--json", is_flag=True, default=None, help="Print JSON.", **_stored()),
        click.option("--server", metavar="URL", help="REST address of the service.", **_stored()),
        click.option("--project", metavar="P", help="Project of short names.", **_stored()),
        click.option("--location", metavar="L", help="Location of short names.", **_stored()),
        click.option(
            "--data-dir",
            metavar="DIR",
            type=click.Path(path_type=Path),
            help="Data folder of the service.",
            **_stored(),
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def _stored() -> dict[str, Any]:
    return {"expose_value": False, "callback": _store}


def _store(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value is not None and parameter.name:
        setattr(context.ensure_object(Cli), parameter.name, value)


def _full(text: str, pattern: re.Pattern[str], shape: str) -> str:
    if not pattern.fullmatch(text):
        raise CliError(f"{text[:200]!r} is not a full name: write {shape}", ExitCode.USAGE)
    return text
