"""The stage on which the model plays: workers that die or freeze at any I/O point, and a witness of each instant.

A worker is a thread that runs alone: it is started or resumed, and then the others wait until it ends, dies or freezes.
So the order of everything is the script's, and an example can be repeated. A frozen worker keeps all that a process
under SIGSTOP keeps: its epoch, its lease object, what it read before. Time is the script's too.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from harness import Mailbox, World
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from models import io_points
from models.schema import CloneJob
from models.states import JobState, LedgerState
from targets.errors import TransientError
from tasks.runtime import Pacing
from tasks.settle import Reason
from tasks.steps import Result

_ANSWER_S = 120  # a worker that neither ends nor freezes by then is stuck, which is a defect


class InjectedError(OperationalError):
    """The database did not answer, because the script says so."""


class Crash(BaseException):
    """The process is gone: nothing in the product catches this, and nothing of the worker runs any more."""


@dataclass(frozen=True)
class Interrupt:
    """What happens when a worker has passed ``after`` more instants (before or after an I/O call): crash, freeze, error."""

    how: str
    after: int


class Worker:
    """One message, request or round at work, in a thread of its own."""

    def __init__(
        self, stage: Stage, what: tuple, work: Callable[[], Any], allowed: tuple[type[Exception], ...] = ()
    ) -> None:
        self.what = what
        self.allowed = (InjectedError, *allowed)
        self.frozen_at: str | None = None
        self.was_frozen = False
        self.ended = False
        self.crashed = False
        self.failed: BaseException | None = None
        self.result: Any = None
        self._stage = stage
        self._work = work
        self._interrupt: Interrupt | None = None
        self._passed = 0
        self._killed = False
        self._go = threading.Event()
        self._back = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stage", daemon=True)

    def play(self, interrupt: Interrupt | None = None, *, kill: bool = False) -> Worker:
        """Start or resume it, and wait until it ends, dies or freezes."""
        self._interrupt, self._passed, self._killed = interrupt, 0, kill
        self.frozen_at = None
        self._back.clear()
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._go.set()
        self._stage.moved += 1
        assert self._back.wait(_ANSWER_S), f"worker {self.what} is stuck"
        if self.ended:
            self._thread.join()
        return self

    def passes(self, point: str, phase: str) -> None:
        """Called by the hook in the worker's own thread."""
        self._stage.witness(self, point, phase)
        interrupt = self._interrupt
        if interrupt is None or self._passed != interrupt.after:
            self._passed += 1
            return
        self._interrupt = None
        self._stage.tally[f"{interrupt.how} at {point} {phase}"] += 1
        match interrupt.how:
            case "crash":
                raise Crash
            case "freeze":
                self.freeze(f"{point} {phase}")
            case _ if point.startswith("target."):
                raise TransientError(f"injected at {point}")
            case _ if point.startswith("broker."):
                raise ConnectionError(f"injected at {point}")
            case _:
                raise InjectedError(point, {}, Exception("injected"))

    def freeze(self, at: str) -> None:
        """Stop here until somebody plays on."""
        self.frozen_at, self.was_frozen = at, True
        self._go.clear()
        self._back.set()
        assert self._go.wait(3600)
        if self._killed:
            raise Crash

    def _run(self) -> None:
        self._stage.workers[threading.get_ident()] = self
        try:
            self.result = self._work()
        except Crash:
            self.crashed = True
        except BaseException as error:  # handed to whoever plays
            self.failed = error
        finally:
            del self._stage.workers[threading.get_ident()]
            self.ended = True
            self._back.set()


@dataclass
class StageMail(Mailbox):
    """The test's broker behind the I/O points of the real publisher. ``sent`` keeps every message that ever was."""

    sent: list[tuple] = field(default_factory=list)

    def steps(self, job_id: str, epoch: int, first: int, kinds: tuple[str, ...]) -> bool:
        return self._publish("broker.publish.chain", ("step", job_id, epoch, first))

    def cleanup(self, job_id: str, epoch: int) -> bool:
        return self._publish("broker.publish.cleanup", ("cleanup", job_id, epoch))

    def _publish(self, point: str, message: tuple) -> bool:
        try:
            io_points.call(point, self.put, message)
        except ConnectionError:
            return False
        return True

    def put(self, message: tuple) -> None:
        """Raises: ConnectionError while the broker is down."""
        if self.broken:
            raise ConnectionError("the broker is down")
        self.messages.append(message)
        self.sent.append(message)


