"""Commands about migrating VMs: import, list, show."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from worker.cli import reports
from worker.cli.context import DEFAULT_SOURCE, Cli, common_options, short_name
from worker.cli.errors import CliError, ExitCode
from worker.cli.output import print_json, show_time, table
from worker.cli.references import Reference, given_references
from worker.cli.upload import upload
from worker.cli.vm_update import DEFAULT_TARGET, checked_target, update

if TYPE_CHECKING:
    from worker.cli.client import Client

Json = dict[str, Any]
_ZONE = "local-a"
_EXISTS = "RESOURCE_ALREADY_EXISTS"


@dataclass(frozen=True, slots=True)
class Disk:
    """A local image that was checked."""

    path: Path
    format: str
    size_bytes: int


@click.group()
def vm() -> None:
    """Migrating VMs: what clones are made from."""


vm.add_command(update)


@vm.command("import")
@click.argument("name")
@click.option("--disk", "disks", metavar="FILE", multiple=True, type=click.Path(path_type=Path),
              help="Disk image; repeat it for more disks, the boot disk first.")  # fmt: skip
@click.option("--reference", "references", metavar="N=NAME", multiple=True,
              help="Disk N as the provider's own snapshot or image, such as 0=projects/P/global/snapshots/S, in place of --disk.")  # fmt: skip
@click.option("--size", "sizes", metavar="N=BYTES", multiple=True, help="Size of the disk that --reference N names.")
@click.option("--target", metavar="T", help="Target project: local (QEMU) or simulated.  [default: local]")
@click.option(
    "--format", "image_format", type=click.Choice(["auto", "raw", "qcow2"]), default="auto", show_default=True
)
@click.option("--source", metavar="ID", default=DEFAULT_SOURCE, show_default=True, help="Source of the VM.")
@click.option("--hostname", metavar="H", help="Host name of clones.")
@click.option("--vm-name", metavar="N", help="Name of the instance; default: each clone its own.")
@click.option("--machine-type", metavar="T", help="Machine type of clones.")
@click.option("--skip-os-adaptation", is_flag=True, help="Never adapt the guest's operating system.")
@click.option("--already-adapted", is_flag=True, help="These disks are adapted for the target already.")
@click.option("--abort-running", is_flag=True, help="Abort the upload that an interrupted import left behind.")
@common_options
@click.pass_obj
def import_vm(
    cli: Cli,
    *,
    name: str,
    disks: tuple[Path, ...],
    references: tuple[str, ...],
    sizes: tuple[str, ...],
    target: str | None,
    image_format: str,
    source: str,
    hostname: str | None,
    vm_name: str | None,
    machine_type: str | None,
    skip_os_adaptation: bool,
    already_adapted: bool,
    abort_running: bool,
) -> None:
    """Upload the disks of VM NAME as a successful replication cycle, or register them by reference.

    Creates the source and the VM when they are new. Run again with new disks, it adds a newer cycle.
    """
    full_name = cli.vm_name(f"{source}/{name}")
    checked: Sequence[Disk | Reference] = given_references(disks, references, sizes)
    checked = checked or [check_disk(path, image_format) for path in disks]
    options = {"vmName": vm_name, "hostname": hostname, "machineType": machine_type}
    options["targetProject"] = checked_target(cli, full_name, target)
    given = {key: value for key, value in options.items() if value is not None}
    zone = {} if references else {"zone": _ZONE}  # at a provider, the target's own
    row = _ensure_vm(cli, full_name, zone, given, skip_os_adaptation=skip_os_adaptation)
    adaptation = _adaptation(row) if already_adapted else None
    cycle = _upload_cycle(cli.client, full_name, checked, adaptation, abort_running=abort_running)
    result = {"migratingVm": cli.client.get(f"/v1/{full_name}"), "replicationCycle": cycle}
    if cli.json:
        print_json(result)
    else:
        click.echo(
            f"{short_name(full_name)}: cycle {cycle.get('cycleNumber', '?')} with {len(checked)} disk(s) is ready"
        )


@vm.command("list")
@common_options
@click.pass_obj
def list_vms(cli: Cli) -> None:
    """All VMs of the location."""
    vms = cli.client.list(f"/v1/{cli.parent}/sources/-/migratingVms", "migratingVms")
    if cli.json:
        print_json(vms)
        return
    rows = [
        (short_name(row["name"]), row.get("state", ""), _target(row), show_time(row.get("createTime"))) for row in vms
    ]
    click.echo(table(("VM", "STATE", "TARGET", "CREATED"), rows))


@vm.command("cycles")
@click.argument("vm_text", metavar="VM")
@common_options
@click.pass_obj
def list_cycles(cli: Cli, vm_text: str) -> None:
    """The replication cycles of a VM, and which clone has proven that they boot."""
    name = cli.vm_name(vm_text)
    cycles = cli.client.list(f"/v1/{name}/replicationCycles", "replicationCycles")
    proofs = cli.client.get(f"/clonejob/v1/{name}/bootProofs").get("bootProofs", [])
    if cli.json:
        print_json({"replicationCycles": cycles, "bootProofs": proofs})
    else:
        click.echo(reports.cycles(cycles, proofs))


@vm.command("show")
@click.argument("vm_text", metavar="VM")
@common_options
@click.pass_obj
def show_vm(cli: Cli, vm_text: str) -> None:
    """One VM with its replication cycles."""
    name = cli.vm_name(vm_text)
    row = cli.client.get(f"/v1/{name}", view="MIGRATING_VM_VIEW_FULL")
    cycles = cli.client.list(f"/v1/{name}/replicationCycles", "replicationCycles")
    proofs = cli.client.get(f"/clonejob/v1/{name}/bootProofs").get("bootProofs", [])
    if cli.json:
        print_json({"migratingVm": row, "replicationCycles": cycles, "bootProofs": proofs})
        return
    disks = row.get("computeEngineDisksTargetDefaults", {})
    defaults = row.get("computeEngineTargetDefaults") or disks.get("vmTargetDefaults", {})
    click.echo(f"{name}\nstate    {row.get('state', '')}\ntarget   {_target(row)}")
    for label, key in (("vm name", "vmName"), ("hostname", "hostname"), ("machine", "machineType")):
        click.echo(f"{label:<8} {defaults.get(key, '-')}")
    click.echo("\n" + reports.cycles(cycles, proofs))
    jobs = [(short_name(job["name"]), job.get("state", "")) for job in row.get("recentCloneJobs", [])]
    if jobs:
        click.echo("\n" + table(("RECENT JOB", "STATE"), jobs))


def check_disk(path: Path, image_format: str) -> Disk:
    """Check a file before anything is sent. Raises: CliError."""
    from targets.images import ImageError, detect_format, inspect_image

    try:
        found = detect_format(path) if image_format == "auto" else image_format
        info = inspect_image(path, found)
    except ImageError as error:
        # The message names the file without its folder, for the service answers with it too; here the user gave the path.
        raise CliError(f"{path}{str(error).removeprefix(path.name)}", ExitCode.USAGE) from None
    return Disk(path, info.format, info.file_size_bytes)


def _ensure_vm(cli: Cli, name: str, zone: Json, given: Json, *, skip_os_adaptation: bool) -> Json:
    """Create source and VM, or bring an existing VM's target defaults to what was asked for."""
    source, _, vm_id = name.rpartition("/migratingVms/")
    parent, _, source_id = source.rpartition("/sources/")
    policy = {"policy": {"skipOsAdaptation": True}} if skip_os_adaptation else {}
    local = f"projects/{cli.settings.project}/locations/global/targetProjects/{DEFAULT_TARGET}"
    defaults = {"targetProject": local} | zone | given
    client = cli.client
    _create(client, f"/v1/{parent}/sources", {"description": "made by clonejob vm import"}, sourceId=source_id)
    if _create(client, f"/v1/{source}/migratingVms", {"computeEngineTargetDefaults": defaults} | policy,
               migratingVmId=vm_id):  # fmt: skip
        return client.get(f"/v1/{name}")
    row = client.get(f"/v1/{name}")
    changes: Json = dict(policy)
    if given:
        changes["computeEngineTargetDefaults"] = row.get("computeEngineTargetDefaults", {}) | given
    if changes:
        client.wait(client.patch(f"/v1/{name}", changes, updateMask=",".join(changes)))
    return client.get(f"/v1/{name}")


