"""What the kit needs to know of a target: how to reach it, what may be made there, and what only its owner can do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from targets.base import ResourceKind, ResourceRef, ResourceSpec, Snapshot, Target


@runtime_checkable
class TombstoneKeeper(Protocol):
    """What a target may offer whose tombstones are files of its own: the kit leaves none behind."""

    def remove_tombstone(self, job_id: str) -> None:
        """Take the tombstone of one of the kit's jobs away. Raises: RefusedError for a job that is not the kit's."""


@dataclass(frozen=True, slots=True)
class Hands:
    """What only the target's owner can do. Each is optional: a check that needs one that is missing is not applicable.

    Those that give a context hold what they say until its end; what they made themselves they remove there.
    """

    # Something under that name, made as a user would, without any label of ours.
    foreign: Callable[[ResourceRef], AbstractContextManager[object]] | None = None
    # What a creator of this spec leaves that is killed at the worst moment: it must carry the job's label.
    leave_half_made: Callable[[ResourceSpec], None] | None = None
    # Stop an instance, as a user would or a crash.
    power_off: Callable[[ResourceRef], None] | None = None
    # The next call of this operation ("create", "delete") on this name does its work, and its reply is lost between
    # the provider and the target, which raises TransientError or asks once more. Without this hand the kit does not read the reply.
    lost_reply: Callable[[str, ResourceRef], AbstractContextManager[object]] | None = None
    # Two creates of one name for two jobs, of which each found the name free, and whose workers died right after: only
    # for what a provider's names are not unique for.
    made_at_once: Callable[[ResourceSpec, ResourceSpec], None] | None = None
    # Every call of this operation ("create", "find", "delete", "inventory") is told to come more slowly.
    throttled: Callable[[str], AbstractContextManager[object]] | None = None
    # What a create or delete of this name starts goes on after the call has returned, for some tenths of a second.
    slow: Callable[[ResourceRef], AbstractContextManager[object]] | None = None


@dataclass(frozen=True, slots=True)
class Stage:
    """One target under test.

    ``connect`` gives the target as another worker process sees it: nothing may be shared but what is at the provider.
    ``snapshots``: one or more that disks can be made from. ``gone``: one that does not exist; None where a snapshot's
    bytes are never read. ``kinds``: what can be made; None to find out by ``check``. ``details`` and ``machine_type``
    go into every spec. ``keeps_tombstones``, ``boots``: whether late creates are refused, whether the guest in the
    snapshots shows that it has booted; None when nobody knows. ``patience_s``: how long the slowest operation may take;
    ``poll_s``: pause between two looks; ``lag_s``: how much later than ``find`` the inventory may show a change.
    """

    connect: Callable[[], Target]
    snapshots: tuple[Snapshot, ...]
    gone: Snapshot | None = None
    kinds: frozenset[ResourceKind] | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    machine_type: str = ""
    unknown_machine_type: str = "kit-no-such-machine"
    keeps_tombstones: bool | None = None
    boots: bool | None = None
    patience_s: float = 60.0
    poll_s: float = 0.02
    lag_s: float = 0.0
    hands: Hands = field(default_factory=Hands)
