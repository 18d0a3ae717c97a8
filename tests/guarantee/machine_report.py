"""What the model has done, as counts and as JSON: ``make model``."""

from __future__ import annotations

import json
import os
import random
import sys
from collections import Counter
from typing import Any

import pytest

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


def main() -> int:
    """Run the model test long; prints JSON at the end. ``EXAMPLES`` per database and ``SEED`` are the environment's."""
    seed = int(os.environ.get("SEED") or random.SystemRandom().randrange(2**32))
    os.environ["CLONEJOB_MODEL_EXAMPLES"] = os.environ.get("EXAMPLES") or "300"
    print(f"model: seed {seed}", file=sys.stderr)
    outcome = pytest.main(["tests/guarantee/test_model.py", "-q", "--timeout=0", "-p", "no:randomly", "-p", "no:cacheprovider",
                           f"--hypothesis-seed={seed}"])  # fmt: skip
    figures = {database: _as_json(counts) for database, counts in _TALLIES.items()}
    violations = sum(counts["violations"] for counts in _TALLIES.values())
    print(json.dumps({"seed": seed, "databases": figures, "violations": violations, "passed": outcome == 0}, indent=2))
    return int(outcome)


if __name__ == "__main__":
    from guarantee import machine_report  # the one that the tests count in

    sys.exit(machine_report.main())
