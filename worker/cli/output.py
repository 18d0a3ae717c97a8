"""What commands print: JSON for programs, plain tables for people."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click

from models.states import StepKind

_FRACTION = re.compile(r"\.(\d{1,6})\d*")
TERMINAL = ("SUCCEEDED", "FAILED", "CANCELLED")


def print_json(value: Any) -> None:
    """One JSON document."""
    click.echo(json.dumps(value, indent=2))


def print_json_line(value: Any) -> None:
    """One JSON document on one line, at once: for what goes on."""
    click.echo(json.dumps(value, separators=(",", ":")))


def table(head: Sequence[str], rows: Sequence[Sequence[Any]], *, indent: str = "") -> str:
    """Left-aligned columns; the last one is not padded."""
    lines = [[str(cell) for cell in row] for row in [head, *rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        indent + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def plain(text: str) -> str:
    """A guest's output without what would steer the reader's terminal."""
    kept = "".join(c for c in click.unstyle(text).replace("\r\n", "\n") if c.isprintable() or c in "\n\t")
    return kept if kept.endswith("\n") or not kept else kept + "\n"


@contextlib.contextmanager
def percent_shown(what: str) -> Iterator[Callable[[int], None]]:
    """One line on stderr that changes with what it is told, for people only."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    yield lambda percent: click.echo(f"\r{what}: {percent} %", nl=False, err=True)
    click.echo(err=True)


def parse_time(text: str | None) -> dt.datetime | None:
    """A timestamp of proto3 JSON, whose fraction may have nine digits."""
    return dt.datetime.fromisoformat(_FRACTION.sub(r".\1", text)) if text else None


def show_time(text: str | None) -> str:
    """A timestamp in local time, to the second."""
    parsed = parse_time(text)
    return parsed.astimezone().strftime("%Y-%m-%d %H:%M:%S") if parsed else "-"


def duration(start: str | None, end: str | None) -> str:
    """How long something took, or has been taking until now."""
    started = parse_time(start)
    if started is None:
        return "-"
    ended = parse_time(end)
    seconds = ((ended or dt.datetime.now(dt.UTC)) - started).total_seconds()
    return f"{seconds:.1f} s" + ("" if ended else " so far")


def step_name(step: dict[str, Any]) -> str:
    """Which step of the contract's oneof this is."""
    return next((step_text(kind) for kind in StepKind if _field(kind) in step), "unknown step")


def step_text(kind: str) -> str:
    """What every command calls a step: the contract's own words."""
    return kind.replace("_", " ")


def _field(kind: StepKind) -> str:
    first, *rest = kind.value.split("_")
    return first + "".join(part.title() for part in rest)
