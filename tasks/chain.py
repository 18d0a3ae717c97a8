"""The Celery side: task names, queues, the chain, and how every failure of a task reaches ``settle``.

A clone runs as a real ``celery.chain`` of immutable signatures, one task per step and ``clone.finish`` at its end. A
task carries only ``job_id, epoch, position``: what to do stands in the row. A task that waits for its target retries
itself, which keeps the rest of the chain with it; one whose epoch is over is ignored, which ends its chain.

No hook below is a guarantee (``docs/architecture.md`` has what was measured): they make things quick, the reconciler
makes them certain.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery import Celery, Task, chain
from celery.canvas import Signature
from celery.exceptions import Ignore
from kombu import Exchange, Queue
from kombu.exceptions import OperationalError

from models import io_points
from models.states import StepKind
from tasks import audit, cleanup, reconcile, steps
from tasks.runtime import Runtime
from tasks.settle import Reason, settle

logger = logging.getLogger(__name__)

QUEUES = ("control", "disks", "adapt", "instances", "cleanup")
_STEP_TASKS = {  # step -> (task, queue)
    StepKind.ADAPTING_OS: ("clone.adapt_os", "adapt"),
    StepKind.PREPARING_VM_DISKS: ("clone.prepare_vm_disks", "disks"),
    StepKind.INSTANTIATING_MIGRATED_VM: ("clone.instantiate_migrated_vm", "instances"),
}
_FINISH = ("clone.finish", "instances")
CHAIN_TASKS = frozenset(name for name, _ in (*_STEP_TASKS.values(), _FINISH))
SETTLE, CLEAN_UP, RECONCILE, AUDIT = "clone.settle", "clone.clean_up", "clonejob.reconcile", "clonejob.audit"
_CHAIN, _CLEANUP, _SETTLE, _RECONCILE, _AUDIT, _RETRY, _ERRBACK, _NEXT = (
    io_points.register(f"broker.publish.{name}")
    for name in ("chain", "cleanup", "settle", "reconcile", "audit", "retry", "errback", "next")
)


class StepFailedError(Exception):
    """Leaves a task whose job has failed, so that Flower shows the failure; the job is settled already."""


def kombu_queues(*, quorum: bool = False) -> tuple[Queue, ...]:
    """The queues, one per kind of work, so that pools scale apart and clean-up is never starved by new work.

    ``quorum``: RabbitMQ's replicated queues. Their exchange is a topic exchange, which Celery asks for to let messages
    with a countdown wait in the broker.
    """
    if quorum:
        exchange = Exchange("clonejob.topic", type="topic")
        return tuple(
            Queue(name, exchange, routing_key=name, queue_arguments={"x-queue-type": "quorum"}) for name in QUEUES
        )
    exchange = Exchange("clonejob", type="direct")
    return tuple(Queue(name, exchange, routing_key=name) for name in QUEUES)


class NumberedCelery(Celery):
    """Everything that is sent passes here: also what Celery sends by itself, for a retry, a link or an errback."""

    def send_task(self, name: str, *args: Any, **options: Any) -> Any:
        """An I/O point of its own, unless the sender has opened one."""
        if any(point.startswith("broker.") for point in io_points.open_points()):
            return super().send_task(name, *args, **options)
        return io_points.call(_point_of(name, options), super().send_task, name, *args, **options)


def _point_of(name: str, options: Mapping[str, Any]) -> str:
    if options.get("retries"):
        return _RETRY
    return {SETTLE: _ERRBACK, CLEAN_UP: _CLEANUP, RECONCILE: _RECONCILE, AUDIT: _AUDIT}.get(name, _NEXT)


class CeleryPublisher:
    """``tasks.runtime.Publisher`` on a Celery app."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def steps(self, job_id: str, epoch: int, first: int, kinds: tuple[str, ...]) -> bool:
        """Send the chain of the steps from ``first`` on; errors of any of them lead to ``settle``."""
        links = [*(_STEP_TASKS[StepKind(kind)] for kind in kinds), _FINISH]
        signatures = []
        for position, (name, queue) in enumerate(links):
            if position >= first:
                signature = self._signature(name, queue, job_id, epoch, position)
                signature.link_error(self._settle(job_id, epoch, position, Reason.TASK_FAILED, "link_error"))
                signatures.append(signature)
        whole = chain(*signatures) if len(signatures) > 1 else signatures[0]
        return _published(_CHAIN, whole.apply_async)

    def cleanup(self, job_id: str, epoch: int) -> bool:
        """Send the clean-up."""
        return _published(_CLEANUP, self._signature(CLEAN_UP, "cleanup", job_id, epoch).apply_async)

    def settle(self, job_id: str, epoch: int, position: int | None, reason: Reason, detail: str) -> bool:
        """Report a failure from a signal handler: it runs in the worker's main process, where only a message is sent."""
        return _published(_SETTLE, self._settle(job_id, epoch, position, reason, detail[:500]).apply_async)

    def _settle(self, job_id: str, epoch: int, position: int | None, reason: Reason, detail: str) -> Signature[Any]:
        # One argument on purpose: Celery calls an errback that takes more than one inline, for a lost worker even in
        # the worker's main process; one of a single argument is sent as a message.
        return self._signature(SETTLE, "control", [job_id, epoch, position, str(reason), detail])

    def _signature(self, name: str, queue: str, *args: Any) -> Signature[Any]:
        return self._app.signature(name, args=args, immutable=True, queue=queue)


