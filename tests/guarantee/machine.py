"""The model: a hypothesis state machine over the real store, services, steps and clean-up, and the simulated target.

Its rules are what happens to a service: requests, messages in any order, twice, late or never, workers that die or freeze
at any instant and may wake up later, a clock that jumps, a provider and a broker that fail, users with hands. After every
rule the judge holds R1–R9 against the target's own log. At the end faults stop, and every job must end, too.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable

from guarantee import machine_hands, machine_witness
from guarantee.machine_draws import VMS, happens, in_a_call, in_a_step, some, trouble
from guarantee.machine_stage import Interrupt, Stage, Worker
from guarantee.machine_witness import Witness
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition

from models.states import TERMINAL
from targets.base import ResourceKind
from tasks import cleanup, reconcile, settle, steps
from tasks.errors import Aborted, AlreadyExists, FailedPrecondition, ServiceError, Unavailable
from tasks.services import Request
from tasks.settle import Reason

_ROUNDS = 80  # of delivering and reconciling, within which every job must end once faults have stopped


class Model(RuleBasedStateMachine):
    """``make_stage`` and ``tally`` are set by the subclass that a test makes for its database."""

    make_stage: Callable[[Counter[str]], Stage]
    tally: Counter[str]

    def __init__(self) -> None:
        super().__init__()
        self.stage = type(self).make_stage(self.tally)
        self.witness = Witness(self.stage)
        self.accepted: dict[str, str] = {}  # request id -> job name
        self.requests: list[tuple[str, str, Request]] = []  # (vm, clone job id, request) of every create
        self.uploads = 0
        self.tally["examples"] += 1

    @initialize(disks=st.integers(1, 2), adapted=st.booleans(), delays=st.booleans())
    def set_up(self, disks: int, adapted: bool, delays: bool) -> None:
        stage = self.stage
        stage.set_up(disks=disks)
        stage.add_vm("web-2", policy={"skipOsAdaptation": adapted})
        stage.upload(VMS[1])
        if delays:
            stage.target._durations.update({ResourceKind.DISK: 3.0, ResourceKind.INSTANCE: 2.0})
            stage.target._delete_durations.update({ResourceKind.INSTANCE: 2.0})
        for vm in VMS:
            self.create(vm=vm, interrupt=None)

    # What clients do

    @happens(vm=st.sampled_from(VMS), interrupt=in_a_call)
    def create(self, vm: str, interrupt: Interrupt | None) -> None:
        request = Request(id=str(uuid.UUID(int=len(self.requests) + 1)), body_hash="same")
        self.requests.append((vm, f"clone-{len(self.requests)}", request))
        self._create(*self.requests[-1], interrupt)

    @precondition(lambda self: self.requests)
    @happens(which=some)
    def create_again(self, which: int) -> None:
        """A client repeats a request, because its answer was lost or for no reason at all."""
        self._create(*_one(self.requests, which), None)

    def _create(self, vm: str, job_id: str, request: Request, interrupt: Interrupt | None) -> None:
        def work() -> None:
            operation, _ = self.stage.services.clone_jobs.create(vm, job_id, request)
            earlier = self.accepted.setdefault(request.id, operation.target)
            assert earlier == operation.target == f"{vm}/cloneJobs/{job_id}"

        self._play(("create", vm), work, interrupt, Aborted, AlreadyExists, FailedPrecondition, Unavailable)

    @precondition(lambda self: self.requests)
    @happens(which=some, interrupt=in_a_call, fault=trouble, op=st.sampled_from(("delete", "find", "bury")))
    def cancel(self, which: int, interrupt: Interrupt | None, fault: str | None, op: str) -> None:
        vm, job_id, _ = _one(self.requests, which)
        if fault is not None:
            self.stage.target.add_fault(op=op, fault=fault, times=2, delay_s=7.0)
        name = f"{vm}/cloneJobs/{job_id}"
        self._play(("cancel", name), lambda: self.stage.services.clone_jobs.cancel(name), interrupt, ServiceError)

    @precondition(lambda self: self.uploads < 2)
    @happens(vm=st.sampled_from(VMS))
    def replicate(self, vm: str) -> None:
        self.uploads += 1
        self.stage.upload(vm, disks=2, content=b"newer")

    # What the broker and the workers do

    @precondition(lambda self: self.stage.mail.messages)
    @happens(which=some, interrupt=in_a_step)
    def deliver(self, which: int, interrupt: Interrupt | None) -> None:
        message = _one(self.stage.mail.messages, which)
        self.stage.mail.messages.remove(message)
        self._deliver(message, interrupt)

    @precondition(lambda self: self.stage.mail.messages)
    @happens(interrupt=in_a_step)
    def deliver_next(self, interrupt: Interrupt | None) -> None:
        self._deliver(self.stage.mail.messages.pop(0), interrupt)

    @precondition(lambda self: self.stage.mail.messages)
    @happens(limit=st.integers(2, 12))
    def deliver_in_order(self, limit: int) -> None:
        for _ in range(limit):
            if self.stage.mail.messages:
                self._deliver(self.stage.mail.messages.pop(0), None)

    @precondition(lambda self: self.stage.mail.messages)
    @happens(which=some)
    def duplicate(self, which: int) -> None:
        self.stage.mail.messages.append(_one(self.stage.mail.messages, which))

    @precondition(lambda self: self.stage.mail.messages)
    @happens(which=some)
    def lose(self, which: int) -> None:
        self.stage.mail.messages.remove(_one(self.stage.mail.messages, which))

    @precondition(lambda self: self.stage.mail.sent)
    @happens(which=some, interrupt=in_a_step)
    def redeliver(self, which: int, interrupt: Interrupt | None) -> None:
        """A message of any time comes once more: an earlier epoch, a step that is over, a clean-up that was done."""
        self._deliver(_one(self.stage.mail.sent, which), interrupt)

    @precondition(lambda self: self.stage.mail.messages)
    @happens(which=some)
    def not_understood(self, which: int) -> None:
        """A worker of another revision got it, with an argument too many or too few: it fails before it claims."""
        message = _one(self.stage.mail.messages, which)
        self.stage.mail.messages.remove(message)
        if message[0] == "step":
            self.stage.report(message, Reason.TASK_FAILED)  # by the signal
            self.stage.report(message, Reason.TASK_FAILED)  # and by link_error

    @happens(interrupt=in_a_call)
    def tick(self, interrupt: Interrupt | None) -> None:
        self._reconcile(interrupt)

    @precondition(lambda self: self.stage.frozen)
    @happens(which=some, interrupt=in_a_step, kill=st.booleans())
    def wake(self, which: int, interrupt: Interrupt | None, kill: bool) -> None:
        """A frozen worker goes on where it stopped, or dies there."""
        worker = _one(self.stage.frozen, which)
        self.tally["frozen workers " + ("killed" if kill else "woken")] += 1
        self.stage.resume(worker, interrupt, kill=kill)
        self._after(worker)

    # What time, the broker and the provider do

    @happens(seconds=st.sampled_from((0.4, 1.1, 3.0, 16.0, 21.0, 46.0, 100.0)))
    def wait(self, seconds: float) -> None:
        self.stage.wait(seconds)

    @happens(seconds=st.sampled_from((16.0, 21.0, 46.0)))
    def wait_and_tick(self, seconds: float) -> None:
        """Past a lease, a dispatch's grace, a fence."""
        self.stage.wait(seconds)
        self._reconcile(None)

    @happens(seconds=st.sampled_from((0.2, 2.0, 10.0)))
    def clock_is_set_back(self, seconds: float) -> None:
        self.stage.jump_back(seconds)

    @happens(
        op=st.sampled_from(("create", "create", "find", "delete", "bury", "boot_report", "*")),
        kind=st.sampled_from((None, *ResourceKind)),
        fault=st.sampled_from(("fail", "refuse", "lose_reply", "lose_reply", "half_made", "slow", "no_boot", "hang")),
        times=st.sampled_from((1, 1, 2, 7)),
    )
    def provider_fault(self, op: str, kind: ResourceKind | None, fault: str, times: int) -> None:
        self.stage.target.add_fault(op=op, kind=kind, fault=fault, times=times, delay_s=7.0)

    @happens(what=st.sampled_from(("provider", "broker")), now=st.sampled_from(("up", "up", "down")))
    def outage(self, what: str, now: str) -> None:
        """Of the broker or the whole provider: a rule that ends it comes twice as often as one that begins it."""
        if what == "broker":
            self.stage.mail.broken = now == "down"
        elif now == "down":
            self.stage.target.add_fault(op="*", fault="fail", times=None)
        else:
            self.stage.target.clear_faults()

    # What people do

    @happens(hand=st.sampled_from(machine_hands.HANDS), which=some, kind=st.sampled_from(list(ResourceKind)))
    def by_hand(self, hand: str, which: int, kind: ResourceKind) -> None:
        if machine_hands.use(self.stage, hand, which, kind):
            self.tally[f"by hand: {hand}"] += 1

    # What an old worker does

    @precondition(lambda self: self.witness.leases)
    @happens(which=some, write=st.sampled_from(machine_hands.WRITES), position=st.integers(0, 2))
    def stale_write(self, which: int, write: str, position: int) -> None:
        machine_hands.write_late(self.stage, _one(self.witness.leases, which), write, position)

    @happens(which=some, write=st.sampled_from(machine_hands.UNGUARDED))
    def unguarded_write(self, which: int, write: str) -> None:
        machine_hands.write_unguarded(self.stage, which, write)

    # Inside

    def _play(
        self, what: tuple, work: Callable[[], object], interrupt: Interrupt | None, *allowed: type[Exception]
    ) -> Worker:
        worker = self.stage.play(what, work, interrupt, allowed)
        self._after(worker)
        return worker

    def _deliver(self, message: tuple, interrupt: Interrupt | None) -> None:
        kind, *args = message
        runtime = self.stage.runtime
        match kind:
            case "step":
                self._play(message, lambda: steps.run_step(runtime, *args), interrupt)
            case "cleanup":
                self._play(message, lambda: cleanup.run_cleanup(runtime, *args), interrupt)
            case _:
                self._play(message, lambda: settle.settle(runtime, *args), interrupt)

    def _reconcile(self, interrupt: Interrupt | None) -> None:
        name = f"reconciler {self.tally['ticks'] % 2}"
        self.tally["ticks"] += 1
        self._play(("tick",), lambda: reconcile.reconcile(self.stage.runtime, name, 0.0), interrupt)

    def _after(self, worker: Worker) -> None:
        """What the worker's main process and the chain do when a child has ended; nothing while it is frozen."""
        if not worker.ended:
            return
        self.witness.see_end(worker)
        self.stage.follow_up(worker)

    # Judging

    @invariant()
    def rules_hold(self) -> None:
        self.witness.judge(self.accepted, final=False)

    def teardown(self) -> None:
        try:
            self._end()
        finally:
            self.stage.close()

    def _end(self) -> None:
        """Faults stop and time goes by: everything ends, first without the frozen workers, and stays so when they wake."""
        stage = self.stage
        stage.target.clear_faults()
        stage.mail.broken = False
        self._drain()
        self.witness.judge(self.accepted, final=True)
        while stage.frozen:
            worker = stage.resume(stage.frozen[0])
            self._after(worker)
            self.witness.judge(self.accepted, final=False)
        self._drain()
        self.witness.judge(self.accepted, final=True)
        self.witness.count(self.accepted)

    def _drain(self) -> None:
        for _ in range(_ROUNDS):
            for _ in range(len(self.stage.mail.messages)):
                self._deliver(self.stage.mail.messages.pop(0), None)
            waiting = [job.wake_at for job in machine_witness.jobs(self.stage) if job.state not in TERMINAL]
            if not waiting:
                self.stage.mail.messages.clear()
                return
            self.stage.wait(max((min(waiting) - self.stage.clock()).total_seconds(), 0.0) + 0.1)
            self._reconcile(None)


def _one(of: list, which: int):
    return of[which % len(of)]
