"""Inspect, plan, apply, verify: adapt the guest in an overlay of ours, and report what was done and what was not.

``adapt`` does what is the same for every clone of the snapshot, ``personalise`` what is this clone's own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from targets.adaptation import programs
from targets.adaptation.export import workplace
from targets.adaptation.files import Change, GuestFileError, GuestFiles, Remove, Symlink, Write, lookup
from targets.adaptation.guest_view import Facts, Guest
from targets.adaptation.inspect import UnknownGuest, inspect_disk, open_guest, open_root, read_system
from targets.adaptation.policy import OFF, Policy
from targets.adaptation.programs import Deadline
from targets.adaptation.recipe import Recipe, Skip, Unsupported
from targets.adaptation.recipes import MARKER, PER_CLONE, RECIPES, SHARED
from targets.adaptation.report import Action, Outcome, Report, printable
from targets.errors import AdaptationError, RefusedError

METHOD, NO_METHOD = "fuse-export+debugfs", "none"
_MARKER_ID = "marker"


@dataclass(frozen=True, slots=True)
class Request:
    """What to do. ``place``: a folder for mounts and work files, ``name``: a name in it that is the image's alone."""

    hostname: str
    place: Path
    name: str
    timeout_s: float
    policy: Policy = Policy.REQUIRED
    modifiers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Adapted:
    """What ``adapt`` did. ``root_bytes``: where on the disk the guest's root begins; None if it has none to write to."""

    report: Report
    root_bytes: int | None = None


def adapt(image: Path, request: Request) -> Adapted:
    """Do to the guest on ``image``, a qcow2 overlay of ours that nobody else uses, what does not differ between clones.

    Raises: AdaptationError if policy "required" refuses what was found; TransientError.
    """
    if request.policy is Policy.SKIP:
        return Adapted(Report(str(request.policy), NO_METHOD))
    if gone := programs.missing():
        adapted = _refused(request, f"a disk that cannot be looked into, for {gone}")
    else:
        deadline = Deadline(request.timeout_s)
        try:
            with workplace(request.place, request.name) as place:
                adapted = _adapt(image, request, place, deadline)
        except (UnknownGuest, GuestFileError, RefusedError) as error:
            adapted = _refused(request, str(error))
    check_policy(adapted.report)
    return adapted


def personalise(image: Path, request: Request, adapted: Adapted) -> Report:
    """Write what is this clone's own into ``image``, an overlay on the adapted one; the report of both.

    Raises: AdaptationError; TransientError.
    """
    if adapted.root_bytes is None:
        return adapted.report
    deadline = Deadline(request.timeout_s)
    try:
        with (
            workplace(request.place, request.name) as place,
            open_root(image, adapted.root_bytes, place, deadline) as files,
        ):
            actions = carry_out(files, Facts(request.hostname), request.modifiers, PER_CLONE, adapted.report.actions)
    except (GuestFileError, RefusedError) as error:
        raise AdaptationError(f"The guest could not be given its name: {printable(str(error))}.") from error
    report = replace(adapted.report, actions=in_order(actions))
    check_policy(report)
    return report


def in_order(actions: Sequence[Action]) -> tuple[Action, ...]:
    """As the recipes stand in their list, the marker last."""
    order = {recipe.id: number for number, recipe in enumerate(RECIPES)}
    return tuple(sorted(actions, key=lambda action: order.get(action.recipe, len(order))))


def check_policy(report: Report) -> None:
    """Raises: AdaptationError if policy "required" refuses what the report says."""
    blocking = report.blocking()
    if report.policy == Policy.REQUIRED and blocking:
        reasons = "; ".join(f"{action.recipe}: {printable(action.reason)}" for action in blocking)
        found = f" ({printable(report.system)})" if report.system else ""
        raise AdaptationError(
            f"The operating system on the VM's boot disk{found} could not be adapted: {reasons}; "
            "set skip_os_adaptation in the VM's policy to clone it as it is"
        )


def _refused(request: Request, found: str) -> Adapted:
    action = Action("inspect", 1, Outcome.UNSUPPORTED, f"found {found}", boot_needs=True)
    return Adapted(Report(str(request.policy), NO_METHOD, found=found, actions=(action,)))