def _published(point: str, send: Any, **options: Any) -> bool:
    try:
        io_points.call(point, send, **options)
    except (OperationalError, ConnectionError, TimeoutError, AttributeError) as error:
        # AttributeError is kombu's, when another thread closes the broken connection that they share.
        logger.warning("%s was not sent (%s); the reconciler will find the row", point, error)
        return False
    return True


def register_tasks(app: Celery, runtime: Any) -> None:
    """Define the tasks on ``app``. ``runtime`` is called once in each process for its ``Runtime``.

    They are not shared: Celery would give them, and so this runtime, to every other app of the process.
    """

    def step_task(name: str) -> None:
        @app.task(name=name, shared=False, bind=True, max_retries=None, ignore_result=True)
        def run(self: Task[Any, Any], job_id: str, epoch: int, position: int) -> None:
            if runtime().draining():
                raise self.retry(countdown=0, max_retries=None)  # unclaimed as it is
            outcome = steps.run_step(runtime(), job_id, epoch, position)
            match outcome.result:
                case steps.Result.AGAIN:
                    whole = self.app.conf.get("clonejob_whole_countdowns")
                    countdown = math.ceil(outcome.pause_s) if whole else outcome.pause_s
                    raise self.retry(countdown=countdown, max_retries=None)
                case steps.Result.DROPPED:
                    # Not Reject: Celery 5.7 reports that as a failure (signal and errback), and settling it would take
                    # the lease from whoever works on the job under the same epoch.
                    raise Ignore("old, early or a duplicate")
                case steps.Result.FAILED:
                    raise StepFailedError(outcome.error)

    for task_name in sorted(CHAIN_TASKS):
        step_task(task_name)
    _register_ends(app, runtime)
    _register_rounds(app, runtime)


def _register_ends(app: Celery, runtime: Any) -> None:
    @app.task(name=CLEAN_UP, shared=False, bind=True, max_retries=None, ignore_result=True)
    def clean_up(self: Task[Any, Any], job_id: str, epoch: int) -> None:
        if runtime().draining():
            raise self.retry(countdown=0, max_retries=None)
        cleanup.run_cleanup(runtime(), job_id, epoch)

    @app.task(name=SETTLE, shared=False, ignore_result=True)
    def settle_job(report: tuple[str, int, int | None, str, str]) -> None:
        job_id, epoch, position, reason, detail = report
        settle(runtime(), job_id, epoch, Reason(reason), detail, position)


def _register_rounds(app: Celery, runtime: Any) -> None:
    @app.task(name=RECONCILE, shared=False, ignore_result=True)
    def reconcile_jobs(owner: str, hold_s: float) -> None:
        if not runtime().draining():  # the others ask as well
            reconcile.reconcile(runtime(), owner, hold_s)

    @app.task(name=AUDIT, shared=False, ignore_result=True)
    def audit_targets(owner: str, hold_s: float, delete: bool) -> None:
        if not runtime().draining():
            audit.audit_periodically(runtime(), owner, hold_s, delete=delete)


def failure_reason(error: BaseException) -> Reason:
    """What an exception that Celery reports for a task means for the job."""
    if isinstance(error, WorkerLostError):
        return Reason.WORKER_LOST
    if isinstance(error, TimeLimitExceeded):
        return Reason.TIME_LIMIT
    return Reason.TASK_FAILED


__all__ = [
    "CHAIN_TASKS",
    "CeleryPublisher",
    "NumberedCelery",
    "Runtime",
    "failure_reason",
    "kombu_queues",
    "register_tasks",
]
