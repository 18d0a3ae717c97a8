"""Commands about the clones themselves: list, console, delete.

After its job's success the service never touches a clone again; this is its owner's own hand. The targets are asked
directly, as the settings name them, so that no running service is needed.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from worker.cli.context import Cli, common_options, short_name
from worker.cli.errors import CliError, ExitCode
from worker.cli.output import plain, print_json, table

if TYPE_CHECKING:
    from models.schema import CloneJob
    from targets.base import BootReport, Observed, Target
    from worker.settings import Settings

Json = dict[str, Any]
DELETE_TIMEOUT_S = 60.0
_LOOK_S = 0.05
_target_option = click.option("--target", "target_name", metavar="T", help="Only this target.  [default: all]")


@dataclass(frozen=True, slots=True)
class Clone:
    """What one job left on one target: ``parts`` in the order in which they may be deleted, the instance first.

    ``instance`` is None when only disks are there; then the job's id stands for the name.
    """

    target: Target
    job_id: str
    name: str
    instance: Observed | None
    parts: tuple[Observed, ...]


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
    found = [(clone, _boot_report(clone)) for clone in _clones(cli.settings, target_name)]
    if cli.json:
        print_json([_as_json(clone, report) for clone, report in found])
        return
    rows = [(clone.name, clone.target.name, _status(clone), clone.job_id, _verdict(report)) for clone, report in found]
    click.echo(table(("INSTANCE", "TARGET", "STATUS", "JOB ID", "BOOT"), rows))


@instance.command()
@click.argument("name")
@_target_option
@common_options
@click.pass_obj
def console(cli: Cli, name: str, target_name: str | None) -> None:
    """Print the last few KiB of the serial console of instance NAME."""
    clone = _only(_clones(cli.settings, target_name), name, cli.settings)
    report = _boot_report(clone)
    if report is None:
        raise CliError(f"{name} has no instance, only disks; there is no console", ExitCode.CONFLICT)
    if cli.json:
        print_json(_as_json(clone, report) | {"console": report.console})
    else:
        click.echo(plain(report.console), nl=False)


@instance.command()
@click.argument("name")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--orphan", is_flag=True, help="Delete it although the database does not know its clone job.")
@_target_option
@common_options
@click.pass_obj
def delete(cli: Cli, name: str, target_name: str | None, *, yes: bool, orphan: bool) -> None:
    """Delete instance NAME and its disks, for good.

    What a running clone job makes is refused: cancel the job. NAME may be a job id, for disks left without an instance.
    """
    clone = _only(_clones(cli.settings, target_name), name, cli.settings)
    _refuse_unless_over(cli.settings, clone, orphan=orphan)
    if not yes:
        _confirm(clone)
    deadline = time.monotonic() + DELETE_TIMEOUT_S
    for part in clone.parts:
        _delete_until_gone(clone.target, part, clone.job_id, deadline)
    if cli.json:
        print_json({"deleted": [_part_json(part) for part in clone.parts], "target": clone.target.name})
    else:
        click.echo(f"deleted {', '.join(str(part.ref) for part in clone.parts)} from target {clone.target.name}")


def _clones(settings: Settings, target_name: str | None) -> list[Clone]:
    """What is there, by target and name. Raises: CliError."""
    from targets.base import ResourceKind

    order = (ResourceKind.INSTANCE, ResourceKind.DISK, ResourceKind.ADAPTED_IMAGE)
    found = []
    for target in _targets(settings, target_name).values():
        with _target_errors(target.name):
            seen = target.inventory()
        by_job: dict[str, list[Observed]] = {}
        for each in sorted(seen, key=lambda each: order.index(each.ref.kind)):
            by_job.setdefault(each.job_id or "", []).append(each)
        for job_id, (first, *rest) in by_job.items():
            instance = first if first.ref.kind is ResourceKind.INSTANCE else None
            found.append(Clone(target, job_id, first.ref.name if instance else job_id, instance, (first, *rest)))
    return sorted(found, key=lambda clone: (clone.target.name, clone.name))


def _targets(settings: Settings, target_name: str | None) -> Mapping[str, Target]:
    from targets.snapshot_store import FileSnapshotStore
    from worker.composition import build_targets

    if target_name is not None and target_name not in settings.targets:
        raise CliError(
            f"target {target_name[:80]!r} is not configured; there are: {', '.join(settings.targets)}", ExitCode.USAGE
        )
    if not settings.data_dir.is_dir():  # a look must not make the folder
        raise CliError(
            f"there is no data folder {settings.data_dir}; name the service's with --data-dir", ExitCode.NOT_FOUND
        )
    if target_name is not None:
        settings = settings.model_copy(update={"targets": {target_name: settings.targets[target_name]}})
    try:
        return build_targets(settings, FileSnapshotStore(settings.data_dir / "snapshots"))
    except OSError as error:
        raise CliError(f"data folder {settings.data_dir} cannot be used ({error.strerror}); check its owner") from None


@contextlib.contextmanager
def _target_errors(name: str) -> Iterator[None]:
    from targets.errors import TargetError

    try:
        yield
    except (TargetError, OSError) as error:
        raise CliError(f"target {name}: {str(error).rstrip('.')}") from None


def _only(clones: list[Clone], name: str, settings: Settings) -> Clone:
    """The clone of that name. Raises: CliError when there is none, or more than one."""
    found = [clone for clone in clones if clone.name == name]
    if not found:
        raise CliError(
            f"{settings.data_dir} has no instance {name[:80]!r} that clonejob made; see `clonejob instance list`",
            ExitCode.NOT_FOUND,
        )
    if len(found) > 1:
        where = ", ".join(clone.target.name for clone in found)
        raise CliError(f"{name} exists on the targets {where}; choose one with --target", ExitCode.CONFLICT)
    return found[0]


def _refuse_unless_over(settings: Settings, clone: Clone, *, orphan: bool) -> None:
    """A job that has ended stays so: after this look nobody else makes, changes or deletes what it made."""
    job = _job(settings, clone.job_id)
    if job is None:
        if orphan:
            return
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


def _job(settings: Settings, job_id: str) -> CloneJob | None:
    from pathlib import Path

    import sqlalchemy as sa

    from models.db import make_engine
    from models.store import JobStore
    from worker.service_file import read_service
    from worker.settings import redact_url

    service = read_service(settings.data_dir)
    named = "database_url" in settings.model_fields_set or service is None
    url = settings.database_url if named or service is None else str(service["database_url"])
    file = sa.make_url(url).database if url.startswith("sqlite") else None
    if file and not Path(file).exists():  # a look must not make the file
        return None
    engine = make_engine(url)
    try:
        return JobStore(engine).get_job(job_id)
    except sa.exc.SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise CliError(
            f"whether its clone job still runs cannot be told: the database {redact_url(url)} does not answer "
            f"({reason}); check CLONEJOB_DATABASE_URL, or run `clonejob db upgrade`"
        ) from None
    finally:
        engine.dispose()


def _confirm(clone: Clone) -> None:
    what = ", ".join(str(part.ref) for part in clone.parts)
    if not sys.stdin.isatty():
        raise CliError(f"this deletes {what} for good, and nobody can be asked here; repeat with --yes", ExitCode.USAGE)
    if not click.confirm(f"Delete {what} from target {clone.target.name} for good?", err=True):
        raise CliError("not confirmed; nothing was deleted")


def _delete_until_gone(target: Target, part: Observed, job_id: str, deadline: float) -> None:
    """Delete exactly what was seen, until the target no longer shows it. Raises: CliError."""
    from targets.base import Status
    from targets.errors import TransientError

    asked = False
    while True:
        with _target_errors(target.name):
            try:
                seen = target.find(part.ref)
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
    with _target_errors(clone.target.name):
        return clone.target.boot_report(clone.instance.ref)


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
        "disks": [_part_json(part) for part in clone.parts if part is not clone.instance],
    }


def _part_json(part: Observed) -> Json:
    return {"kind": str(part.ref.kind), "name": part.ref.name, "status": str(part.status)}
