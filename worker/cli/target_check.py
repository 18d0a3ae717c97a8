"""``clonejob target check``: run the conformance kit against a configured target."""

from __future__ import annotations

import contextlib
import functools
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from worker.cli.context import Cli, common_options
from worker.cli.details import details_of
from worker.cli.errors import CliError, ExitCode
from worker.cli.output import print_json

if TYPE_CHECKING:
    from targets.base import ResourceKind, Snapshot, Target
    from targets.conformance import Check, Result, Stage
    from targets.snapshot_store import FileSnapshotStore
    from worker.settings import Settings

Json = dict[str, Any]
_GIB = 2**30
# Seconds: patience with one operation, pause between two looks, how late the inventory may be.
_HERE, _AT_A_PROVIDER = (60.0, 0.02, 0.0), (900.0, 2.0, 60.0)


@click.command()
@click.argument("name")
@click.option("--only", metavar="TEXT", default="", help="Only the checks whose names contain TEXT.")
@click.option("--snapshot", "images", metavar="FILE", multiple=True, type=click.Path(path_type=Path),
              help="Disk image to clone, copied for the run; repeat it for more disks.  [default: a tiny guest of ours]")  # fmt: skip
@click.option("--format", "image_format", type=click.Choice(["auto", "raw", "qcow2"]), default="auto", show_default=True,
              help="Format of the images of --snapshot.")  # fmt: skip
@click.option("--reference", "references", metavar="NAME", multiple=True,
              help="Snapshot or image that lies at the provider already; repeat it for more disks.")  # fmt: skip
@click.option("--size-gb", metavar="N", type=click.IntRange(1, 65536), default=10, show_default=True,
              help="Size of the disks of --reference in GiB.")  # fmt: skip
@click.option("--machine-type", metavar="T", default="", help="Machine type of the instances; default: the target's.")
@click.option("--details", metavar="JSON", default="{}", help="More of ComputeEngineTargetDetails, as JSON.")
@click.option("--skip-os-adaptation", is_flag=True, help="Make no adapted images: the guest is not known.")
@click.option("--patience", "patience_s", metavar="SECONDS", type=click.FloatRange(min=0.1),
              help="How long one operation may take.  [default: 60; 900 at a provider]")  # fmt: skip
@click.option("--yes", "-y", is_flag=True, help="Do not ask before things are made that may cost money.")
@common_options
@click.pass_obj
def check(
    cli: Cli,
    *,
    name: str,
    only: str,
    images: tuple[Path, ...],
    image_format: str,
    references: tuple[str, ...],
    size_gb: int,
    machine_type: str,
    details: str,
    skip_os_adaptation: bool,
    patience_s: float | None,
    yes: bool,
) -> ExitCode:
    """Check that the configured target NAME keeps the protocol of targets.

    Makes images, disks and instances, labelled with job ids of its own (kit-…), and removes them; nothing else is
    touched, and what could not be removed is named. Checks that need the hand of the target's owner are not applicable
    here; docs/adding-a-target.md says how to give them one. Exit code: 0 no check failed and nothing is left, else 1.
    """
    from targets.conformance import CHECKS, Stage

    settings = cli.settings
    if name not in settings.targets:
        raise CliError(f"target {name[:80]!r} is not configured; there are: {', '.join(settings.targets)}",
                       ExitCode.USAGE)  # fmt: skip
    if images and references:
        raise CliError("give either --snapshot or --reference", ExitCode.USAGE)
    checks = [each for each in CHECKS if only in each.name]
    if not checks:
        raise CliError(f"no check has {only[:80]!r} in its name; `clonejob target check --help` says more",
                       ExitCode.USAGE)  # fmt: skip
    options = settings.targets[name].options
    more = details_of(details)
    if options.is_billable and not yes:
        _confirm(name, len(checks))
    patience, poll_s, lag_s = _AT_A_PROVIDER if options.is_billable else _HERE
    with (
        _store(settings.data_dir) as store,
        _snapshots(store, images, image_format, references, size_gb) as (snapshots, gone),
    ):
        connect = functools.partial(_connect, settings, name, store)
        stage = Stage(
            connect=connect,
            snapshots=snapshots,
            gone=gone if options.reads_snapshots else None,
            kinds=_kinds(name, connect) if skip_os_adaptation else None,
            details=more,
            machine_type=machine_type,
            boots=None if images or references else True,
            patience_s=patience_s or patience,
            poll_s=poll_s,
            lag_s=lag_s,
        )
        # At a provider our own guest is no source, so the error is most likely about that.
        hint = options.is_billable and not images and not references
        _refuse_unless_it_can_work(
            name, stage, hint="; name what to clone with --snapshot or --reference" if hint else ""
        )
        with _no_adaptation_kept(connect, snapshots):
            return _run(cli, f"{name} ({settings.targets[name].type})", stage, checks)


