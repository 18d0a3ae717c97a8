"""What was done to a guest, and what was not and why: bounded, for parts of it come from the guest."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_LONGEST_TEXT = 400
_MOST_ACTIONS = 40


class Outcome(enum.StrEnum):
    """What became of one action."""

    APPLIED = "applied"  # written, and read back as written
    SKIPPED = "skipped"  # nothing to do here, or switched off
    UNSUPPORTED = "unsupported"  # it would be needed and cannot be done by this method
    FAILED = "failed"  # it was written and did not read back as written


@dataclass(frozen=True, slots=True)
class Action:
    """One recipe's outcome. ``boot_needs``: without it the clone is not expected to boot."""

    recipe: str
    version: int
    outcome: Outcome
    reason: str
    boot_needs: bool = False

    @property
    def blocks(self) -> bool:
        """Whether the boot needs what was not done."""
        return self.boot_needs and self.outcome in (Outcome.UNSUPPORTED, Outcome.FAILED)


@dataclass(frozen=True, slots=True)
class Report:
    """``system``: the guest's own name of its system; ``found``: what the disk holds; both empty if never looked at."""

    policy: str
    method: str
    system: str = ""
    found: str = ""
    actions: Sequence[Action] = field(default_factory=tuple)

    def blocking(self) -> list[Action]:
        """The actions for which policy "required" refuses the clone."""
        return [action for action in self.actions if action.blocks]

    def as_json(self) -> dict[str, Any]:
        """The report as it is stored: at most some 20 KiB, printable text only."""
        actions = [
            {"id": a.recipe, "version": a.version, "outcome": str(a.outcome), "reason": printable(a.reason)}
            for a in self.actions[:_MOST_ACTIONS]
        ]
        head = {"policy": self.policy, "method": self.method}
        return {**head, "os": printable(self.system), "found": printable(self.found), "actions": actions}

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Report:
        """A stored report again; which actions the boot needs is not stored. Raises: KeyError, ValueError, TypeError."""
        actions = (Action(a["id"], a["version"], Outcome(a["outcome"]), a["reason"]) for a in stored["actions"])
        return cls(stored["policy"], stored["method"], stored["os"], stored["found"], tuple(actions))


def printable(text: str) -> str:
    """``text`` on one line, without anything that a terminal obeys, cut to a bounded length."""
    clean = "".join(c if c.isprintable() else "?" for c in text[: _LONGEST_TEXT + 1])
    return clean if len(clean) <= _LONGEST_TEXT else f"{clean[: _LONGEST_TEXT - 1]}…"
