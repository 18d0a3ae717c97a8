"""``clonejob snapshot``: the snapshot store. Like ``instance``, it works on the data folder and the database themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from worker.cli.context import Cli, common_options, short_name
from worker.cli.errors import CliError, ExitCode
from worker.cli.output import print_json, table

if TYPE_CHECKING:
    from tasks.services.snapshots import SnapshotService

_DELETED = "deleted/"


@click.group()
def snapshot() -> None:
    """Snapshots of the VMs' disks, as they lie in the data folder."""


@snapshot.command()
@click.option("--keep", metavar="N", type=click.IntRange(min=1), default=1, show_default=True,
              help="How many of each VM's latest successful cycles stay.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only say what would go and what would stay, and why.")
@common_options
@click.pass_obj
def prune(cli: Cli, keep: int, *, dry_run: bool) -> None:
    """Remove the snapshots of older cycles that nothing needs.

    The latest successful cycle of a VM stays, what a running clone job has pinned, and what a clone's disk lies on:
    `clonejob instance flatten` makes a clone independent.
    """
    with _service(cli) as service:
        reports = service.prune(keep=keep, dry_run=dry_run)
    if cli.json:
        cycles = [{"cycle": each.cycle, "pruned": not each.kept, "kept": each.kept, "freedBytes": each.freed_bytes}
                  for each in reports]  # fmt: skip
        print_json({"dryRun": dry_run, "cycles": cycles})
        return
    word = "would go" if dry_run else "pruned"
    rows = [(_shown(each.cycle), "kept: " + each.kept if each.kept else f"{word}, {each.freed_bytes} bytes")
            for each in reports]  # fmt: skip
    click.echo(table(("CYCLE", "SNAPSHOTS"), rows))


def _shown(name: str) -> str:
    if name.startswith(_DELETED):
        name = name.split("/", 2)[2]
        return f"{short_name(name)} (VM deleted)"
    return short_name(name)


@contextmanager
def _service(cli: Cli) -> Iterator[SnapshotService]:
    import sqlalchemy.exc

    from models.db import make_engine
    from targets.errors import TargetError
    from tasks.errors import ServiceError
    from tasks.services.snapshots import SnapshotService
    from worker.composition import quiet_runtime
    from worker.service_file import read_service
    from worker.settings import redact_url

    settings = cli.settings
    if not settings.data_dir.is_dir():  # a look must not make the folder
        raise CliError(
            f"there is no data folder {settings.data_dir}; name the service's with --data-dir", ExitCode.NOT_FOUND
        )
    running = read_service(settings.data_dir)
    if running is not None and "database_url" not in settings.model_fields_set:
        settings = settings.model_copy(update={"database_url": running["database_url"]})
    engine = make_engine(settings.database_url)
    try:
        yield SnapshotService(quiet_runtime(settings, engine))
    except ServiceError as error:
        raise CliError(error.message, reason=error.reason) from None
    except TargetError as error:
        raise CliError(f"nothing was pruned: {error}") from None
    except (sqlalchemy.exc.SQLAlchemyError, OSError) as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise CliError(
            f"the database {redact_url(settings.database_url)} cannot be used ({reason}); "
            "run `clonejob db upgrade`, and check CLONEJOB_DATABASE_URL"
        ) from None
    finally:
        engine.dispose()
