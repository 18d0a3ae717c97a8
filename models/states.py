"""The states of a CloneJob, of a ledger row and of a MigratingVm, as data.

Public states and their meaning are those of google.cloud.vmmigration.v1.CloneJob.State; the contract publishes no
transition graph, so the graph here is ours. ``docs/states.md`` is generated from this module (``make docs-generated``).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any


class JobState(enum.StrEnum):
    """Public state of a CloneJob."""

    PENDING = "PENDING"  # created; no step has started
    ACTIVE = "ACTIVE"  # disks or instance are being made; with ``error`` set: failed, being cleaned up
    ADAPTING_OS = "ADAPTING_OS"  # the guest's operating system is being adapted
    CANCELLING = "CANCELLING"  # cancelled; what it made is being deleted
    SUCCEEDED = "SUCCEEDED"  # the instance exists; nothing of ours touches it any more
    FAILED = "FAILED"  # nothing that it made exists any more; ``error`` says why it failed
    CANCELLED = "CANCELLED"  # nothing that it made exists any more


class Verdict(enum.StrEnum):
    """How the job will end. Set exactly once: the only place where success, failure and cancel race."""

    SUCCEED = "SUCCEED"
    FAIL = "FAIL"
    CANCEL = "CANCEL"


class LedgerState(enum.StrEnum):
    """State of one resource that the job may create."""

    PLANNED = "PLANNED"  # named in the plan; no call was made for it
    INTENDED = "INTENDED"  # a create may have been sent; it may or may not exist
    CREATED = "CREATED"  # the target showed it
    KEPT = "KEPT"  # the job succeeded: it belongs to the user for ever
    DELETING = "DELETING"  # a delete may have been sent
    ABSENT = "ABSENT"  # the target showed that it does not exist


class Role(enum.StrEnum):
    """Whether a resource outlives a successful job."""

    PRODUCT = "product"  # kept on success
    SCAFFOLD = "scaffold"  # removed before success is committed


class StepKind(enum.StrEnum):
    """The steps of the contract's CloneStep oneof."""

    ADAPTING_OS = "adapting_os"
    PREPARING_VM_DISKS = "preparing_vm_disks"
    INSTANTIATING_MIGRATED_VM = "instantiating_migrated_vm"

    @property
    def words(self) -> str:
        """What people read."""
        return self.value.replace("_", " ")


class CycleState(enum.StrEnum):
    """State of a ReplicationCycle (google.cloud.vmmigration.v1.ReplicationCycle.State)."""

    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    FAILED = "FAILED"
    SUCCEEDED = "SUCCEEDED"


class VmState(enum.StrEnum):
    """State of a MigratingVm: those of google.cloud.vmmigration.v1.MigratingVm.State that a VM enters here.

    PENDING and ERROR do not occur, because nothing here connects to a source; CUTTING_OVER, CUTOVER and FINAL_SYNC
    belong to cut-over, which is not covered; FINALIZING is over as soon as it has begun.
    """

    READY = "READY"  # waits for its migration to be started, or for its first replication cycle
    FIRST_SYNC = "FIRST_SYNC"  # started, and no replication cycle has succeeded yet
    ACTIVE = "ACTIVE"  # has a successful cycle; replication goes on
    PAUSED = "PAUSED"  # replication is paused; a clone of the last successful cycle is allowed
    FINALIZED = "FINALIZED"  # its migration is over; nothing can be cloned from it any more
    EXPIRED = "EXPIRED"  # its time is over; ExtendMigration brings it back, for a while
    FINALIZED_EXPIRED = "FINALIZED_EXPIRED"  # finalized, and its time is over


class IllegalTransition(ValueError):
    """A state would change along an edge that the table does not have (R6)."""


_J = JobState
JOB_TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    # FAILED and CANCELLED straight from PENDING: the job owns nothing, so its absence needs no clean-up.
    _J.PENDING: frozenset({_J.ADAPTING_OS, _J.ACTIVE, _J.CANCELLING, _J.CANCELLED, _J.FAILED}),
    _J.ADAPTING_OS: frozenset({_J.ACTIVE, _J.CANCELLING, _J.FAILED}),
    _J.ACTIVE: frozenset({_J.SUCCEEDED, _J.CANCELLING, _J.FAILED}),
    _J.CANCELLING: frozenset({_J.CANCELLED}),
    _J.SUCCEEDED: frozenset(),
    _J.FAILED: frozenset(),
    _J.CANCELLED: frozenset(),
}
TERMINAL = frozenset(state for state, successors in JOB_TRANSITIONS.items() if not successors)

_L = LedgerState
LEDGER_TRANSITIONS: dict[LedgerState, frozenset[LedgerState]] = {
    # DELETING from PLANNED: nothing was asked for, yet the target shows it with our label.
    _L.PLANNED: frozenset({_L.INTENDED, _L.DELETING, _L.ABSENT}),
    # Back to INTENDED from CREATED: it vanished (a user deleted it) and is about to be made again.
    _L.INTENDED: frozenset({_L.INTENDED, _L.CREATED, _L.DELETING, _L.ABSENT}),
    _L.CREATED: frozenset({_L.INTENDED, _L.CREATED, _L.KEPT, _L.DELETING, _L.ABSENT}),
    _L.DELETING: frozenset({_L.DELETING, _L.ABSENT}),
    _L.KEPT: frozenset(),
    _L.ABSENT: frozenset(),
}

