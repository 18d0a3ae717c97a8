"""Commands about targets: which are configured, which types there are, and whether one keeps the protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from worker.cli.context import Cli, common_options
from worker.cli.output import print_json, table
from worker.cli.target_check import check
from worker.cli.target_projects import clone_mode

if TYPE_CHECKING:
    from targets.registry import TargetType
    from worker.settings import TargetSettings

Json = dict[str, Any]


@click.group()
def target() -> None:
    """Places where clones are made: show them, and check that they keep their promises."""


target.add_command(check)
target.add_command(clone_mode)


@target.command("list")
@common_options
@click.pass_obj
def list_targets(cli: Cli) -> None:
    """The configured targets, their types and options (CLONEJOB_TARGETS)."""
    shown = cli.settings.redacted()["targets"]
    found = [_target_json(name, shown[name], each) for name, each in cli.settings.targets.items()]
    if cli.json:
        print_json(found)
        return
    rows = [(each["name"], each["type"], _options(each["options"])) for each in found]
    click.echo(table(("TARGET", "TYPE", "OPTIONS"), rows))


@target.command("types")
@common_options
@click.pass_obj
def list_types(cli: Cli) -> None:
    """The types of targets that can be configured: ours, and those of other packages that are installed here.

    docs/adding-a-target.md says how to write one.
    """
    from targets.registry import types

    found = [_type_json(each) for each in types()]
    if cli.json:
        print_json(found)
        return
    rows = [
        (each["type"], each["package"], each["version"], each["problem"] or ", ".join(each["options"]) or "-")
        for each in found
    ]
    click.echo(table(("TYPE", "PACKAGE", "VERSION", "OPTIONS"), rows))


def _target_json(name: str, shown: Json, settings: TargetSettings) -> Json:
    """Only what differs from the defaults; secrets are masked in ``shown``."""
    given = settings.model_dump(exclude_defaults=True)
    return {"name": name, "type": settings.type, "options": {key: shown[key] for key in given if key != "type"}}


def _options(options: Json) -> str:
    return ", ".join(f"{name}={value}" for name, value in options.items()) or "-"


def _type_json(each: TargetType) -> Json:
    fields = each.options.model_fields if each.options else {}
    return {
        "type": each.name,
        "package": each.package,
        "version": each.version,
        "options": {name: field.description or "" for name, field in fields.items()},
        "problem": each.problem,
    }
