"""What a recipe is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from targets.adaptation.guest_view import Guest


class Skip(Exception):
    """There is nothing to do; the message says why."""


class Unsupported(Exception):
    """It would be needed, and cannot be done by this method; the message says why. What was planned until then is done."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """One thing to adapt.

    ``plan`` looks at the guest, plans changes, and returns what they do, in words. It raises Skip or Unsupported.
    ``version`` grows whenever the recipe would leave another guest behind. ``boot_needs``: see ``report.Action``.
    ``per_clone``: no two clones get the same, so it is no part of the result that is kept.
    """

    id: str
    version: int
    summary: str
    applies_to: str
    plan: Callable[[Guest], str]
    boot_needs: bool = False
    per_clone: bool = False
