"""The demo's last page: what became of each job, step by step and resource by resource."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from worker.cli.output import step_text
from worker.demo.watch import JobWatch


def print_summary(console: Console, watch: JobWatch, names: Mapping[str, str]) -> None:
    """Jobs with their steps, then every resource with what became of it."""
    jobs = Table("job", "VM", "state", "steps", "why", title="\nJobs", title_justify="left")
    resources = Table(
        "job", "resource", "created", "now", "absence seen", title="\nWhat the jobs made", title_justify="left"
    )
    for title, name in names.items():
        progress = watch.page(name, "progress")
        error = (progress["error"] or {}).get("message", "")
        jobs.add_row(title, name.split("/")[7], progress["state"], _steps(progress["steps"]), error)
        for row in watch.page(name, "ledger")["ledger"]:
            resources.add_row(title, f"{row['kind']} {row['name']}", _clock(row["createdTime"]) or "",
                              _fate(row, progress["state"]), _clock(row["absentTime"]))  # fmt: skip
    console.print(jobs)
    console.print(resources)


def _steps(steps: list[dict[str, Any]]) -> str:
    lines = []
    for step in steps:
        if step.get("startTime"):
            end = step.get("endTime")
            took = f"{(_time(end) - _time(step['startTime'])).total_seconds():.1f} s" if end else "not ended"
            lines.append(f"{step_text(step['kind'])} {took}")
    return "\n".join(lines)


def _fate(row: dict[str, Any], job_state: str) -> str:
    if row["state"] == "KEPT":
        return "kept: yours"
    if row["state"] != "ABSENT":
        return str(row["state"])
    if not row["createdTime"] and not row["deletingTime"]:
        return "never existed"
    return "removed before success" if job_state == "SUCCEEDED" else "deleted"


def _time(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)


def _clock(text: str | None) -> str:
    return _time(text).strftime("%H:%M:%S.%f")[:-3] if text else ""
