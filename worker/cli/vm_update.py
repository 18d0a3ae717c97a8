"""The command that changes how the next clones of a VM are made, and the check of a VM's target."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from worker.cli.context import Cli, check_id, common_options, short_name
from worker.cli.errors import CliError, ExitCode
from worker.cli.output import print_json

if TYPE_CHECKING:
    from worker.cli.client import Client

Json = dict[str, Any]
DEFAULT_TARGET = "local"


@click.command()
@click.argument("vm_text", metavar="VM")
@click.option("--target", metavar="T", help="Target project: local (QEMU) or simulated.")
@click.option("--hostname", metavar="H", help="Host name of clones; '': each clone its own.")
@click.option("--vm-name", metavar="N", help="Name of the instance; '': each clone its own.")
@click.option("--machine-type", metavar="T", help="Machine type of clones; '': the target's default.")
@click.option("--skip-os-adaptation/--adapt-os", "skip", default=None,
              help="Whether the guest's operating system is left as it is.")  # fmt: skip
@common_options
@click.pass_obj
def update(
    cli: Cli,
    *,
    vm_text: str,
    target: str | None,
    hostname: str | None,
    vm_name: str | None,
    machine_type: str | None,
    skip: bool | None,
) -> None:
    """Change how the next clones of VM are made; nothing is uploaded. Running jobs keep what they began with."""
    name = cli.vm_name(vm_text)
    defaults = {"hostname": hostname, "vmName": vm_name, "machineType": machine_type}
    if target is not None:
        defaults["targetProject"] = checked_target(cli, name, target)
    given = {key: value for key, value in defaults.items() if value is not None}
    if given:
        refuse_disks_target(cli.client.get(f"/v1/{name}"))
    mask = [f"computeEngineTargetDefaults.{key}" for key in given]
    body: Json = {"computeEngineTargetDefaults": given} if given else {}
    if skip is not None:
        mask.append("policy.skipOsAdaptation")
        body["policy"] = {"skipOsAdaptation": skip}
    if not mask:
        raise CliError(f"nothing to update; see `clonejob vm update --help` for what {short_name(name)} can be given",
                       ExitCode.USAGE)  # fmt: skip
    cli.client.wait(cli.client.patch(f"/v1/{name}", body, updateMask=",".join(mask)))
    if cli.json:
        print_json(cli.client.get(f"/v1/{name}"))
    else:
        click.echo(
            f"{short_name(name)}: the next clones have {', '.join(path.rpartition('.')[2] for path in mask)} as given"
        )


def refuse_disks_target(row: Json) -> None:
    """A VM has one kind of target defaults (oneof): to set the one takes the other away. Raises: CliError."""
    if "computeEngineDisksTargetDefaults" in row:
        raise CliError(
            f"{short_name(row['name'])} has compute_engine_disks_target_defaults, which these options would take away; "
            "change them with UpdateMigratingVm (PATCH), or clone another VM",
            ExitCode.CONFLICT,
        )


def checked_target(cli: Cli, vm_name: str, target: str | None) -> str | None:
    """The full name of the target project; None for a VM that has its own already. Raises: CliError if there is none."""
    parent = f"projects/{cli.settings.project}/locations/global/targetProjects"
    wanted = f"{parent}/{check_id('target', DEFAULT_TARGET if target is None else target)}"
    existing = [row["name"] for row in cli.client.list(f"/v1/{parent}", "targetProjects")]
    if wanted in existing:
        return None if target is None else wanted
    if target is None and _exists(cli.client, vm_name):
        return None
    there = ", ".join(sorted(name.rpartition("/")[2] for name in existing)) or "none"
    raise CliError(
        f"target project {wanted.rpartition('/')[2]!r} does not exist; choose one with --target, there are: {there}",
        ExitCode.NOT_FOUND,
    )


def _exists(client: Client, vm_name: str) -> bool:
    try:
        client.get(f"/v1/{vm_name}")
    except CliError as error:
        if error.code is not ExitCode.NOT_FOUND:
            raise
        return False
    return True
