"""``clonejob audit``: what exists at the targets that no job accounts for, and what becomes of it."""

from __future__ import annotations

import re
import time
from typing import Any

import click

from worker.cli.context import Cli, common_options, short_name
from worker.cli.errors import CliError, ExitCode
from worker.cli.output import print_json, print_json_line, show_time

Json = dict[str, Any]
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_LONGEST_S = 7 * 86_400
_SHORTEST_LOOK_S, _LONGEST_LOOK_S = 1.0, 60.0


@click.command()
@click.option("--target", "target_name", metavar="NAME", help="Only this target.  [default: all]")
@click.option("--delete", is_flag=True, help="Delete the orphans for which there is proof.")
@click.option("--quarantine", metavar="TIME", default="60s", show_default=True,
              help="How long an orphan must have been seen at least, such as 90s, 10m or 1h.")  # fmt: skip
@click.option("--inventories", metavar="N", type=click.IntRange(2, 1000), default=3, show_default=True,
              help="In how many good inventories without a break.")  # fmt: skip
@click.option("--watch", is_flag=True, help="Go on until looking longer would change nothing.")
@common_options
@click.pass_obj
def audit(
    cli: Cli, target_name: str | None, quarantine: str, inventories: int, *, delete: bool, watch: bool
) -> ExitCode:
    """Hold what exists at the targets against the database, and report.

    ORPHANS carry our label and no job accounts for them. MISSING is what should exist, and was perhaps deleted by its
    owner; what the owner deleted with `clonejob instance delete` is told with its time. WAITING are clean-ups that are not finished. NOT OURS is never touched.

    Each look is counted in the service; with --delete those orphans go that a failed or cancelled job left behind and
    that were seen often and long enough. Exit code: 0 no orphan is left, 1 some are, or a target did not answer.
    """
    quarantine_s = _seconds(quarantine)
    wanted: Json = {"quarantineS": quarantine_s, "inventories": inventories}
    if target_name is not None:
        wanted["target"] = target_name
    path = f"/clonejob/v1/{cli.parent}:{'deleteOrphans' if delete else 'audit'}"
    pause_s = min(max(quarantine_s / (inventories - 1), _SHORTEST_LOOK_S), _LONGEST_LOOK_S)
    while True:
        found = cli.client.post(path, wanted)
        if not cli.json:
            click.echo(text(found))
        elif watch:
            print_json_line(found)
        else:
            print_json(found)
        if not watch or _is_settled(found, delete=delete):
            bad = [target for target in found["targets"] if not target["good"]]
            return ExitCode.FAILURE if found["orphans"] or bad else ExitCode.OK
        time.sleep(pause_s)


def text(found: Json) -> str:
    """What an audit found, for people."""
    lines, missing = [_target(each) for each in found["targets"]], found["missing"]
    for title, rows, line in (
        ("DELETED", found["deleted"], _deleted),
        ("ORPHANS", found["orphans"], _orphan),
        ("WAITING", found["cleanups"], _cleanup),
        ("MISSING, perhaps deleted by their owners", [row for row in missing if not row.get("deletedTime")], _missing),
        (
            "DELETED BY THEIR OWNERS with clonejob instance delete",
            [row for row in missing if row.get("deletedTime")],
            _deleted_by_owner,
        ),
        ("NOT OURS, never touched", found["strangers"], _stranger),
    ):
        if rows:
            lines += ["", f"{title} ({len(rows)})", *(part for row in rows for part in line(row))]
    if found["elsewhere"]:
        lines += ["", f"{found['elsewhere']} more belong to other projects"]
    if not found["orphans"]:
        lines += ["", "no orphan is left" if found["deleted"] else "no orphan was found"]
    return "\n".join(lines)


def _target(target: Json) -> str:
    if target["good"]:
        return f"target {target['name']}: {target['things']} with our label"
    return f"target {target['name']}: this look does not count: {target['detail']}"


def _orphan(row: Json) -> list[str]:
    owner = f"job {_job(row['jobName'])} {row['jobState']}" if row["jobName"] else f"unknown job {row['jobId']}"
    seen = (
        f"first seen {show_time(row['firstSeen'])}, {row['goodInventories']} good inventories"
        if row["firstSeen"]
        else "not counted"
    )
    return [f"  {_what(row)}, uid {row['uid']}, {row['status']}", f"      {owner}: {row['meaning']}",
            f"      {seen}", f"      next: {row['next']}"]  # fmt: skip


def _deleted(row: Json) -> list[str]:
    name = _job(row["jobName"]) if row["jobName"] else row["jobId"]
    return [f"  {_what(row)}, uid {row['uid']}, which job {name} had left"]


def _cleanup(row: Json) -> list[str]:
    waits = f"since {show_time(row['since'])}, attempt {row['attempts'] + 1}: {row['detail'] or 'no reason given'}"
    return [f"  {_job(row['jobName'])} {row['state']} on {row['target']} {waits}"]


def _missing(row: Json) -> list[str]:
    return [f"  {_what(row)}, of job {_job(row['jobName'])}"]


def _deleted_by_owner(row: Json) -> list[str]:
    return [f"  {_what(row)}, of job {_job(row['jobName'])}, at {show_time(row['deletedTime'])}"]


def _stranger(row: Json) -> list[str]:
    near = f" (near job {_job(row['jobName'])})" if row["jobName"] else ""
    return [f"  {_what(row)}, uid {row['uid']}: {row['meaning']}{near}"]


def _job(name: str) -> str:
    """A job's short name; the record of a job whose VM was deleted has a name below ``deleted/``."""
    buried, _, rest = name.partition("projects/")
    return short_name(f"projects/{rest}") + (" (of a deleted VM)" if buried else "")


def _what(row: Json) -> str:
    return f"{row['kind']} {row['name']} on {row['target']}"


def _is_settled(found: Json, *, delete: bool) -> bool:
    """Whether another look would tell the same."""
    if not all(target["good"] for target in found["targets"]):
        return False
    return not any(row["why"] == "JOB_RUNNING" or (row["deletable"] and (delete or not row["proven"]))
                   for row in found["orphans"])  # fmt: skip


def _seconds(text: str) -> float:
    match = re.fullmatch(r"([0-9]{1,7})([smhd]?)", text.strip())
    seconds = int(match[1]) * _SECONDS[match[2]] if match else -1
    if not 0 <= seconds <= _LONGEST_S:
        raise CliError(f"--quarantine {text[:80]!r} is no time up to 7 days: write 90s, 10m or 1h", ExitCode.USAGE)
    return float(seconds)
