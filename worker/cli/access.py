"""``clonejob token`` and ``clonejob role``: who may do what. They work on the database itself, not through the API,
so that the first token can be made, and so that no token can make another one."""

from __future__ import annotations

import datetime as dt
import functools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from worker.cli.context import Cli, common_options
from worker.cli.errors import CliError, ExitCode
from worker.cli.output import print_json, table

if TYPE_CHECKING:
    from models.access import Token
    from tasks.errors import ServiceError
    from tasks.services.access import AccessService

_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
_EXIT_CODES = {"INVALID_ARGUMENT": ExitCode.USAGE, "NOT_FOUND": ExitCode.NOT_FOUND, "ALREADY_EXISTS": ExitCode.CONFLICT}
_EVERYWHERE = click.option("--everywhere", is_flag=True, help="In every project, not only in --project.")
_ROLES = "viewer, cloner, editor or admin"


@click.group()
def token() -> None:
    """Make, list and revoke access tokens."""


@token.command("create")
@click.argument("name")
@click.option("--role", metavar="R", help=f"Give it a role in --project at once: {_ROLES}.")
@_EVERYWHERE
@click.option("--expires", metavar="30d", help="Lifetime, such as 12h or 30d; default: it does not end.")
@common_options
@click.pass_obj
def create_token(cli: Cli, name: str, role: str | None, everywhere: bool, expires: str | None) -> None:
    """Make a token and print it: once, and never again."""
    project = _where(cli, everywhere) if role else ""
    with _service(cli) as service:
        made = service.create_token(name, project=project, role=role or "", lifetime=_lifetime(expires))
    if cli.json:
        print_json({**_token_json(made.token), "token": made.secret})
        return
    click.echo(made.secret)
    click.echo(f"token {name} ({made.token.id}) is shown this once; {_hint(name, role, project)}", err=True)


@token.command("list")
@common_options
@click.pass_obj
def list_tokens(cli: Cli) -> None:
    """All tokens, newest first; what is shown opens nothing."""
    with _service(cli) as service:
        tokens = [_token_json(row) for row in service.tokens()]
    if cli.json:
        print_json({"tokens": tokens})
        return
    head = ("NAME", "ID", "ENDS WITH", "STATE", "CREATED", "EXPIRES")
    click.echo(table(head, [(t["name"], t["id"], f"…{t['last4']}", t["state"], _short(t["createTime"]),
                             _short(t["expireTime"])) for t in tokens]))  # fmt: skip


@token.command("revoke")
@click.argument("name_or_id")
@common_options
@click.pass_obj
def revoke_token(cli: Cli, name_or_id: str) -> None:
    """End a token and its roles; every API process refuses it a few seconds later at most."""
    with _service(cli) as service:
        row = service.revoke_token(name_or_id)
    if cli.json:
        print_json(_token_json(row))
    else:
        click.echo(f"token {row.name} ({row.id}) is revoked, and its roles with it")


@click.group()
def role() -> None:
    """Grant, revoke and list roles: viewer, cloner, editor, admin.

    WHO is token:NAME, or user:CLAIM for somebody whom the OpenID Connect issuer vouches for.
    """


def _of_a_binding(function: Callable[..., None]) -> Callable[..., None]:
    """The arguments of a command about WHO's ROLE in --project."""
    given: tuple[Callable[..., Any], ...] = (
        click.pass_obj, common_options, _EVERYWHERE, click.argument("role_name", metavar="ROLE"), click.argument("who"),
    )  # fmt: skip
    return functools.reduce(lambda made, decorator: decorator(made), given, function)


@role.command()
@_of_a_binding
def grant(cli: Cli, who: str, role_name: str, everywhere: bool) -> None:
    """Give WHO a role in --project."""
    _change(cli, lambda service: service.grant, "is", who, role_name, _where(cli, everywhere))


@role.command()
@_of_a_binding
def revoke(cli: Cli, who: str, role_name: str, everywhere: bool) -> None:
    """Take a role away again."""
    _change(cli, lambda service: service.revoke_role, "is no longer", who, role_name, _where(cli, everywhere))


def _change(
    cli: Cli,
    change: Callable[[AccessService], Callable[[str, str, str], object]],
    says: str,
    who: str,
    role_name: str,
    where: str,
) -> None:
    with _service(cli) as service:
        change(service)(who, where, role_name)
        who = service.principal(who)
    if cli.json:
        print_json({"principal": who, "project": where, "role": role_name})
    else:
        click.echo(f"{who} {says} {role_name} in {where}")


@role.command("list")
@common_options
@click.pass_obj
def list_roles(cli: Cli) -> None:
    """Who has which role where."""
    with _service(cli) as service:
        rows = [{"principal": row.principal, "project": row.project, "role": row.role} for row in service.bindings()]
    if cli.json:
        print_json({"bindings": rows})
    else:
        click.echo(table(("WHO", "PROJECT", "ROLE"), [tuple(row.values()) for row in rows]))


@contextmanager
def _service(cli: Cli) -> Iterator[AccessService]:
    """Tokens and roles in the database of the settings, or of a running ``up``. Its errors become a CliError."""
    import sqlalchemy.exc

    from tasks.errors import ServiceError
    from worker.access import access_service
    from worker.service_file import read_service
    from worker.settings import redact_url

    settings = cli.settings
    running = read_service(settings.data_dir)
    if running is not None and "database_url" not in settings.model_fields_set:
        settings = settings.model_copy(update={"database_url": running["database_url"]})
    try:
        with access_service(settings) as service:
            yield service
    except ServiceError as error:
        raise _error(error) from None
    except (sqlalchemy.exc.SQLAlchemyError, OSError) as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise CliError(
            f"the database {redact_url(settings.database_url)} cannot be used ({reason}); "
            "run `clonejob db upgrade`, and check CLONEJOB_DATABASE_URL"
        ) from None


def _where(cli: Cli, everywhere: bool) -> str:
    return "*" if everywhere else cli.settings.project


def _error(error: ServiceError) -> CliError:
    return CliError(error.message, _EXIT_CODES.get(error.code, ExitCode.FAILURE), reason=error.reason)


def _lifetime(text: str | None) -> dt.timedelta | None:
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]{1,5})([mhd])", text)
    if match is None:
        raise CliError(f"--expires {text[:80]!r} is no lifetime: write 30m, 12h or 30d", ExitCode.USAGE)
    return dt.timedelta(**{_UNITS[match[2]]: int(match[1])})


def _hint(name: str, role_name: str | None, project: str) -> str:
    if role_name:
        where = "every project" if project == "*" else f"project {project}"
        return f"it is {role_name} in {where}"
    return f"it has no role yet: clonejob role grant token:{name} ROLE --project P"


def _token_json(row: Token) -> dict[str, Any]:
    now = dt.datetime.now(dt.UTC)
    state = "REVOKED" if row.revoke_time else "EXPIRED" if row.expire_time and row.expire_time <= now else "LIVE"
    times = {"createTime": row.create_time, "expireTime": row.expire_time, "revokeTime": row.revoke_time}
    shown = {key: value.isoformat() if value else None for key, value in times.items()}
    return {"name": row.name, "id": row.id, "last4": row.last4, "state": state, **shown}


def _short(time: str | None) -> str:
    return time[:16].replace("T", " ") if time else "-"
