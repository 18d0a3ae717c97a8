"""Removes each guard of the guarantee in turn, in a copy of the source, and sees that the tests go red: ``make mutants``.

The tests named for a mutant come first; if they stay green, the model test must notice. Prints a table and JSON; a guard
that nobody misses makes the exit status 1.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from guarantee.arguments import Parser
from guarantee.mutants_list import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
COPIED = ("api", "models", "targets", "tasks", "worker", "tests", "pyproject.toml")
MODEL = ("tests/guarantee/test_model.py",)
_LIMIT_S = {"tests": 300.0, "model": 900.0}
_FAILED = 1  # pytest's exit status for a failed test; any other but 0 is an error of ours


class Outcome(NamedTuple):
    """``killed_by``: "tests", "model" or None."""

    name: str
    killed_by: str | None
    seconds: float
    said: str


class PatchError(Exception):
    """A patch does not fit the source any more."""


def apply(mutant: Mutant, root: Path) -> None:
    """Remove the guard below ``root``. Raises: PatchError unless each edit applies exactly once."""
    for edit in mutant.edits:
        path = root / edit.path
        text = path.read_text()
        if (count := text.count(edit.old)) != 1:
            raise PatchError(f"{mutant.name}: stands {count} times in {edit.path}: {edit.old!r}")
        path.write_text(text.replace(edit.old, edit.new))


def copy(to: Path) -> Path:
    """The source and the tests, without what other tests install."""
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
        else:
            shutil.copy(ROOT / name, to / name)
    return to


def _pytest(root: Path, limit_s: float, *arguments: str) -> tuple[int | None, str]:
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}", "PYTHONDONTWRITEBYTECODE": "1"}
    for name in ("CLONEJOB_MODEL_EXAMPLES", "PYTEST_ADDOPTS"):
        environment.pop(name, None)
    environment["CI"] = (
        "true"  # a missing service is a failure of this check, not a green test; the same examples each time
    )
    command = [
        sys.executable,
        "-P",
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:randomly",
        "-p",
        "no:cacheprovider",
        *arguments,
    ]
    with subprocess.Popen(command, cwd=root, env=environment, text=True, start_new_session=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:  # fmt: skip
        try:
            said, _ = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return None, f"did not end within {limit_s:.0f} s"
        return process.returncode, said


def _red(root: Path, kind: str, arguments: tuple[str, ...]) -> tuple[bool, str]:
    status, said = _pytest(root, _LIMIT_S[kind], *arguments)
    if status in (0, _FAILED):
        lines = [line for line in said.splitlines() if line.startswith("FAILED ")]
        return status == _FAILED, lines[0].removeprefix("FAILED ").partition(" - ")[0] if lines else ""
    raise PatchError(f"{kind} did not run ({status}): {said[-2000:]}")


def check(mutant: Mutant) -> Outcome:
    """Whether somebody misses the guard."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="clonejob-mutant-") as folder:
        root = copy(Path(folder))
        apply(mutant, root)
        for kind, arguments in (("tests", mutant.tests), ("model", MODEL)):
            red, said = _red(root, kind, arguments)
            if red:
                return Outcome(mutant.name, kind, time.monotonic() - started, said)
    return Outcome(mutant.name, None, time.monotonic() - started, "SURVIVED")


def sound() -> None:
    """The same tests on a copy without a mutation are green, and they do test the copy. Raises: PatchError."""
    with tempfile.TemporaryDirectory(prefix="clonejob-mutant-") as folder:
        root = copy(Path(folder))
        files = sorted({word for mutant in MUTANTS for word in mutant.tests if word.endswith(".py")})
        red, said = _red(root, "model", (*files, "-k", "not qemu"))
        if red:
            raise PatchError(f"red without any mutation: {said}")
        (root / "models/store/__init__.py").write_text("raise SystemError('the copy is what is tested')\n")
        status, said = _pytest(root, _LIMIT_S["tests"], *MUTANTS[0].tests)
        if "the copy is what is tested" not in said:
            raise PatchError(f"the tests do not test the copy ({status}): {said[-2000:]}")


def main() -> int:
    """All mutants, two at a time; those whose name contains an argument, if there is one."""
    parser = Parser(description="removes each guard in turn")
    parser.add_argument("words", nargs="*", help="only mutants with one of them in their names")
    words = parser.parse_args().words
    for word in words:
        if not any(word in mutant.name for mutant in MUTANTS):
            names = "\n  ".join(mutant.name for mutant in MUTANTS)
            parser.error(f"no mutant has {word!r} in its name; the names are:\n  {names}")
    chosen = [mutant for mutant in MUTANTS if not words or any(word in mutant.name for word in words)]
    if not words:
        print("the tests on a copy without any mutation …", flush=True)
        sound()
    outcomes = []
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for done in concurrent.futures.as_completed([pool.submit(check, mutant) for mutant in chosen]):
            outcome = done.result()
            print(f"{outcome.name:56} {outcome.killed_by or 'SURVIVED':9} {outcome.seconds:5.0f} s  {outcome.said}",
                  flush=True)  # fmt: skip
            outcomes.append(outcome)
    killed = sum(outcome.killed_by is not None for outcome in outcomes)
    print(json.dumps({"mutants": len(outcomes), "killed": killed,
                      "by the model alone": [each.name for each in outcomes if each.killed_by == "model"],
                      "survived": [each.name for each in outcomes if each.killed_by is None]}, indent=2))  # fmt: skip
    return 0 if outcomes and killed == len(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
