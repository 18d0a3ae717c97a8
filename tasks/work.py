"""What a step has in its hands while it works."""

from __future__ import annotations

from dataclasses import dataclass

from models.schema import CloneJob
from models.states import StepKind
from tasks.lease import HeldLease
from tasks.runtime import Runtime
from tasks.target_calls import TargetCalls


class NotYetError(Exception):
    """The target is still at it."""


@dataclass(frozen=True)
class Work:
    """One job at one position, under a lease."""

    runtime: Runtime
    job: CloneJob
    position: int
    held: HeldLease
    calls: TargetCalls

    @property
    def kind(self) -> StepKind | None:
        """The step; None is ``finish``."""
        return self.job.steps[self.position].kind if self.position < len(self.job.steps) else None