_V = VmState
VM_TRANSITIONS: dict[VmState, frozenset[VmState]] = {
    _V.READY: frozenset({_V.FIRST_SYNC, _V.EXPIRED}),
    # Back to READY: the first cycle failed.
    _V.FIRST_SYNC: frozenset({_V.ACTIVE, _V.READY, _V.PAUSED, _V.EXPIRED}),
    _V.ACTIVE: frozenset({_V.PAUSED, _V.FINALIZED, _V.EXPIRED}),
    # To FIRST_SYNC: it was paused before any cycle had succeeded.
    _V.PAUSED: frozenset({_V.ACTIVE, _V.FIRST_SYNC, _V.FINALIZED, _V.EXPIRED}),
    _V.EXPIRED: frozenset({_V.ACTIVE, _V.FIRST_SYNC, _V.READY}),
    _V.FINALIZED: frozenset({_V.FINALIZED_EXPIRED}),
    _V.FINALIZED_EXPIRED: frozenset(),
}
CLONEABLE = frozenset({_V.ACTIVE, _V.PAUSED})  # contract, section 2.5
REPLICATING = frozenset({_V.READY, _V.FIRST_SYNC, _V.ACTIVE})  # a cycle may begin; on a READY VM that starts it

# Per method of the contract: the states in which it does its work, and those in which that work is done already, so
# that a call which is repeated because its answer was lost succeeds.
VM_METHODS: dict[str, tuple[frozenset[VmState], frozenset[VmState]]] = {
    "StartMigration": (frozenset({_V.READY}), frozenset({_V.FIRST_SYNC, _V.ACTIVE})),
    "PauseMigration": (frozenset({_V.FIRST_SYNC, _V.ACTIVE}), frozenset({_V.PAUSED})),
    "ResumeMigration": (frozenset({_V.PAUSED}), frozenset({_V.FIRST_SYNC, _V.ACTIVE})),
    "FinalizeMigration": (frozenset({_V.ACTIVE, _V.PAUSED}), frozenset({_V.FINALIZED})),
    "ExtendMigration": (frozenset(_V) - {_V.FINALIZED, _V.FINALIZED_EXPIRED}, frozenset()),
}

STEP_STATE: dict[StepKind, JobState] = {
    StepKind.ADAPTING_OS: JobState.ADAPTING_OS,
    StepKind.PREPARING_VM_DISKS: JobState.ACTIVE,
    StepKind.INSTANTIATING_MIGRATED_VM: JobState.ACTIVE,
}


def check_job_transition(old: JobState, new: JobState) -> None:
    """Refuse an edge that the table does not have; staying in a state is no transition.

    Raises: IllegalTransition.
    """
    if new is not old and new not in JOB_TRANSITIONS[old]:
        raise IllegalTransition(f"a CloneJob does not go from {old} to {new}")


def check_vm_transition(old: VmState, new: VmState) -> None:
    """The same for a MigratingVm. Raises: IllegalTransition."""
    if new is not old and new not in VM_TRANSITIONS[old]:
        raise IllegalTransition(f"a MigratingVm does not go from {old} to {new}")


def job_predecessors(new: JobState) -> frozenset[JobState]:
    """The states from which ``new`` may be entered: the WHERE of a guarded write."""
    return frozenset(old for old, successors in JOB_TRANSITIONS.items() if new in successors)


def ledger_predecessors(new: LedgerState) -> frozenset[LedgerState]:
    """The ledger states from which ``new`` may be entered."""
    return frozenset(old for old, successors in LEDGER_TRANSITIONS.items() if new in successors)


def diagram() -> str:
    """The tables as Mermaid state diagrams, for ``docs/states.md``."""

    def lines(table: Mapping[Any, frozenset[Any]], start: str) -> list[str]:
        out = ["```mermaid", "stateDiagram-v2", f"    [*] --> {start}"]
        for old, successors in table.items():
            out += [f"    {old} --> {new}" for new in sorted(successors) if new != old]
            if not successors:
                out.append(f"    {old} --> [*]")
        return [*out, "```"]

    job = lines(JOB_TRANSITIONS, JobState.PENDING)
    ledger = lines(LEDGER_TRANSITIONS, LedgerState.PLANNED)
    vm = lines(VM_TRANSITIONS, VmState.READY)

    def names(states: frozenset[VmState]) -> str:
        return ", ".join(state for state in VmState if state in states) or "none"

    methods = [f"| {method} | {names(work)} | {names(done)} |" for method, (work, done) in VM_METHODS.items()]
    rule = (
        f"A clone is allowed in {names(CLONEABLE)}; a replication cycle may begin in {names(REPLICATING)}, and starts the"
        " migration of a READY VM."
    )
    return "\n".join(
        ["# States", "", "Generated from `models/states.py` by `make docs-generated`; a test holds the two equal.", "",
         "## CloneJob", "", *job, "", "## Ledger row", "", *ledger, "", "## MigratingVm", "", *vm, "",
         rule, "",
         "| method | does its work in | succeeds, changing nothing, in |", "|---|---|---|", *methods, ""]
    )  # fmt: skip
