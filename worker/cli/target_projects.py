"""``clonejob target clone-mode``: how the clones of a target project get their disks."""

from __future__ import annotations

import click

from worker.cli.context import Cli, check_id, common_options
from worker.cli.output import print_json, table

_DEFAULT = "default"


@click.command("clone-mode")
@click.argument("project_text", metavar="[PROJECT]", required=False)
@click.argument("mode", metavar="[MODE]", required=False)
@common_options
@click.pass_obj
def clone_mode(cli: Cli, project_text: str | None, mode: str | None) -> None:
    """Show or set how the clones of target project PROJECT get their disks; without it, show all.

    MODE is one that its target has, such as overlay (on the snapshot, at once) or full (copies that need nothing else), or
    default: as the target is configured. Jobs that exist keep theirs.
    """
    parent = f"projects/{cli.settings.project}/locations/global/targetProjects"
    if project_text is None:
        names = [row["name"] for row in cli.client.list(f"/v1/{parent}", "targetProjects")]
    else:
        names = [f"{parent}/{check_id('target project', project_text)}"]
    if mode is not None:
        chosen = {"cloneMode": "" if mode == _DEFAULT else mode}
        found = [cli.client.post(f"/clonejob/v1/{names[0]}:setCloneMode", chosen)]
    else:
        found = [cli.client.get(f"/clonejob/v1/{name}/cloneMode") for name in names]
    if cli.json:
        print_json(found if project_text is None else found[0])
        return
    rows = [
        (each["targetProject"].rpartition("/")[2], each["target"], each["usedCloneMode"] or "-",
         "the target project" if each["cloneMode"] else "the target", ", ".join(each["cloneModes"]) or "-")
        for each in found
    ]  # fmt: skip
    click.echo(table(("PROJECT", "TARGET", "CLONE MODE", "SET BY", "THERE ARE"), rows))
