"""Commands about clone jobs: plan, submit, list, show, watch, explain, cancel."""

from __future__ import annotations

import datetime as dt
import secrets
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from models.states import JobState
from worker.cli import cancelling, evidence, outcome, progress, reports
from worker.cli.context import Cli, check_id, common_options, short_name
from worker.cli.errors import CliError, ExitCode, response_of
from worker.cli.output import (
    duration,
    plain,
    print_json,
    show_time,
    step_name,
    table,
)

Json = dict[str, Any]


@click.command()
@click.argument("vm_text", metavar="VM")
@click.option("--id", "job_id", metavar="ID", help="Id of the job.  [default: clone-DATE-TIME-xxxx]")
@click.option("--request-id", metavar="UUID",
              help="Makes the call safe to repeat: the same id, the same job, whose own id follows from it.")  # fmt: skip
@click.option("--wait", is_flag=True, help="Wait for the end; exit 1 unless the job SUCCEEDED.")
@common_options
@click.pass_obj
def submit(cli: Cli, vm_text: str, job_id: str | None, request_id: str | None, *, wait: bool) -> int:
    """Clone a VM from its latest successful cycle; prints the job's name."""
    vm_name = cli.vm_name(vm_text)
    request_id = _checked_uuid(request_id)
    job_id = check_id("job", job_id) if job_id else _new_id(request_id)
    operation = cli.client.post(
        f"/v1/{vm_name}/cloneJobs", {}, cloneJobId=job_id, requestId=request_id or str(uuid.uuid4())
    )
    response_of(operation)
    name = operation.get("metadata", {}).get("target") or f"{vm_name}/cloneJobs/{job_id}"
    if not cli.json:
        click.echo(name)
    job = progress.wait_for(cli.client, name, quiet=cli.json) if wait else cli.client.get(f"/v1/{name}")
    if cli.json:
        print_json(job)
    if not wait or job["state"] == "SUCCEEDED":
        return ExitCode.OK
    raise CliError(f"{short_name(name)} ended {job['state']}{_because(job)}; see `clonejob show {short_name(name)}`")


@click.command("list")
@click.argument("vm_text", metavar="[VM]", required=False)
@click.option("--state", type=click.Choice([*JobState], case_sensitive=False), help="Only jobs in this state.")
@click.option("--limit", metavar="N", type=click.IntRange(1), help="Only the newest N.")
@common_options
@click.pass_obj
def list_jobs(cli: Cli, vm_text: str | None, state: str | None, limit: int | None) -> None:
    """Clone jobs of a VM, or of all VMs, newest first."""
    vm_name = cli.vm_name(vm_text) if vm_text else f"{cli.parent}/sources/-/migratingVms/-"
    jobs = cli.client.list(f"/v1/{vm_name}/cloneJobs", "cloneJobs")
    jobs = [job for job in jobs if state in (None, job.get("state"))][:limit]
    if cli.json:
        print_json(jobs)
        return
    rows = [
        (short_name(job["name"]), job.get("state", ""), show_time(job.get("createTime")), _lasted(job)) for job in jobs
    ]
    click.echo(table(("JOB", "STATE", "CREATED", "DURATION"), rows))


@click.command()
@click.argument("job_text", metavar="JOB")
@click.option(
    "--evidence",
    "with_evidence",
    is_flag=True,
    help="What the job saw of its clone: whether it boots, console, screen, hashes.",
)
@click.option(
    "--screenshot",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Save the screen (PNG) after checking its SHA-256; implies --evidence.",
)
@common_options
@click.pass_obj
def show(cli: Cli, job_text: str, *, with_evidence: bool, screenshot: Path | None) -> None:
    """One job: state, target, pinned cycle, steps, what it created and deleted, events."""
    name = cli.job_name(job_text)
    if with_evidence or screenshot is not None:
        evidence.show(cli, name, screenshot)
        return
    client = cli.client
    job = client.get(f"/v1/{name}")
    more = {part: client.get(f"/clonejob/v1/{name}/{part}") for part in ("progress", "ledger", "events")}
    if cli.json:
        print_json({"cloneJob": job} | more)
        return
    _show_head(job, more["progress"], more["ledger"].get("ledger", []))
    _show_steps(job.get("steps", []))
    _show_adaptation(outcome.adaptation_of(more["progress"]))
    _show_ledger(more["ledger"].get("ledger", []))
    events = [
        (show_time(e.get("time")), e.get("kind", ""), e.get("message", "")) for e in more["events"].get("events", [])
    ]
    click.echo("\nEvents\n" + table(("TIME", "KIND", "MESSAGE"), events, indent="  "))
    outcome.say_warnings(job, more["progress"])


@click.command()
@click.argument("job_texts", metavar="JOB...", nargs=-1, required=True)
@common_options
@click.pass_obj
def watch(cli: Cli, job_texts: Sequence[str]) -> int:
    """Follow jobs to their end, live; exit 1 when one FAILED."""
    names = [cli.job_name(text) for text in job_texts]
    jobs = progress.follow(cli.client, names, as_json=cli.json)
    return ExitCode.FAILURE if any(job["state"] == "FAILED" for job in jobs) else ExitCode.OK


