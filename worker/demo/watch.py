"""What the demo sees: the service's own words about a job, and QEMU's about virtual machines."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from qemu.qmp import QMPClient, QMPError
from rich.console import Console
from rich.live import Live
from rich.table import Table

from worker.cli.output import step_text
from worker.demo.service import DemoError, Service

TERMINAL = ("SUCCEEDED", "FAILED", "CANCELLED")
_STATE_STYLE = {"SUCCEEDED": "green", "FAILED": "red", "CANCELLED": "yellow", "CANCELLING": "yellow"}


_ANSWER_S = 5.0
NOT_ANSWERING = "not answering"


@dataclass(frozen=True)
class Vm:
    """One running virtual machine; ``status`` is what QEMU itself answers on its monitor socket, or NOT_ANSWERING."""

    name: str
    status: str
    pid: int
    command: tuple[str, ...]


def qemu_view(data_dir: Path) -> list[Vm]:
    """Every QEMU process on files of this data folder, with what its monitor says. Asks the kernel and QEMU, not us.

    One that runs and says nothing is there all the same: it may be frozen, or not have opened its monitor yet.
    """
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        command = tuple(process.info["cmdline"] or ())
        # A zombie has no command line, so a virtual machine that has just ended is not counted.
        if command and "qemu-system" in command[0] and any(str(data_dir) in part for part in command):
            name = command[command.index("-name") + 1].split(",")[0]
            status = _status(data_dir / "targets" / "local" / "instances" / name)
            if status != NOT_ANSWERING or _still_runs(process, command):
                found.append(Vm(name, status, process.info["pid"], command))
    return found


def _still_runs(process: psutil.Process, command: tuple[str, ...]) -> bool:
    """Who does not answer may have ended while it was asked."""
    try:
        return tuple(process.cmdline()) == command
    except psutil.Error:
        return False


def _status(instance: Path) -> str:
    try:
        folder = os.open(instance, os.O_RDONLY)
        try:
            return asyncio.run(_query_status(f"/proc/self/fd/{folder}/qmp.sock"))
        finally:
            os.close(folder)
    except (EOFError, OSError, QMPError):  # a TimeoutError is an OSError
        return NOT_ANSWERING


async def _query_status(socket: str) -> str:
    monitor = QMPClient("demo")
    async with asyncio.timeout(_ANSWER_S):
        await monitor.connect(socket)
        try:
            reply: Any = await monitor.execute("query-status")
            return str(reply["status"])
        finally:
            with contextlib.suppress(EOFError):
                await monitor.disconnect()


def files_below(folder: Path) -> list[str]:
    """Every file that the target keeps for resources: what must be gone after a cancel."""
    kinds = ("disks", "images", "instances")
    return sorted(
        str(path.relative_to(folder)) for kind in kinds for path in (folder / kind).rglob("*") if path.is_file()
    )


class JobWatch:
    """Follows some jobs through the service's progress page, and draws them."""

    def __init__(self, service: Service, console: Console, jobs: Mapping[str, str]) -> None:
        self._http = httpx.Client(base_url=service.rest_url, timeout=10)
        self._console = console
        self._jobs = dict(jobs)  # title -> full name
        self.latest: dict[str, dict[str, Any]] = {}
        self._drawn: dict[str, tuple[str, ...]] = {}

    def follow(self, title: str, name: str) -> None:
        """Follow one more job."""
        self._jobs[title] = name

    def instance(self, name: str) -> dict[str, Any]:
        """The ledger row of the job's instance."""
        rows: list[dict[str, Any]] = self.page(name, "ledger")["ledger"]
        return next(row for row in rows if row["kind"] == "instance")

    def page(self, name: str, page: str) -> Any:
        """One of the service's pages about a job: progress, ledger or events."""
        answer = self._http.get(f"/clonejob/v1/{name}/{page}")
        answer.raise_for_status()
        return answer.json()

    def until(self, done: Callable[[dict[str, dict[str, Any]]], bool], *, timeout_s: float, what: str) -> None:
        """Draw the jobs live until ``done`` says so. Raises: DemoError after ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        with Live(console=self._console, refresh_per_second=8, auto_refresh=self._console.is_terminal) as live:
            while True:
                self.latest = {title: self.page(name, "progress") for title, name in self._jobs.items()}
                self._draw(live)
                if done(self.latest):
                    return
                if time.monotonic() > deadline:
                    raise DemoError(f"waited {timeout_s:.0f} s in vain until {what}")
                time.sleep(0.1)

    def _draw(self, live: Live) -> None:
        """Bars that move on a terminal; elsewhere a line whenever a job has moved."""
        if self._console.is_terminal:
            live.update(self._table())
            return
        for title, progress in self.latest.items():
            row = self._row(title, progress)
            if self._drawn.get(title) != row[1:3]:
                self._drawn[title] = row[1:3]
                self._console.print("    " + "  ".join(part for part in row if part), highlight=False)

    def _table(self) -> Table:
        table = Table("job", "state", "step", "progress", "", box=None, pad_edge=False)
        for title, progress in self.latest.items():
            table.add_row(*self._row(title, progress))
        return table

    @staticmethod
    def _row(title: str, progress: dict[str, Any]) -> tuple[str, ...]:
        state, steps = progress["state"], progress["steps"]
        started = [step for step in steps if step.get("startTime")]
        ended = sum(step.get("endTime") is not None for step in steps)
        share = 1.0 if state in TERMINAL else ended / (len(steps) + 1)
        bar = "█" * round(20 * share) + "░" * (20 - round(20 * share))
        step = step_text(started[-1]["kind"]) if started else "waits for a worker"
        detail = "" if not started or state in TERMINAL else started[-1]["progress"].get("detail", "")
        styled = f"[{_STATE_STYLE.get(state, 'cyan')}]{state}[/]"
        return title, styled, "" if state in TERMINAL else step, bar, progress["cleanupDetail"] or detail