def _run(cli: Cli, name: str, stage: Stage, checks: list[Check]) -> ExitCode:
    from targets.conformance import Outcome, run

    start, results, left = time.monotonic(), [], []

    def on_left(what: str) -> None:
        left.append(what)
        click.echo(f"left behind: {what}", err=True)

    with _sigterm_as_ctrl_c():
        for result in run(stage, checks, on_left=on_left):
            results.append(result)
            if not cli.json:
                click.echo(_line(result))
    counts = {str(outcome): sum(each.outcome is outcome for each in results) for outcome in Outcome}
    if cli.json:
        print_json(
            {
                "target": name.split(" ", maxsplit=1)[0],
                "counts": counts,
                "checks": list(map(_as_json, results)),
                "left": left,
            }
        )
    else:
        said = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
        rest = f"{len(left)} left behind, see above" if left else "nothing is left"
        click.echo(f"target {name}: {said} in {time.monotonic() - start:.0f} s; {rest}")
    return ExitCode.FAILURE if left or counts["failed"] else ExitCode.OK


def _line(result: Result) -> str:
    line = f"{result.outcome:<14}  {result.check.name}" + (f": {result.detail}" if result.detail else "")
    if result.outcome == "failed":
        line += f"\n{'':<14}  rule: {result.check.rule} ({result.check.source})"
    return line


def _as_json(result: Result) -> Json:
    each = result.check
    return {
        "name": each.name,
        "outcome": str(result.outcome),
        "detail": result.detail,
        "rule": each.rule,
        "source": each.source,
        "seconds": round(result.seconds, 3),
        "left": list(result.left),
    }


def _confirm(name: str, count: int) -> None:
    what = f"target {name}: {count} checks make images, disks and instances there, which may cost money"
    if not sys.stdin.isatty():
        raise CliError(f"{what}, and nobody can be asked here; repeat with --yes", ExitCode.USAGE)
    if not click.confirm(f"{what}. Go on?", err=True):
        raise CliError("not confirmed; nothing was made")


def _refuse_unless_it_can_work(name: str, stage: Stage, *, hint: str) -> None:
    """One error for all checks, before anything is made."""
    from targets.conformance.bench import Bench
    from targets.errors import TargetError

    with _target_errors(name):
        bench = Bench(stage, "kit-0")
        try:
            bench.target.check([bench.part(bench.job(), bench.name())])
        except TargetError as error:
            raise CliError(f"target {name} cannot clone this: {str(error).rstrip('.')}{hint}") from None


def _kinds(name: str, connect: Callable[[], Target]) -> frozenset[ResourceKind]:
    from targets.base import ResourceKind

    with _target_errors(name):
        target = connect()
    return frozenset({ResourceKind.INSTANCE, ResourceKind.BOOT_IMAGE if target.boots_from_image else ResourceKind.DISK})


@contextlib.contextmanager
def _target_errors(name: str) -> Iterator[None]:
    from targets.errors import TargetError

    try:
        yield
    except (TargetError, OSError) as error:
        raise CliError(f"target {name}: {str(error).rstrip('.')}") from None


@contextlib.contextmanager
def _store(data_dir: Path) -> Iterator[FileSnapshotStore]:
    from targets.errors import TransientError
    from targets.images import ImageError
    from targets.snapshot_store import FileSnapshotStore, SnapshotStoreError

    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        yield FileSnapshotStore(data_dir / "snapshots")
    except (SnapshotStoreError, ImageError, TransientError) as error:
        raise CliError(str(error).rstrip(".")) from None
    except OSError as error:
        raise CliError(f"data folder {data_dir} cannot be used ({error.strerror}); check its owner") from None


@contextlib.contextmanager
def _snapshots(
    store: FileSnapshotStore, images: tuple[Path, ...], image_format: str, references: tuple[str, ...], size_gb: int
) -> Iterator[tuple[tuple[Snapshot, ...], Snapshot]]:
    from targets.base import Snapshot
    from targets.conformance.snapshots import kit_snapshots
    from worker.cli.vms import check_disk

    if references:
        kept = tuple(Snapshot(each, "reference", size_gb * _GIB, "") for each in references)
        gone = f"{references[0].rpartition('/')[0]}/kit-no-such-snapshot".lstrip("/")
        yield kept, Snapshot(gone, "reference", size_gb * _GIB, "")
        return
    checked = [check_disk(path, image_format) for path in images]
    with kit_snapshots(store, [(each.path, each.format) for each in checked]) as made:
        yield made


@contextlib.contextmanager
def _no_adaptation_kept(connect: Callable[[], Target], snapshots: tuple[Snapshot, ...]) -> Iterator[None]:
    """What the target keeps of the kit's own snapshots goes with them."""
    from targets.adaptation_keeper import AdaptationKeeper
    from targets.errors import TargetError

    try:
        yield
    finally:
        target = connect()
        if isinstance(target, AdaptationKeeper):
            try:
                target.drop_adaptations({each.key for each in snapshots}, dry_run=False)
            except TargetError as error:
                raise CliError(f"what the target keeps of this run goes at the next snapshot prune: {error}") from None


def _connect(settings: Settings, name: str, store: FileSnapshotStore) -> Target:
    """The target as another process has it."""
    from worker.composition import build_targets

    alone = settings.model_copy(update={"targets": {name: settings.targets[name]}})
    return build_targets(alone, store)[name]


@contextlib.contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """What was made is removed then, too."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
