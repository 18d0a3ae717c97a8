"""Commands about the clones themselves: list, console, delete.

After its job's success the service never touches a clone again; this is its owner's own hand. The targets are asked
directly, as the settings name them, so that no running service is needed.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from worker.cli.clones import Clone, find_clones, job_of, note_deleted, sort_out, target_errors, the_clone
from worker.cli.context import Cli, common_options, short_name
from worker.cli.errors import CliError, ExitCode
from worker.cli.output import percent_shown, plain, print_json, table

if TYPE_CHECKING:
    from models.schema import CloneJob
    from targets.base import BootReport, Observed, Target
    from worker.cli.clones import Found, LeftAlone
    from worker.settings import Settings

Json = dict[str, Any]
DELETE_TIMEOUT_S = 60.0
_LOOK_S = 0.05
_target_option = click.option("--target", "target_name", metavar="T", help="Only this target.  [default: all]")


@click.group()
def instance() -> None:
    """Clones that exist: yours after success."""


@instance.command("list")
@_target_option
@common_options
@click.pass_obj
def list_instances(cli: Cli, target_name: str | None) -> None:
    """All clones on the targets of the settings, those of running jobs included.

    Where an instance is gone and its disks are left, the job's id stands for the name.
    """
    looked = find_clones(cli.settings, target_name)
    found = [(clone, _boot_report_if_any(looked, clone)) for clone in looked.clones]
    if cli.json:
        print_json([_as_json(clone, report) for clone, report in found])
    else:
        rows = [(clone.name, clone.target.name, _status(clone), clone.job_id, _verdict(r)) for clone, r in found]
        click.echo(table(("INSTANCE", "TARGET", "STATUS", "JOB ID", "BOOT"), rows))
    looked.end()


@instance.command()
@click.argument("name")
@_target_option
@common_options
@click.pass_obj
def console(cli: Cli, name: str, target_name: str | None) -> None:
    """Print the last few KiB of the serial console of instance NAME."""
    looked = find_clones(cli.settings, target_name)
    clone = the_clone(looked, name, cli.settings)
    report = _boot_report(clone)
    if report is None:
        raise CliError(f"{name} has no instance, only disks; there is no console", ExitCode.CONFLICT)
    if cli.json:
        print_json(_as_json(clone, report) | {"console": report.console})
    else:
        click.echo(plain(report.console), nl=False)
    looked.end()


@instance.command()
@click.argument("name")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--orphan", is_flag=True, help="Delete it although the database does not know its clone job.")
@_target_option
@common_options
@click.pass_obj
def delete(cli: Cli, name: str, target_name: str | None, *, yes: bool, orphan: bool) -> None:
    """Delete instance NAME and its disks, for good.

    Only what the ledger of its clone job names is deleted; what carries the job's label besides is left alone and named.
    What a running clone job makes is refused: cancel the job. NAME may be the job's id, for disks left without an
    instance. With --orphan, all that carries the label of an unknown job is deleted.
    """
    clone = the_clone(find_clones(cli.settings, target_name), name, cli.settings, certain=True)
    job = _refuse_unless_over(cli.settings, clone, orphan=orphan)
    ours, others = sort_out(job, clone) if job else (clone.parts, ())
    _refuse_if_not_ours(clone, name, ours, others)
    if not yes:
        _confirm(clone.target, ours, others)
    deadline = time.monotonic() + DELETE_TIMEOUT_S
    gone: list[Observed] = []
    try:
        for part in ours:
            _delete_until_gone(clone.target, part, clone.job_id, deadline)
            gone.append(part)
    finally:
        if job is not None and gone:
            note_deleted(cli.settings, job.id, gone)
    if cli.json:
        left = [_part_json(part) | {"uid": part.uid, "why": why} for part, why in others]
        deleted = [_part_json(part) for part in ours]
        print_json({"deleted": deleted, "leftAlone": left, "target": clone.target.name})
    else:
        click.echo(f"deleted {_refs(ours)} from target {clone.target.name}")
        for part, why in others:
            click.echo(f"left alone: {part.ref} {why}")


@instance.command()
@click.argument("name")
@click.option("--orphan", is_flag=True, help="Do it although the database does not know its clone job.")
@_target_option
@common_options
@click.pass_obj
def flatten(cli: Cli, name: str, target_name: str | None, *, orphan: bool) -> None:
    """Make the disks of instance NAME independent of the snapshot they lie on, whether it runs or not.

    Copies what they lack, which takes the time and the space of a full copy. The snapshot can be pruned then. Broken off
    anywhere, the disks are as before, and the command can be repeated.
    """
    from targets.base import ResourceKind
    from targets.snapshot_holder import SnapshotHolder

    looked = find_clones(cli.settings, target_name)
    clone = the_clone(looked, name, cli.settings)
    if not isinstance(clone.target, SnapshotHolder):
        raise CliError(f"disks on target {clone.target.name} lie on no snapshot of this service", ExitCode.CONFLICT)
    job = _refuse_unless_over(cli.settings, clone, orphan=orphan)
    ours, others = sort_out(job, clone) if job else (clone.parts, ())
    _refuse_if_not_ours(clone, name, ours, others)
    done = []
    for part in ours:
        if part.ref.kind is ResourceKind.DISK:
            with target_errors(clone.target.name), percent_shown(f"copying {part.ref.name}") as show:
                changed = clone.target.flatten(part.ref, job_id=clone.job_id, uid=part.uid, progress=show)
            done.append((part.ref.name, changed))
    if cli.json:
        print_json({"disks": [{"name": disk, "changed": changed} for disk, changed in done]})
    else:
        for disk, changed in done:
            click.echo(f"{disk} {'is independent now' if changed else 'was independent already'}")
    looked.end()


def _refuse_unless_over(settings: Settings, clone: Clone, *, orphan: bool) -> CloneJob | None:
    """The job, None if it is unknown. One that has ended stays so: after this look nobody else makes, changes or deletes
    what it made."""
    job = job_of(settings, clone.job_id)
    if job is None:
        if orphan:
            return None
        raise CliError(
            f"the database does not know clone job {clone.job_id} of {clone.name}, so it may be running elsewhere; "
            "set CLONEJOB_DATABASE_URL to the service's, or repeat with --orphan",
            ExitCode.CONFLICT,
        )
    if job.end_time is None:
        raise CliError(
            f"the clone job of {clone.name} is still running ({job.state}); "
            f"cancel the job instead: clonejob cancel {short_name(job.name)}",
            ExitCode.CONFLICT,
        )
    return job


def _refuse_if_not_ours(clone: Clone, name: str, ours: tuple[Observed, ...], others: LeftAlone) -> None:
    """Whoever names an instance means that one: if it is none of the job's, the job's own clone must not go instead."""
    for part, why in others:
        if part is clone.instance and clone.name == name:
            raise CliError(f"{part.ref} {why}; nothing was deleted", ExitCode.CONFLICT)
    if not ours:
        said = "; ".join(f"{part.ref} {why}" for part, why in others)
        raise CliError(f"nothing was deleted; left alone: {said}", ExitCode.CONFLICT)


def _confirm(target: Target, parts: tuple[Observed, ...], others: LeftAlone) -> None:
    what = _refs(parts)
    if not sys.stdin.isatty():
        raise CliError(f"this deletes {what} for good, and nobody can be asked here; repeat with --yes", ExitCode.USAGE)
    for part, why in others:
        click.echo(f"left alone: {part.ref} {why}", err=True)
    if not click.confirm(f"Delete {what} from target {target.name} for good?", err=True):
        raise CliError("not confirmed; nothing was deleted")


def _refs(parts: tuple[Observed, ...]) -> str:
    return ", ".join(str(part.ref) for part in parts)


def _delete_until_gone(target: Target, part: Observed, job_id: str, deadline: float) -> None:
    """Delete exactly what was seen, until the target no longer shows it. Raises: CliError."""
    from targets.base import Status
    from targets.errors import TransientError

    asked = False
    while True:
        with target_errors(target.name):
            try:
                seen = target.find(part.ref, job_id)
                if seen is None or seen.uid != part.uid or seen.job_id != job_id:
                    return  # gone; what may stand under the name now is somebody else's
                why = f"it is {seen.status}" + (f" ({seen.detail})" if seen.detail else "")
                if not asked and seen.status is not Status.DELETING:
                    target.delete(part.ref, job_id=job_id, uid=part.uid)
                    asked = True
                    continue
            except TransientError as error:
                why = str(error).rstrip(".")
        if time.monotonic() > deadline:
            raise CliError(
                f"{part.ref} is not gone after {DELETE_TIMEOUT_S:.0f} s: {why}; repeat with the name that "
                "`clonejob instance list` shows"
            )
        time.sleep(_LOOK_S)


def _boot_report(clone: Clone) -> BootReport | None:
    if clone.instance is None:
        return None
    with target_errors(clone.target.name):
        return clone.target.boot_report(clone.instance.ref)


def _boot_report_if_any(looked: Found, clone: Clone) -> BootReport | None:
    """A target that shows its clones and not their consoles is told with those that show nothing."""
    try:
        return _boot_report(clone)
    except CliError as error:
        looked.unusable.setdefault(clone.target.name, str(error))
        return None


def _status(clone: Clone) -> str:
    return str(clone.instance.status) if clone.instance else "disks only"


def _verdict(report: BootReport | None) -> str:
    return str(report.verdict) if report else "-"


def _as_json(clone: Clone, report: BootReport | None) -> Json:
    return {
        "name": clone.name,
        "target": clone.target.name,
        "status": str(clone.instance.status) if clone.instance else None,
        "detail": clone.instance.detail if clone.instance else "",
        "jobId": clone.job_id,
        "boot": str(report.verdict) if report else None,
        "disks": [_part_json(part) for part in clone.parts if part.ref.kind != "instance"],
    }


def _part_json(part: Observed) -> Json:
    return {"kind": str(part.ref.kind), "name": part.ref.name, "status": str(part.status)}
