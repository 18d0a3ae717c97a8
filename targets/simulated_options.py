"""The options of a simulated target."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from targets.base import Target
from targets.registry import Place, TargetOptions


class SimulatedOptions(TargetOptions):
    """See ``targets.simulated.SimulatedTarget``."""

    is_billable: ClassVar[bool] = False
    reads_snapshots: ClassVar[bool] = False

    boots_from_image: bool = Field(default=False, description="Start instances from an image of all their disks.")

    def make(self, place: Place) -> Target:
        """The target in the place's folder."""
        from targets.simulated import SimulatedTarget

        return SimulatedTarget(
            place.root, name=place.name, call_timeout_s=place.call_timeout_s, boots_from_image=self.boots_from_image
        )