def _create(client: Client, path: str, body: Json, **ids: str) -> bool:
    """Create a resource; False if it exists already."""
    try:
        client.wait(client.post(path, body, **ids))
    except CliError as error:
        if error.reason != _EXISTS:
            raise
        return False
    return True


def _upload_cycle(
    client: Client, vm_name: str, disks: Sequence[Disk | Reference], adaptation: Json | None, *, abort_running: bool
) -> Json:
    cycle = _begin(client, vm_name, adaptation, abort_running=abort_running)["name"]
    try:
        for number, disk in enumerate(disks):
            if isinstance(disk, Reference):
                client.post(f"/clonejob/v1/{cycle}:registerDisk", disk.body(number))
                continue
            with _progress(disk) as show:
                upload(client, f"/clonejob/v1/{cycle}/disks/{number}", disk.path, disk.format, show)
        return client.post(f"/clonejob/v1/{cycle}:finish")
    except BaseException as error:  # Ctrl-C too must leave nothing half-made
        _abort(client, cycle, f"the import failed: {error}" if isinstance(error, CliError) else "the import broke off")
        raise


def _begin(client: Client, vm_name: str, adaptation: Json | None, *, abort_running: bool) -> Json:
    path, body = f"/clonejob/v1/{vm_name}/replicationCycles", {} if adaptation is None else {"adaptation": adaptation}
    try:
        return client.post(path, body)
    except CliError as error:
        if error.reason != "CYCLE_RUNNING":
            raise
        if not abort_running:
            raise CliError(
                f"{error}; if it is left from an interrupted import, run again with --abort-running", error.code
            ) from None
        client.post(f"/clonejob/v1/{error.metadata['resource']}:abort", {"message": "aborted by --abort-running"})
        return client.post(path, body)


def _abort(client: Client, cycle: str, message: str) -> None:
    try:
        client.post(f"/clonejob/v1/{cycle}:abort", {"message": message})
    except CliError as error:
        click.echo(f"warning: {cycle} could not be aborted ({error}); run again with --abort-running", err=True)


def _adaptation(row: Json) -> Json:
    """What the disks are adapted for: the present target defaults."""
    defaults = row.get("computeEngineTargetDefaults", {})
    adaptation: Json = {
        "modifiers": {m["modifier"]: m.get("value", "") for m in defaults.get("adaptationModifiers", [])}
    }
    if "licenseType" in defaults:
        adaptation["licenseType"] = defaults["licenseType"]
    return adaptation


def _target(row: Json) -> str:
    disks = row.get("computeEngineDisksTargetDefaults", {})
    project: str = (row.get("computeEngineTargetDefaults") or disks).get("targetProject", "-")
    return project.rpartition("/")[2]


@contextlib.contextmanager
def _progress(disk: Disk) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr, for people only; it is told how much has been sent in all."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"uploading {disk.path.name}", total=disk.size_bytes)
        yield lambda sent: progress.update(task, completed=sent)
