"""What goes wrong in ``benchmarks/guarantee.py``: the same for both systems, told in terms of the target's own log.

Every scenario runs a few jobs, each of its own VM; what a job makes is found by its name, which begins with the VM's
id. Faults are scripted in the simulated target, which serves both systems; the rest is done when the target's log
shows that a call has got to a certain point.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SLOW_INSTANCE = {"op": "create", "kind": "instance", "fault": "slow", "delay_s": 2.0}


@dataclass(frozen=True, slots=True)
class When:
    """A moment: the first line of the target's log for the job's VM with this operation, kind and phase."""

    op: str
    phase: str
    kind: str | None = None


@dataclass(frozen=True, slots=True)
class Scenario:
    """``deeds`` are done to each job, or once to the system, when their moment has come, in their order.

    Deeds: "cancel" the job, "freeze" the process that makes the call, "thaw" it ``FREEZE_S`` later, "kill workers"
    (SIGKILL of all worker processes; they are started again, as an init system would), "lose messages" (FLUSHALL).
    ``ends`` are the states that a user may expect.
    """

    name: str
    ends: frozenset[str]
    faults: tuple[dict[str, Any], ...] = ()
    deeds: tuple[tuple[When | None, str], ...] = ()
    jobs: int = 2
    jitter_s: float = field(default=0.0)


MADE = When("create", "effect", "instance")
CALLED = When("create", "start", "instance")
CANCELLED = frozenset({"CANCELLED"})
SUCCEEDED = frozenset({"SUCCEEDED"})
FAILED = frozenset({"FAILED"})

SCENARIOS = (
    Scenario("nothing goes wrong", SUCCEEDED),
    Scenario("the target refuses the instance", FAILED, ({"op": "create", "kind": "instance", "fault": "refuse"},)),
    Scenario(
        "the instance is left half made, each time",
        FAILED,
        ({"op": "create", "kind": "instance", "fault": "half_made", "times": None},),
    ),
    Scenario("cancelled while the instance is created", CANCELLED, (SLOW_INSTANCE,), ((MADE, "cancel"),)),
    Scenario(
        "the reply of the create is lost, then cancelled",
        CANCELLED,
        ({"op": "create", "kind": "instance", "fault": "lose_reply"},),
        ((MADE, "cancel"),),
    ),
    Scenario("cancelled in the queue", CANCELLED, (SLOW_INSTANCE,), ((None, "cancel"),), jobs=6),
    Scenario(
        "cancelled in the queue, then the workers are killed",
        CANCELLED,
        (SLOW_INSTANCE,),
        ((None, "cancel"), (None, "kill workers")),
        jobs=6,
    ),
    Scenario(
        "SIGKILL before the disk is created",
        SUCCEEDED,
        ({"op": "create", "kind": "disk", "fault": "crash_before"},),
    ),
    Scenario(
        "SIGKILL after the instance is created",
        SUCCEEDED,
        ({"op": "create", "kind": "instance", "fault": "crash_after"},),
    ),
    Scenario(
        "SIGKILL after the instance is created, and a cancel",
        CANCELLED,
        ({"op": "create", "kind": "instance", "fault": "crash_after"},),
        ((MADE, "cancel"),),
    ),
    Scenario("all workers are killed in the create", SUCCEEDED, (SLOW_INSTANCE,), ((MADE, "kill workers"),)),
    Scenario(
        "all workers are killed, and a cancel", CANCELLED, (SLOW_INSTANCE,), ((MADE, "kill workers"), (None, "cancel"))
    ),
    Scenario(
        "SIGKILL in the middle of the clean-up",
        CANCELLED,
        (SLOW_INSTANCE, {"op": "delete", "kind": "instance", "fault": "crash_before"}),
        ((MADE, "cancel"),),
    ),
    Scenario(
        "the target cannot delete for a while",
        CANCELLED,
        (SLOW_INSTANCE, {"op": "delete", "fault": "fail", "times": 7}),
        ((MADE, "cancel"),),
    ),
    Scenario("the broker loses its messages", SUCCEEDED, (SLOW_INSTANCE,), ((CALLED, "lose messages"),), jobs=6),
    Scenario(
        "a worker freezes in the create, is cancelled, and wakes up",
        CANCELLED,
        ({"op": "create", "kind": "instance", "fault": "hang", "delay_s": 0.5},),
        ((CALLED, "freeze"), (None, "cancel"), (None, "thaw")),
    ),
    Scenario(
        "a cancel as the job succeeds",
        CANCELLED | SUCCEEDED,
        (),
        ((When("create", "end", "instance"), "cancel"),),
        jobs=8,
        jitter_s=0.08,
    ),
)
FREEZE_S = 15.0
