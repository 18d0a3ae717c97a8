"""What the fault matrix prints."""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from guarantee import matrix_cells as cells
from guarantee.matrix_cells import MODES, SCENARIOS

from models import io_table

if TYPE_CHECKING:
    from guarantee.matrix import Outcome

RECOVERY_BAR_S = cells.LEASE_S + 5.0


class Report:
    """Reads an outcome."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.reachable = outcome.reach.cells() if outcome.reach else []
        self.fired = [case for case in outcome.cases if case.fired_at is not None]
        fired = {case.cell for case in self.fired}
        run = {case.cell for case in outcome.cases}
        must = outcome.reach.must_fire if outcome.reach else lambda cell: True
        self.unfired = [cell for cell in self.reachable if cell in run and cell not in fired and must(cell)]
        self.chance = [cell for cell in self.reachable if cell in run and cell not in fired and not must(cell)]
        self.problems = [(case, each) for case in (*outcome.clean, *outcome.cases) for each in case.problems]
        self.stuck = [case for case in (*outcome.clean, *outcome.cases) if case.stuck]

    @property
    def good(self) -> bool:
        """No rule broken, nothing stuck, every cell fired that had to. The bar of recovery is a figure: it hangs on what
        else the machine does while a worker starts again."""
        out = self.outcome
        return not (self.wrong or self.unfired or out.broken) and bool(self.fired)

    @property
    def wrong(self) -> bool:
        """Whether a rule was broken or something is stuck, however far the run came."""
        return any((self.outcome.violations, self.problems, self.stuck, self.outcome.outside))

    def table(self) -> str:
        """Points by modes: how many faults fired there, with a mark for each that broke a rule."""
        counts: dict[tuple[object, str], int] = defaultdict(int)
        bad = {case.job for case, _ in self.problems} | {each.job for each in self.outcome.violations}
        wrong: dict[tuple[object, str], int] = defaultdict(int)
        for case in self.fired:
            assert case.cell
            at = (case.cell.place, case.cell.mode.name)
            counts[at] += 1
            wrong[at] += case.job in bad
        numbers = io_table.numbers()
        places = sorted({cell.place for cell in self.reachable}, key=lambda place: (numbers[place.point], place.role))
        lines = [f"{'':4}{'point':30}{'process':12}" + "".join(f"{mode.name:>14}" for mode in MODES)]
        for place in places:
            marks = (f"{counts[place, mode.name] or '-'}{'!' * wrong[place, mode.name]}" for mode in MODES)
            row = "".join(f"{mark:>14}" for mark in marks)
            lines.append(f"{numbers[place.point]:<4}{place.point:30}{place.role:12}{row}")
        missed = sorted({point.name for point in io_table.POINTS if point.part not in ("catalog", "access", "reads")}
                        - {place.point for place in places})  # fmt: skip
        lines.append(f"not in the path of any scenario: {', '.join(missed) or 'none'}")
        return "\n".join(lines)

    def figures(self) -> dict[str, Any]:
        """For the JSON document."""
        out = self.outcome
        slowest = max(self.fired, key=lambda case: case.to_end_s or 0.0, default=None)
        by_mode: dict[str, int] = defaultdict(int)
        for case in self.fired:
            assert case.cell
            by_mode[case.cell.mode.name] += 1
        places = {cell.place for cell in self.reachable}
        return {
            "points": len({place.point for place in places}),
            "points_by_process": len(places),
            "modes": len(MODES),
            "scenarios": len(SCENARIOS),
            "cells": len(places) * len(MODES) * len(SCENARIOS),
            "reachable": len(self.reachable),
            "run": len({case.cell for case in out.cases}),
            "jobs": len(out.clean) + len(out.cases),
            "faults_fired": len(self.fired),
            "faults_by_mode": dict(by_mode),
            "faults_that_met_an_earlier_job": sum(case.misfired for case in out.cases),
            "unfired": [str(cell) for cell in self.unfired],
            "unfired_by_chance": [str(cell) for cell in self.chance],
            "violations": [violation._asdict() for violation in out.violations],
            "problems": [{"cell": str(case.cell or case.scenario.name), "job": case.job, "what": what}
                         for case, what in self.problems],
            "stuck": [case.job for case in self.stuck],
            "outside_of_any_point": sorted(set(out.outside))[:20],
            "lanes_broken": out.broken,
            "late_calls_without_effect": out.late_calls,
            "stale_writes_refused": out.stale_writes,
            "sigkill_to_next_claim_s": self._recovery(),
            "fault_to_end_s": self._spread(sorted(case.to_end_s for case in self.fired if case.to_end_s is not None)),
            "case_took_s": {
                mode.name: self._spread(sorted(case.took_s for case in out.cases if case.cell and case.cell.mode is mode))
                for mode in MODES
            },
            "slowest": {"cell": str(slowest.cell), "s": round(slowest.to_end_s or 0.0, 2)} if slowest else None,
        }  # fmt: skip

    def _recovery(self) -> dict[str, Any]:
        """By the kind of process that was killed: a pool's child is started again by its worker, a worker by ``up``."""
        killed = [case for case in self.fired if case.to_claim_s is not None]
        found: dict[str, Any] = {"bar": RECOVERY_BAR_S, "over_bar": 0}
        for role in sorted({case.cell.place.role for case in killed if case.cell}):
            mine = [case for case in killed if case.cell and case.cell.place.role == role]
            claims = sorted(case.to_claim_s for case in mine if case.to_claim_s is not None)
            backs = sorted(case.to_restart_s for case in mine if case.to_restart_s is not None)
            after = sorted(max(0.0, case.to_claim_s - case.to_restart_s) for case in mine
                           if case.to_restart_s is not None and case.to_claim_s is not None)  # fmt: skip
            found["over_bar"] += sum(took > RECOVERY_BAR_S for took in claims)
            found[role] = self._spread(claims) | {
                "until_the_process_is_back": self._spread(backs), "after_that": self._spread(after)
            }  # fmt: skip
        slowest = sorted(killed, key=lambda case: case.to_claim_s or 0.0, reverse=True)[:3]
        found["slowest"] = {str(case.cell): round(case.to_claim_s or 0.0, 2) for case in slowest}
        return found

    @staticmethod
    def _spread(values: list[float]) -> dict[str, float]:
        if not values:
            return {"count": 0}
        return {"count": len(values), "p50": round(statistics.median(values), 2), "max": round(values[-1], 2)}
