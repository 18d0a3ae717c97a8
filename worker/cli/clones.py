"""Clones as the targets show them, and which of their parts are truly their job's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.cli.errors import CliError, ExitCode

if TYPE_CHECKING:
    from models.schema import CloneJob
    from models.store import JobStore
    from targets.base import Observed, Target
    from worker.settings import Settings

    LeftAlone = tuple[tuple[Observed, str], ...]  # each with the reason


@dataclass(frozen=True, slots=True)
class Clone:
    """One instance, and in ``parts`` all that carries the label of its job on that target, itself too, in the order in
    which it may be deleted: instances first. The label alone does not tell what the job made; ``sort_out`` does.

    ``instance`` is None when only disks are there; then the job's id stands for the name.
    """

    target: Target
    job_id: str
    name: str
    instance: Observed | None
    parts: tuple[Observed, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """What is there, by target and name, on the targets that could be looked at; ``unusable``: the others, and why."""

    clones: list[Clone]
    unusable: dict[str, str]

    def end(self) -> None:
        """Say what could not be looked at. Raises: CliError if there is any."""
        if self.unusable:
            said = "; ".join(self.unusable.values())
            raise CliError(f"not every target could be looked at: {said}; choose one that can with --target")


def find_clones(settings: Settings, target_name: str | None) -> Found:
    """Look at the targets; one that cannot be used does not keep the others. Raises: CliError."""
    found = Found([], {})
    for name in _names(settings, target_name):
        try:
            with target_errors(name):
                found.clones.extend(_clones_on(_target(settings, name)))
        except CliError as error:
            if name == target_name:
                raise
            found.unusable[name] = str(error)
    found.clones.sort(key=lambda clone: (clone.target.name, clone.name))
    return found


def _clones_on(target: Target) -> Iterator[Clone]:
    from targets.base import ResourceKind

    order = (ResourceKind.INSTANCE, ResourceKind.DISK, ResourceKind.BOOT_IMAGE, ResourceKind.ADAPTED_IMAGE)
    by_job: dict[str, list[Observed]] = {}
    for each in sorted(target.inventory(), key=lambda each: order.index(each.ref.kind)):
        by_job.setdefault(each.job_id or "", []).append(each)
    for job_id, parts in by_job.items():
        instances = [each for each in parts if each.ref.kind is ResourceKind.INSTANCE]
        yield from (Clone(target, job_id, each.ref.name, each, tuple(parts)) for each in instances)
        if not instances:
            yield Clone(target, job_id, job_id, None, tuple(parts))


def _names(settings: Settings, target_name: str | None) -> list[str]:
    if target_name is not None and target_name not in settings.targets:
        raise CliError(
            f"target {target_name[:80]!r} is not configured; there are: {', '.join(settings.targets)}", ExitCode.USAGE
        )
    if not settings.data_dir.is_dir():  # a look must not make the folder
        raise CliError(
            f"there is no data folder {settings.data_dir}; name the service's with --data-dir", ExitCode.NOT_FOUND
        )
    return list(settings.targets) if target_name is None else [target_name]


def _target(settings: Settings, name: str) -> Target:
    from targets.snapshot_store import FileSnapshotStore
    from worker.composition import build_targets

    alone = settings.model_copy(update={"targets": {name: settings.targets[name]}})
    try:
        return build_targets(alone, FileSnapshotStore(settings.data_dir / "snapshots"))[name]
    except OSError as error:
        raise CliError(f"data folder {settings.data_dir} cannot be used ({error.strerror}); check its owner") from None


@contextlib.contextmanager
def target_errors(name: str) -> Iterator[None]:
    from targets.errors import TargetError

    try:
        yield
    except (TargetError, OSError) as error:
        raise CliError(f"target {name}: {str(error).rstrip('.')}") from None


def the_clone(looked: Found, name: str, settings: Settings, *, certain: bool = False) -> Clone:
    """The clone of that name, or of that job. Raises: CliError when there is none, or more than one; with ``certain`` also
    when a target that could not be looked at may have another."""
    clones = looked.clones
    found = [clone for clone in clones if clone.name == name]
    if not found:  # a job's instances on one target have the same parts: any of them stands for the job
        found = list({clone.target.name: clone for clone in clones if clone.job_id == name}.values())
    if looked.unusable and (certain or not found):
        there = "too " if found else ""
        raise CliError(
            f"whether {name[:80]!r} is {there}on {', '.join(looked.unusable)} cannot be told: "
            f"{'; '.join(looked.unusable.values())}; choose one with --target"
        )
    if not found:
        raise CliError(
            f"{settings.data_dir} has no instance {name[:80]!r} that clonejob made; see `clonejob instance list`",
            ExitCode.NOT_FOUND,
        )
    if len(found) > 1:
        where = ", ".join(clone.target.name for clone in found)
        raise CliError(f"{name} exists on the targets {where}; choose one with --target", ExitCode.CONFLICT)
    return found[0]


def job_of(settings: Settings, job_id: str) -> CloneJob | None:
    """The job, None if the database does not know it. Raises: CliError."""
    with _store(settings, "whether its clone job still runs cannot be told") as store:
        return None if store is None else store.get_job(job_id)


def note_deleted(settings: Settings, job_id: str, gone: list[Observed]) -> None:
    """Have the database know, so that an audit does not look for them. Raises: CliError."""
    with _store(settings, "they are deleted, and this was not noted") as store:
        if store is not None:
            store.note_deleted_by_user(job_id, [(str(each.ref.kind), each.ref.name, each.uid) for each in gone])


@contextlib.contextmanager
def _store(settings: Settings, or_else: str) -> Iterator[JobStore | None]:
    """The service's store; None if there is no database. Raises: CliError, which says what that means."""
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
        yield None
        return
    engine = make_engine(url)
    try:
        yield JobStore(engine)
    except sa.exc.SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise CliError(
            f"{or_else}: the database {redact_url(url)} does not answer ({reason}); check CLONEJOB_DATABASE_URL, or run "
            "`clonejob db upgrade`"
        ) from None
    finally:
        engine.dispose()


def sort_out(job: CloneJob, clone: Clone) -> tuple[tuple[Observed, ...], LeftAlone]:
    """The parts that the job's ledger names, by kind, name and uid; and of each other one, why it is left alone."""
    ours: list[Observed] = []
    others: list[tuple[Observed, str]] = []
    for part in clone.parts:
        if why := _not_ours(job, clone.target.name, part):
            others.append((part, why))
        else:
            ours.append(part)
    return tuple(ours), tuple(others)


def _not_ours(job: CloneJob, target: str, part: Observed) -> str:
    from tasks.orphans import Why, judge, row_of

    row = row_of(job, part.ref)
    if row is None or job.target != target or row.intended_time is None:
        return f"carries the label but job {job.id} never made it"
    if row.uid is None:
        return f"carries the label but job {job.id} never saw that it had made it; `clonejob audit` tells more"
    if row.uid != part.uid or judge(job, target, part) is Why.LEFT_ALONE:
        return f"carries the label but job {job.id} never made it: what it made had the uid {row.uid}"
    return ""
