"""The disks that ``vm import`` names by reference: what a provider has already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.cli.errors import CliError, ExitCode


@dataclass(frozen=True, slots=True)
class Reference:
    """One disk that lies at a provider."""

    name: str
    size_bytes: int

    def body(self, disk_number: int) -> dict[str, Any]:
        """What registers it."""
        return {"diskNumber": disk_number, "reference": self.name, "sizeBytes": str(self.size_bytes)}


def given_references(disks: Sequence[Path], references: Sequence[str], sizes: Sequence[str]) -> list[Reference]:
    """The references in the order of their numbers; none if disks are given as files. Raises: CliError.

    All that the service would refuse is refused here, before a cycle is begun that would then have failed.
    """
    if not references:
        if sizes:
            raise CliError("--size goes with --reference", ExitCode.USAGE)
        if not disks:
            raise CliError("name the disks: --disk FILE, or --reference 0=NAME --size 0=BYTES", ExitCode.USAGE)
        return []
    if disks:
        raise CliError("--disk and --reference cannot be mixed: all disks of a cycle lie in one place", ExitCode.USAGE)
    named, sized = _numbered("--reference", references), _numbered("--size", sizes)
    if sorted(named) != list(range(len(named))):
        raise CliError("--reference must name the disks 0, 1, … without a gap", ExitCode.USAGE)
    if set(sized) != set(named):
        raise CliError("each --reference N=NAME needs one --size N=BYTES, and no other disk one", ExitCode.USAGE)
    wrong = [text for text in sized.values() if not (text.isascii() and text.isdigit())]
    if wrong:
        raise CliError(f"--size {wrong[0][:80]!r} is not a number of bytes", ExitCode.USAGE)
    return _checked([Reference(named[number], int(sized[number])) for number in sorted(named)])


def _checked(given: list[Reference]) -> list[Reference]:
    from targets.images import MOST_DISKS
    from tasks.references import reference_problem, size_problem

    if len(given) > MOST_DISKS:
        raise CliError(f"a VM has {MOST_DISKS} disks at most; {len(given)} are named", ExitCode.USAGE)
    for number, each in enumerate(given):
        if problem := reference_problem(each.name):
            raise CliError(f"--reference {number}={each.name[:80]} {problem}", ExitCode.USAGE)
        if problem := size_problem(each.size_bytes):
            raise CliError(f"--size {number}={each.size_bytes} {problem}", ExitCode.USAGE)
    return given


def _numbered(option: str, texts: Sequence[str]) -> dict[int, str]:
    found: dict[int, str] = {}
    for text in texts:
        number, equals, value = text.partition("=")
        if not (equals and value and number.isascii() and number.isdigit()):
            raise CliError(f"{option} {text!r} is not NUMBER=VALUE, such as 0=…", ExitCode.USAGE)
        if int(number) in found:
            raise CliError(f"{option} names disk {number} twice", ExitCode.USAGE)
        found[int(number)] = value
    return found