class Stage(World):
    """A world whose workers can be interrupted, and a witness who notes what no table tells."""

    def __init__(self, tmp_path: Path, database_url: str, tally: Counter[str]) -> None:
        self.workers: dict[int, Worker] = {}
        self.frozen: list[Worker] = []
        self.tally = tally
        self.blames: list[str] = []  # what the witness saw that no rule allows
        self.published: dict[str, int] = {}  # job id -> length of the target's log when its end was committed
        self.clock_s = 0.0
        self.moved = 0  # how often something happened that a judge may look at
        # The target is another machine: its clock is not set back with ours.
        super().__init__(
            tmp_path, database_url, target_clock=lambda: self.clock_s, mail=StageMail(), monotonic=lambda: self.clock_s, sleep=self._hang,
            pacing=Pacing(inline_wait_s=0.0, delete_wait_s=0.0, poll_s=1.0, boot_timeout_s=30.0),
        )  # fmt: skip
        io_points.install_hook(self._hook)

    def close(self) -> None:
        """Kill who is left, and leave."""
        for worker in self.frozen:
            worker.play(kill=True)
        io_points.install_hook(None)
        super().close()

    # Time

    def wait(self, seconds: float) -> None:
        """Time passes, for everybody."""
        self.clock_s += max(seconds, 0.0)
        self.clock.advance(seconds)

    def jump_back(self, seconds: float) -> None:
        """The wall clock is set back; what measures durations does not notice."""
        self.clock.advance(-seconds)

    def _hang(self, seconds: float) -> None:
        worker = self.workers.get(threading.get_ident())
        if worker is None:
            self.wait(seconds)
        else:
            self.tally["freeze inside a provider call"] += 1
            worker.freeze("inside a provider call")

    # Working

    def play(
        self,
        what: tuple,
        work: Callable[[], Any],
        interrupt: Interrupt | None = None,
        allowed: tuple[type[Exception], ...] = (),
    ) -> Worker:
        """Have ``work`` done by a worker of its own, which may end with an error that is ``allowed``."""
        return self.played(Worker(self, what, work, allowed).play(interrupt))

    def resume(self, worker: Worker, interrupt: Interrupt | None = None, *, kill: bool = False) -> Worker:
        """The frozen worker goes on, or is killed."""
        self.frozen.remove(worker)
        return self.played(worker.play(interrupt, kill=kill))

    def played(self, worker: Worker) -> Worker:
        if not worker.ended:
            self.frozen.append(worker)
        return worker

    def follow_up(self, worker: Worker) -> None:
        """What the chain and the worker's main process send when a child has ended."""
        kind, *args = worker.what
        if self.mail.broken or kind not in ("step", "cleanup"):
            return
        if worker.crashed or worker.failed is not None:
            self.report(worker.what, Reason.WORKER_LOST if worker.crashed else Reason.TASK_FAILED)
        elif kind == "step":
            job_id, epoch, position = args
            result = worker.result.result
            if result is Result.AGAIN:
                self.mail.messages.append(("step", job_id, epoch, position))
            elif result is Result.DONE and position < len(self.job_quietly(job_id).steps):
                self.mail.messages.append(("step", job_id, epoch, position + 1))

    def report(self, message: tuple, reason: Reason) -> None:
        """Send ``clone.settle`` about a step or a clean-up, as the signal handlers and ``link_error`` do."""
        job_id, epoch = message[1:3]
        position = message[3] if message[0] == "step" else None
        about = epoch if message[0] == "step" else epoch + 1  # claiming the clean-up raised the epoch
        self.mail.messages.append(("settle", job_id, about, reason, "reported", position))

    # Witnessing

    def _hook(self, point: str, phase: str) -> None:
        worker = self.workers.get(threading.get_ident())
        if worker is not None:
            worker.passes(point, phase)
        elif threading.current_thread().name.startswith("lease-"):
            # The renewals by the clock of the real world would make an example depend on the machine's speed. A worker
            # renews by itself when enough of the script's time has gone by (HeldLease.check).
            raise InjectedError(point, {}, Exception("renewals in the background are off"))

    def witness(self, worker: Worker, point: str, phase: str) -> None:
        """Note at its instant what is judged later, and see that an intent stands before each create."""
        if phase == "after" and point in ("store.succeed", "store.finish_cleanup", "store.settle"):
            self._note_ends()
        if phase == "before" and point.startswith(("target.create.", "target.delete.", "target.bury")):
            self._see_call(worker, point)

    def _note_ends(self) -> None:
        with Session(self.engine) as session:
            ended = session.scalars(sa.select(CloneJob.id).where(CloneJob.end_time.is_not(None))).all()
        new = [job_id for job_id in ended if job_id not in self.published]
        if new:
            length = len(self.target.calls())
            self.published.update(dict.fromkeys(new, length))

    def _see_call(self, worker: Worker, point: str) -> None:
        job_id, epoch = worker.what[1], worker.what[2]
        _, op, kind = point.split(".")
        with Session(self.engine) as session:
            job = session.get(CloneJob, job_id)
            assert job is not None
            if worker.was_frozen:
                return  # its call may come late: what it then does is the target's log to tell
            if job.state is JobState.SUCCEEDED:
                self.blames.append(f"R2: {point} was sent after success of {job.name}")
            rows = [row for row in job.ledger if row.kind == kind]
            if op == "create" and job.epoch == epoch and not any(row.state is LedgerState.INTENDED for row in rows):
                self.blames.append(f"ledger: {point} was sent for {job.name} before its intent was committed")
            if op == "delete" and job.verdict is None and any(row.role == "product" for row in rows):
                self.blames.append(f"R2: {point} was sent for {job.name}, which may still succeed")
            if op == "delete" and not any(row.state is LedgerState.DELETING for row in rows):
                self.blames.append(f"ledger: {point} was sent for {job.name} without a word in the ledger")
