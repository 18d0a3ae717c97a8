"""Our own guest: the host name in its config sector is all there is to adapt, and is the clone's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from targets import guest
from targets.adaptation.engine import Adapted, in_order
from targets.adaptation.policy import OFF, Policy
from targets.adaptation.recipes import PER_CLONE, SHARED
from targets.adaptation.report import Action, Outcome, Report
from targets.base import AdaptedImageSpec
from targets.errors import AdaptationError
from targets.qemu_tools import DiskTools

METHOD = "config-sector"
_OFF = "switched off by an adaptation modifier"


def adapt_tiny(spec: AdaptedImageSpec, policy: Policy) -> Adapted:
    """What does not differ between clones: nothing."""
    actions = tuple(
        Action(each.id, each.version, Outcome.SKIPPED,
               _OFF if spec.modifiers.get(each.id) == OFF else "this guest has none of it", each.boot_needs)
        for each in SHARED
    )  # fmt: skip
    return Adapted(Report(str(policy), METHOD, "clonejob guest", "the config sector of a clonejob guest", actions))


def personalise_tiny(tools: DiskTools, image: Path, spec: AdaptedImageSpec, adapted: Adapted) -> Report:
    """Write the host name into the config sector of ``image``, a qcow2 of ours. Raises: AdaptationError."""
    [hostname] = PER_CLONE
    outcome, reason = Outcome.SKIPPED, _OFF
    if spec.modifiers.get(hostname.id) != OFF:
        config = tools.read_first_sectors(image)[1]
        outcome, reason = Outcome.APPLIED, _write(tools, image, config, spec.hostname)
    action = Action(hostname.id, hostname.version, outcome, reason)
    return replace(adapted.report, actions=in_order((*adapted.report.actions, action)))


def _write(tools: DiskTools, image: Path, config: bytes, hostname: str) -> str:
    try:
        adapted = guest.with_hostname(config, hostname)
    except ValueError as error:
        raise AdaptationError(f"The guest could not be adapted: {error}.") from error
    tools.write_sector(image, guest.CONFIG_LBA, adapted)
    if tools.read_first_sectors(image)[1] != adapted:  # the effect counts, not the tool's exit status
        raise AdaptationError("The guest could not be adapted: its config sector did not change.")
    return f"{guest.hostname_of(config) or 'no name'} became {hostname}"
