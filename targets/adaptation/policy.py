"""How strictly a guest is adapted, and which recipes are switched off."""

from __future__ import annotations

import enum
from collections.abc import Mapping

from targets.adaptation.recipes import RECIPES
from targets.errors import UnsupportedError

OFF, ON = "off", "on"


class Policy(enum.StrEnum):
    """Option ``os_adaptation`` of a target."""

    REQUIRED = "required"  # what the boot needs must be done, or the step fails
    BEST_EFFORT = "best_effort"  # whatever can be done is done; the report says the rest
    SKIP = "skip"  # the guest is not looked at


def check_modifiers(modifiers: Mapping[str, str]) -> None:
    """``adaptation_modifiers`` name recipes and switch them. Raises: UnsupportedError with what there is."""
    known = [recipe.id for recipe in RECIPES]
    for name, value in modifiers.items():
        if name not in known:
            raise UnsupportedError(f"Adaptation modifier {name!r} is not known here; there are {', '.join(known)}.")
        if value not in (ON, OFF):
            raise UnsupportedError(f"Adaptation modifier {name} is {value!r}; set it to {ON!r} or {OFF!r}.")
