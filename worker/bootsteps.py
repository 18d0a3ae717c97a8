"""The heart-beat of the reconciler and of the auditor, as a bootstep of every worker.

Each worker of the control queue asks every few seconds, by a message to the control queue, that the jobs be reconciled; a
lease row lets one worker's request through and turns the others away. The targets are audited in the same way, more
rarely. The bootstep itself runs in the worker's main process and touches neither database nor target. It uses the worker's own timer, which for the prefork pool runs in the thread that forks:
a thread of our own could hold a lock at the moment of a fork, and the child would wait for it for ever.
"""

from __future__ import annotations

import logging
import uuid
from typing import Any

from celery import bootsteps
from kombu.exceptions import OperationalError

from tasks.chain import AUDIT, RECONCILE

logger = logging.getLogger(__name__)


class ReconcilerStep(bootsteps.StartStopStep):
    """Sends ``clonejob.reconcile`` and ``clonejob.audit`` until the worker stops; what nobody took in time expires."""

    requires = ("celery.worker.components:Timer", "celery.worker.components:Pool")

    def __init__(self, worker: Any, **_: Any) -> None:
        self._entries: list[Any] = []
        self._owner = uuid.uuid4().hex[:12]

    def include_if(self, worker: Any) -> bool:
        """Only workers that take control messages ask for them: as many pools as there are, one kind asks."""
        return "control" in worker.app.amqp.queues.consume_from

    def start(self, worker: Any) -> None:
        """Begin to ask."""
        conf, owner = worker.app.conf, f"{worker.hostname}/{self._owner}"
        for task, interval_s, more in (
            (RECONCILE, conf.clonejob_reconcile_interval_s, ()),
            (AUDIT, conf.clonejob_audit_interval_s, (conf.clonejob_audit_delete,)),
        ):
            asked = (worker.app, task, owner, interval_s, more)
            self._entries.append(worker.timer.call_repeatedly(interval_s, self._ask, asked))

    def stop(self, worker: Any) -> None:
        """Ask no more."""
        while self._entries:
            self._entries.pop().cancel()

    def terminate(self, worker: Any) -> None:
        """Ask no more."""
        self.stop(worker)

    @staticmethod
    def _ask(app: Any, task: str, owner: str, interval_s: float, more: tuple[Any, ...]) -> None:
        try:
            app.send_task(task, args=(owner, 2.5 * interval_s, *more), queue="control", expires=interval_s, retry=False)
        except (OperationalError, ConnectionError, TimeoutError) as error:
            logger.warning("the broker does not answer (%s); %s waits for it", error, task)
