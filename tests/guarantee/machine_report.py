"""What the model has done, as counts and as JSON: ``make model``."""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from collections import Counter
from typing import Any

import pytest
from guarantee.arguments import Parser, whole

_TALLIES: dict[str, Counter[str]] = {}


def tally(database: str) -> Counter[str]:
    """The counts of one database's examples."""
    return _TALLIES.setdefault(database, Counter())


def _as_json(counts: Counter[str]) -> dict[str, Any]:
    interrupts: Counter[str] = Counter()
    places: dict[str, set[str]] = {}
    rest: dict[str, Any] = {"rules fired": {}, "provider": {}}
    for what, count in sorted(counts.items()):
        how, _, at = what.partition(" at ")
        if at and how in ("crash", "freeze", "error"):
            interrupts[how] += count
            places.setdefault(how, set()).add(at)
        elif what.startswith(("rule ", "provider: ")):
            group, _, name = what.partition(" ")
            rest["rules fired" if group == "rule" else "provider"][name] = count
        else:
            rest[what] = count
    return {**rest, "interrupts fired": dict(interrupts),
            "different instants": {how: len(found) for how, found in places.items()}}  # fmt: skip


class FirstFailure:
    """A plugin of pytest: ``why`` is the first line of the first failure."""

    why = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._note(report)

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.failed and not self.why:
            crash = getattr(report.longrepr, "reprcrash", None)
            said = str(report.longrepr) if crash is None else crash.message
            self.why = next((line.strip() for line in said.splitlines() if line.strip()), "")


def main() -> int:
    """Run the model test long; prints JSON at the end. ``EXAMPLES`` per database and ``SEED`` are the environment's."""
    seed = _from_environment("SEED", 0, random.SystemRandom().randrange(2**32))
    os.environ["CLONEJOB_MODEL_EXAMPLES"] = str(_from_environment("EXAMPLES", 1, 300))
    failure = FirstFailure()
    print(f"model: seed {seed}", file=sys.stderr)
    outcome = pytest.main(["tests/guarantee/test_model.py", "-q", "--timeout=0", "-p", "no:randomly", "-p", "no:cacheprovider",
                           f"--hypothesis-seed={seed}"], plugins=[failure])  # fmt: skip
    figures = {database: _as_json(counts) for database, counts in _TALLIES.items()}
    violations = sum(counts["violations"] for counts in _TALLIES.values())
    document = {"seed": seed, "databases": figures, "violations": violations, "passed": outcome == 0}
    if outcome != 0:
        document["why"] = failure.why or f"pytest ended with {pytest.ExitCode(outcome).name}"
    print(json.dumps(document, indent=2))
    return int(outcome)


def _from_environment(name: str, least: int, default: int) -> int:
    try:
        return whole(least)(os.environ.get(name) or str(default))
    except argparse.ArgumentTypeError as wrong:
        Parser().error(f"{name}: {wrong}")


if __name__ == "__main__":
    from guarantee import machine_report  # the one that the tests count in

    sys.exit(machine_report.main())