@click.command()
@click.argument("job_texts", metavar="JOB...", nargs=-1, required=True)
@click.option("--wait", is_flag=True, help="Wait until nothing that the jobs created exists any more.")
@common_options
@click.pass_obj
def cancel(cli: Cli, job_texts: Sequence[str], *, wait: bool) -> None:
    """Cancel jobs: what they created is deleted."""
    names = list(dict.fromkeys(cli.job_name(text) for text in job_texts))
    jobs, errors = cancelling.cancel(cli.client, names, wait=wait, quiet=cli.json)
    if cli.json and (jobs or len(names) > 1):
        print_json(jobs if len(names) > 1 else jobs[0])
    elif not cli.json:
        for job in jobs:
            click.echo(f"{short_name(job['name'])} is {job['state']}")
    if errors:
        raise errors[0] if len(errors) == 1 else CliError("; ".join(map(str, errors)), errors[0].code)


@click.command()
@click.argument("vm_text", metavar="VM")
@common_options
@click.pass_obj
def plan(cli: Cli, vm_text: str) -> int:
    """What cloning a VM would create, and what blocks it; changes nothing. Exit 5 when something blocks it."""
    found = cli.client.post(f"/clonejob/v1/{cli.vm_name(vm_text)}:planCloneJob")
    if cli.json:
        print_json(found)
    else:
        click.echo(reports.plan(found))
    return ExitCode.OK if found.get("ready") else ExitCode.CONFLICT


@click.command()
@click.argument("job_text", metavar="JOB")
@common_options
@click.pass_obj
def explain(cli: Cli, job_text: str) -> None:
    """Why a job waits or failed, what was cleaned, what was kept, and what to do next."""
    found = cli.client.get(f"/clonejob/v1/{cli.job_name(job_text)}:explain")
    if cli.json:
        print_json(found)
    else:
        click.echo(reports.explanation(found))


def _new_id(request_id: str | None) -> str:
    if request_id:
        return f"clone-{uuid.UUID(request_id).hex}"
    now = dt.datetime.now(dt.UTC)
    return f"clone-{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def _checked_uuid(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise CliError(
            f"--request-id {text[:80]!r} is not a UUID; leave it out to have one made", ExitCode.USAGE
        ) from None


def _because(job: Json) -> str:
    message = job.get("error", {}).get("message")
    return f": {message}" if message else ""


def _lasted(job: Json) -> str:
    return duration(job.get("createTime"), job.get("endTime"))


def _show_head(job: Json, more: Json, ledger: list[Json]) -> None:
    target = job.get("computeEngineTargetDetails", {})
    instances = [row["name"] for row in ledger if row.get("kind") == "instance"]
    instance = instances[0] if instances else target.get("vmName", "-")
    lines = [
        ("state", f"{job.get('state', '')} since {show_time(job.get('stateTime'))}"),
        ("created", f"{show_time(job.get('createTime'))}, {_lasted(job)}"),
        ("target", f"{target.get('project') or more.get('target', '-')}, zone {target.get('zone', '-')}"),
        ("instance", f"{instance} (hostname {target.get('hostname') or '-'})")
        if instances or target
        else ("disks", ", ".join(row["name"] for row in ledger if row.get("kind") == "disk")),
        ("cycle", f"{more.get('replicationCycle', '-')} (pinned)"),
    ]
    if boot := outcome.boot_of(more):
        lines.append(("boot", outcome.boot_line(boot)))
    if report := outcome.adaptation_of(more):
        lines.append(("adapted", outcome.adaptation_line(report)))
    if job.get("error"):
        lines.append(("error", job["error"].get("message", "")))
    if more.get("cleanupDetail"):
        lines.append(("clean-up", more["cleanupDetail"]))
    if count := more.get("staleWrites"):
        lines.append(("refused", f"{count} stale write(s) of workers that had lost the job"))
    click.echo(job["name"] + "\n" + "\n".join(f"{label:<9} {text}" for label, text in lines))


def _show_steps(steps: list[Json]) -> None:
    rows = [
        (step_name(s), show_time(s.get("startTime")), duration(s.get("startTime"), s.get("endTime"))) for s in steps
    ]
    click.echo("\nSteps\n" + table(("STEP", "STARTED", "DURATION"), rows, indent="  "))


def _show_adaptation(report: Json) -> None:
    rows = [
        (a.get("id", ""), str(a.get("version", "")), a.get("outcome", ""), plain(str(a.get("reason", ""))).strip())
        for a in report.get("actions", [])
    ]
    if rows:
        click.echo("\nOS adaptation\n" + table(("RECIPE", "VERSION", "OUTCOME", "REASON"), rows, indent="  "))


def _show_ledger(ledger: list[Json]) -> None:
    rows = [
        (row.get("kind", ""), row.get("name", ""), row.get("role", ""), row.get("state", ""),
         show_time(row.get("createdTime")), show_time(row.get("absentTime")))
        for row in ledger
    ]  # fmt: skip
    head = ("KIND", "NAME", "ROLE", "STATE", "CREATED", "SEEN ABSENT")
    click.echo("\nLedger\n" + table(head, rows, indent="  "))
