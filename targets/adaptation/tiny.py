"""Our own guest: its config sector is all there is to adapt."""

from __future__ import annotations

from pathlib import Path

from targets import guest
from targets.adaptation.policy import OFF, Policy
from targets.adaptation.recipes import RECIPES
from targets.adaptation.report import Action, Outcome, Report
from targets.base import AdaptedImageSpec
from targets.errors import AdaptationError
from targets.qemu_tools import DiskTools

METHOD = "config-sector"
_HOSTNAME = "hostname"


def adapt_tiny(tools: DiskTools, image: Path, config: bytes, spec: AdaptedImageSpec, policy: Policy) -> Report:
    """Write the host name into the config sector of ``image``, a qcow2 of ours. Raises: AdaptationError."""
    actions = []
    for recipe in RECIPES:
        outcome, reason = Outcome.SKIPPED, "this guest has none of it"
        if spec.modifiers.get(recipe.id) == OFF:
            reason = "switched off by an adaptation modifier"
        elif recipe.id == _HOSTNAME:
            outcome, reason = Outcome.APPLIED, _write(tools, image, config, spec.hostname)
        actions.append(Action(recipe.id, recipe.version, outcome, reason, recipe.boot_needs))
    return Report(str(policy), METHOD, "clonejob guest", "the config sector of a clonejob guest", tuple(actions))


def _write(tools: DiskTools, image: Path, config: bytes, hostname: str) -> str:
    try:
        adapted = guest.with_hostname(config, hostname)
    except ValueError as error:
        raise AdaptationError(f"The guest could not be adapted: {error}.") from error
    tools.write_sector(image, guest.CONFIG_LBA, adapted)
    if tools.read_first_sectors(image)[1] != adapted:  # the effect counts, not the tool's exit status
        raise AdaptationError("The guest could not be adapted: its config sector did not change.")
    return f"{guest.hostname_of(config) or 'no name'} became {hostname}"