def _adapt(image: Path, request: Request, place: Path, deadline: Deadline) -> Adapted:
    inspected = inspect_disk(image, place, deadline)
    with open_guest(image, inspected, place, deadline) as (files, root, root_bytes):
        facts = Facts("", inspected.uuids, read_system(files))
        actions = carry_out(files, facts, request.modifiers, SHARED)
    system = facts.system.get("PRETTY_NAME", "Linux")
    found = f"{inspected.found}; root on partition {root}"
    return Adapted(Report(str(request.policy), METHOD, system, found, tuple(actions)), root_bytes)


def carry_out(
    files: GuestFiles, facts: Facts, modifiers: Mapping[str, str], recipes: Sequence[Recipe] = RECIPES,
    before: Sequence[Action] = (),
) -> list[Action]:  # fmt: skip
    """Plan the recipes, write what they planned, read it back, then write the marker: of these and those ``before``."""
    planned: dict[str, Change] = {}
    drafts: list[tuple[Recipe, Outcome, str, list[Change]]] = []
    for recipe in recipes:
        if modifiers.get(recipe.id) == OFF:
            drafts.append((recipe, Outcome.SKIPPED, "switched off by an adaptation modifier", []))
            continue
        guest = Guest(files, facts, planned)
        outcome, reason = _planned(recipe, guest)
        changes = list(guest.changes.values())
        planned |= {change.path: change for change in changes}
        drafts.append((recipe, outcome, reason, changes))
    try:
        files.apply(list(planned.values()))
    except GuestFileError as error:  # whatever the policy: it may be half written
        raise AdaptationError(f"The guest could not be written: {printable(str(error))}.") from error
    actions = [action for action in before if action.recipe != _MARKER_ID]
    for recipe, outcome, reason, changes in drafts:
        wrong = [change.path for change in changes if not _is_done(files, planned[change.path])]
        if wrong:
            outcome, reason = Outcome.FAILED, f"not as written when it was read back: {', '.join(wrong)}"  # noqa: PLW2901
        actions.append(Action(recipe.id, recipe.version, outcome, reason, recipe.boot_needs))
    return [*actions, _mark(files, actions)]


def _planned(recipe: Recipe, guest: Guest) -> tuple[Outcome, str]:
    try:
        return Outcome.APPLIED, recipe.plan(guest)
    except Skip as why:
        return Outcome.SKIPPED, str(why)
    except Unsupported as why:
        return Outcome.UNSUPPORTED, str(why)
    except GuestFileError as why:
        guest.changes.clear()
        return Outcome.UNSUPPORTED, str(why)


def _is_done(files: GuestFiles, change: Change) -> bool:
    """Whether the guest now is as the change says."""
    try:
        return _reads_back(files, change)
    except GuestFileError:
        return False


def _reads_back(files: GuestFiles, change: Change) -> bool:
    entry = lookup(files, change.path)
    if isinstance(change, Remove):
        return entry is None
    if isinstance(change, Symlink):
        return entry is not None and entry.kind == "link" and files.readlink(change.path) == change.target
    if (
        entry is None
        or entry.kind != "file"
        or (entry.mode, entry.uid, entry.gid) != (change.mode, change.uid, change.gid)
    ):
        return False
    with files.open(change.path, len(change.data)) as file:
        return file.read() == change.data


def _mark(files: GuestFiles, actions: list[Action]) -> Action:
    """Written last: a guest without it was not adapted to the end."""
    done = {action.recipe: action.version for action in actions if action.outcome is Outcome.APPLIED}
    text = json.dumps({"adapted_by": "clonejob", "recipes": done}, indent=1)
    change = Write(MARKER, f"{text}\n".encode())
    entry = lookup(files, MARKER)
    if entry is not None and entry.kind != "file":
        return Action(_MARKER_ID, 1, Outcome.UNSUPPORTED, f"{MARKER} is there and is no regular file")
    files.apply([change])
    if not _is_done(files, change):
        return Action(
            _MARKER_ID, 1, Outcome.FAILED, f"{MARKER} is not as written when it was read back", boot_needs=True
        )
    return Action(_MARKER_ID, 1, Outcome.APPLIED, f"{MARKER} holds the recipes and their versions")
