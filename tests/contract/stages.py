"""The stages of our own targets for the conformance kit: what they are, and the hands of their owners."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

from targets.base import ResourceRef
from targets.conformance import Hands, Stage
from targets.simulated import SimulatedTarget

SLOW_S = 0.05

# Checks that do not apply, by what the target is like.
NO_CONTENT = frozenset({"a_snapshot_that_is_gone_is_told_by_check", "a_snapshot_that_is_gone_leaves_nothing"})
BOOT_IMAGES_ONLY = frozenset(
    {
        "an_instance_has_several_disks",
        "a_disk_without_its_adapted_image_is_refused",
        "a_disk_does_not_need_its_adapted_image",
    }
)
NEVER_SLOW = frozenset(
    {
        "what_is_being_made_is_shown",
        "what_is_being_made_is_created_only_once",
        "what_is_being_made_can_be_deleted",
        "what_is_being_deleted_is_shown",
    }
)
NEVER_HALF_MADE = frozenset(
    {
        "half_made_can_be_deleted",
        "half_made_is_finished_or_made_anew",
        "half_made_is_in_the_inventory",
        "half_made_is_shown_as_failed",
    }
)
NO_TOMBSTONES = frozenset({"a_buried_jobs_create_is_refused_though_it_exists", "nothing_is_made_for_a_buried_job"})
ADAPTS = frozenset({"a_kind_that_is_not_supported_is_told_by_check"})
NEVER_THROTTLED = frozenset({"throttling_is_a_transient_error", "throttling_is_over_when_it_is_over"})
UNIQUE_NAMES = frozenset({"of_two_jobs_under_one_name_each_finds_its_own"})
DISKS_ONLY = frozenset({"an_instance_does_not_need_its_boot_image"})
ANY_MACHINE = frozenset({"an_unknown_machine_type_is_told_by_check"})


@dataclasses.dataclass
class Conformance:
    """One target on which the kit's checks run: its stage, and the checks that are known not to apply to it.

    ``stage`` is a context that sets the target up once for all checks, and sees at its end that nothing is left.
    A check that does not apply and is not named is a failure, and so is one that is named and does.
    """

    stage: Callable[[Path], contextlib.AbstractContextManager[Stage]]
    not_applicable: frozenset[str]


def simulated_hands(target: SimulatedTarget, make_half) -> Hands:
    @contextlib.contextmanager
    def foreign(ref: ResourceRef) -> Iterator[None]:
        target.foreign(ref.kind, ref.name, {"made-by": "a user"})
        try:
            yield
        finally:
            target.remove_by_hand(ref)

    @contextlib.contextmanager
    def scripted(*faults: dict) -> Iterator[None]:
        for fault in faults:
            target.add_fault(**fault)
        try:
            yield
        finally:
            target.clear_faults()

    def slow(ref: ResourceRef):
        at = {"fault": "slow", "kind": ref.kind, "name": ref.name, "times": None, "delay_s": SLOW_S}
        return scripted({"op": "create", **at}, {"op": "delete", **at})

    return Hands(
        foreign=foreign,
        leave_half_made=make_half,
        power_off=target.power_off,
        lost_reply=lambda op, ref: scripted({"op": op, "fault": "lose_reply", "kind": ref.kind, "name": ref.name}),
        throttled=lambda op: scripted({"op": op, "fault": "fail", "times": None}),
        slow=slow,
    )


def simulated_stage(kit) -> Stage:
    return Stage(
        kit.connect, (kit.snapshot,), keeps_tombstones=True, boots=True, patience_s=10, poll_s=0.005,
        hands=simulated_hands(kit.target, kit.leave_half_made),
    )  # fmt: skip


def qemu_stage(kit) -> Stage:
    @contextlib.contextmanager
    def foreign(ref: ResourceRef) -> Iterator[None]:
        kit.make_foreign(ref)
        try:
            yield
        finally:
            kit.remove_foreign(ref)

    hands = Hands(foreign=foreign, leave_half_made=kit.leave_half_made, power_off=kit.power_off)
    return Stage(
        kit.connect, (kit.snapshot,), gone=dataclasses.replace(kit.snapshot, key="cycle-1/gone.raw"),
        keeps_tombstones=True, boots=True, patience_s=20, hands=hands,
    )  # fmt: skip
