"""``clonejob show JOB --evidence``: what the job saw of its clone, also when the clone is gone."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from worker.cli.context import short_name
from worker.cli.errors import CliError
from worker.cli.output import plain, print_json, show_time

if TYPE_CHECKING:
    from worker.cli.context import Cli

Json = dict[str, Any]
_LINES = 20


def show(cli: Cli, name: str, screenshot: Path | None) -> None:
    """Print the evidence of job ``name``, and save its screen. Raises: CliError."""
    found = cli.client.get(f"/clonejob/v1/{name}/evidence")
    saved = None if screenshot is None else _save(cli, found, screenshot)
    if cli.json:
        print_json(found if saved is None else found | {"savedScreenshot": str(saved)})
        return
    lines = [
        ("boot", _verdict(found)),
        ("seconds", f"{_seconds(found, 'firstOutputSeconds')} to the first output, {_seconds(found, 'seconds')} to the boot"),
        ("seen", show_time(found.get("time"))),
        ("console", _part(cli, found, "console")),
        ("screen", _part(cli, found, "screenshot") if saved is None else f"saved to {saved}, {_fact(found['screenshot'])}"),
    ]  # fmt: skip
    if summary := found.get("summary"):
        lines.append(("summary", f"evidence.json, {_fact(summary)}"))
    click.echo(found["name"] + "\n" + "\n".join(f"{label:<9} {text}" for label, text in lines))
    said = plain(str(found.get("consoleEnd") or "")).splitlines()
    if said:
        click.echo("\nConsole, its last lines\n" + "\n".join(f"  {line}" for line in said[-_LINES:]))
    if saved is None and found.get("screenshot"):
        click.echo(f"hint: clonejob show {short_name(name)} --evidence --screenshot FILE saves the screen", err=True)


def _save(cli: Cli, found: Json, path: Path) -> Path:
    """The screen in ``path``, once it is seen to be what the job recorded."""
    kept = found.get("screenshot")
    if kept is None:
        why = (found.get("missing") or {}).get("screenshot") or "no reason is on record"
        raise CliError(f"{short_name(found['name'])} has no screenshot: {why}")
    content = cli.client.content(f"/clonejob/v1/{found['name']}/evidence/screenshot")
    if hashlib.sha256(content).hexdigest() != kept["sha256"]:
        raise CliError(f"what the service sent is not the screenshot with SHA-256 {kept['sha256']}; nothing was saved")
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise CliError(f"{path} cannot be written: {error.strerror or error}") from None
    return path


def _verdict(found: Json) -> str:
    gate = ", which success required" if found.get("requireBoot") else ""
    return f"{found['verdict']}{gate}" + (f" ({plain(found['detail']).strip()})" if found.get("detail") else "")


def _part(cli: Cli, found: Json, part: str) -> str:
    kept = found.get(part)
    if kept is None:
        return f"none: {(found.get('missing') or {}).get(part) or 'no reason is on record'}"
    return f"{cli.client.url(kept['path'])}, {_fact(kept)}"


def _fact(kept: Json) -> str:
    return f"{kept['sizeBytes']} bytes, SHA-256 {kept['sha256']}"


def _seconds(found: Json, field: str) -> str:
    value = found.get(field)
    return "-" if value is None else f"{value:.1f} s"
