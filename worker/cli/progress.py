"""Following jobs to their end: bars for people, lines for pipes, JSON lines for programs."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from worker.cli.context import short_name
from worker.cli.errors import CliError, ExitCode
from worker.cli.outcome import end_line, say_warnings
from worker.cli.output import TERMINAL, duration, print_json_line, step_text

if TYPE_CHECKING:
    from worker.cli.client import Client

Json = dict[str, Any]
_LOOK_S = 0.3
_SILENT_LOOK_S = 5.0  # while streams tell of changes
_MOST_STREAMS = 8
_OUTAGE_MAX_S = 60.0


def wait_for(client: Client, name: str, *, quiet: bool) -> Json:
    """The job, once it has ended; unless ``quiet``, stderr tells of its progress and of its success."""
    with _interruptible([name]):
        if quiet:
            return _last(_states(client, [name]))[0]
        jobs = (_draw if sys.stderr.isatty() else _print_lines)(client, [name], err=True)
        return _without_progress(jobs[0])


def follow(client: Client, names: Sequence[str], *, as_json: bool = False) -> list[Json]:
    """Follow jobs to their end; returns them in the order of ``names``."""
    with _interruptible(names):
        if as_json:
            return _print_json(client, names)
        return (_draw if sys.stdout.isatty() else _print_lines)(client, names)


@contextlib.contextmanager
def _interruptible(names: Sequence[str]) -> Iterator[None]:
    """Ctrl-C ends the looking only, and is told so."""
    try:
        yield
    except KeyboardInterrupt:
        jobs = " ".join(short_name(name) for name in names)
        goes_on, it = ("the jobs go on", "them") if len(names) > 1 else ("the job goes on", "it")
        raise CliError(
            f"interrupted; {goes_on}: clonejob watch {jobs}, or end {it} with clonejob cancel {jobs}",
            ExitCode.INTERRUPTED,
        ) from None


def _states(client: Client, names: Sequence[str]) -> Iterator[list[Json]]:
    """The jobs with their progress, again and again, until all have ended. A short outage is waited out."""
    seen: dict[str, Json] = {}
    unreachable_since: float | None = None
    changes = _Changes(client, names)
    while True:
        try:
            for name in names:
                if seen.get(name, {}).get("state") not in TERMINAL:
                    seen[name] = _look(client, name)
            unreachable_since = None
        except CliError as error:
            unreachable_since = unreachable_since or time.monotonic()
            first_look = len(seen) < len(names)
            if (
                error.code is not ExitCode.UNREACHABLE
                or first_look
                or time.monotonic() - unreachable_since > _OUTAGE_MAX_S
            ):
                raise
        else:
            jobs = [seen[name] for name in names]
            yield jobs
            if all(job["state"] in TERMINAL for job in jobs):
                return
        changes.wait()


class _Changes:
    """Tells when to look again: at each server-sent event; without a stream, after a short pause."""

    def __init__(self, client: Client, names: Sequence[str]) -> None:
        self._client = client
        self._changed = threading.Event()
        self._streams = 0
        self._lock = threading.Lock()
        self._wanted = len(names)
        for name in names if len(names) <= _MOST_STREAMS else ():
            threading.Thread(target=self._listen, args=(name,), name=f"watch {name}", daemon=True).start()

    def wait(self) -> None:
        """Return when something may have changed."""
        self._changed.wait(_SILENT_LOOK_S if self._streams == self._wanted else _LOOK_S)
        self._changed.clear()

    def _listen(self, name: str) -> None:
        ended = False
        while not ended:
            heard = False
            try:
                for kind in self._client.events(f"/clonejob/v1/{name}/progress"):
                    if not heard:
                        heard = True
                        self._count(1)
                    ended = kind == "end"
                    self._changed.set()
            except CliError:
                pass
            if not heard:
                return  # no such stream here: the pauses are short
            if not ended:
                self._count(-1)
                time.sleep(_LOOK_S)

    def _count(self, by: int) -> None:
        with self._lock:
            self._streams += by


def _look(client: Client, name: str) -> Json:
    # Progress first: a job that is terminal in the second answer has its last progress, or newer, in neither.
    progress = client.get(f"/clonejob/v1/{name}/progress")
    return client.get(f"/v1/{name}") | {"progress": progress}


def _last(states: Iterator[list[Json]]) -> list[Json]:
    jobs: list[Json] = []
    for jobs in states:  # noqa: B007 - only the last one counts
        pass
    return [_without_progress(job) for job in jobs]


def _print_json(client: Client, names: Sequence[str]) -> list[Json]:
    """One line for each change of a job."""
    shown: dict[str, Json] = {}
    jobs: list[Json] = []
    for jobs in _states(client, names):
        for job in jobs:
            if shown.get(job["name"]) != job:
                shown[job["name"]] = job
                print_json_line({"cloneJob": _without_progress(job), "progress": job["progress"]})
    return jobs


def _print_lines(client: Client, names: Sequence[str], *, err: bool = False) -> list[Json]:
    """One line for each change of state or step."""
    shown: dict[str, str] = {}
    jobs: list[Json] = []
    for jobs in _states(client, names):
        for job in jobs:
            line = f"{short_name(job['name'])} {job['state']} {_detail(job)}".rstrip()
            if shown.get(job["name"]) != line:
                shown[job["name"]] = line
                if job["state"] in TERMINAL:
                    _say_end(job, err=err)
                else:
                    click.echo(line, err=err)
    return jobs


def _say_end(job: Json, *, err: bool) -> None:
    """On stderr only success: there the error tells how else it ended."""
    if job["state"] == "SUCCEEDED" or not err:
        click.echo(end_line(job, job["progress"]), err=err)
    say_warnings(job, job["progress"])


def _draw(client: Client, names: Sequence[str], *, err: bool = False) -> list[Json]:
    """Live bars."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    widest = max(len(short_name(name)) for name in names)
    columns = (
        TextColumn("{task.description}", table_column=Column(min_width=widest)),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[state]:<11} {task.fields[lasted]:<14} {task.fields[detail]}"),
    )
    jobs: list[Json] = []
    with Progress(*columns, console=Console(stderr=err)) as bars:
        tasks = {name: bars.add_task(short_name(name), total=100, state="", lasted="", detail="") for name in names}
        for jobs in _states(client, names):
            for job in jobs:
                lasted = duration(job.get("createTime"), job.get("endTime"))
                bars.update(
                    tasks[job["name"]], completed=_percent(job), state=job["state"], lasted=lasted, detail=_detail(job)
                )
    for job in jobs:
        _say_end(job, err=err)
    return jobs


def _without_progress(job: Json) -> Json:
    return {key: value for key, value in job.items() if key != "progress"}


def _percent(job: Json) -> int:
    """How much of the plan is done: every step counts the same."""
    steps = job["progress"].get("steps", [])
    parts = [100 if step.get("endTime") else int((step.get("progress") or {}).get("percent", 0)) for step in steps]
    return sum(parts) // len(parts) if parts else 0


def _detail(job: Json) -> str:
    if job.get("error"):
        return str(job["error"].get("message", ""))
    if job["progress"].get("cleanupDetail"):
        return str(job["progress"]["cleanupDetail"])
    running = [s for s in job["progress"].get("steps", []) if s.get("startTime") and not s.get("endTime")]
    if job["state"] in TERMINAL or not running:
        return ""
    what = step_text(str(running[-1].get("kind", "")))
    detail = (running[-1].get("progress") or {}).get("detail")
    return f"{what}: {detail}" if detail else what
