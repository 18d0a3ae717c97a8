"""The Celery app: ``celery -A worker.app worker``."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import signal
from typing import Any

from celery import Celery
from celery.signals import task_failure, task_revoked, worker_init, worker_process_init

from tasks.chain import (
    CHAIN_TASKS,
    CLEAN_UP,
    RECONCILE,
    CeleryPublisher,
    NumberedCelery,
    StepFailedError,
    failure_reason,
    kombu_queues,
    register_tasks,
)
from tasks.runtime import Runtime
from tasks.settle import Reason
from worker import drain
from worker.bootsteps import ReconcilerStep
from worker.broker_options import broker_options, is_rabbitmq
from worker.composition import build_runtime
from worker.service_file import read_service
from worker.settings import Settings, load_settings
from worker.supervisor import die_with_parent


def broker_url(settings: Settings) -> str:
    """The configured broker, or that of the ``clonejob up`` which runs in the data folder; "" if there is neither."""
    service = None if settings.broker_url else read_service(settings.data_dir)
    return settings.broker_url or (service or {}).get("broker_url", "")


def make_app(settings: Settings) -> Celery:
    """A configured app with all tasks. Early acknowledgement on purpose: see ``docs/decisions.md``."""
    app = NumberedCelery("clonejob", set_as_current=True)
    url = broker_url(settings)
    app.conf.update(
        # No URL means an address where nothing can listen: a clear refusal, never a broker that was not asked for.
        broker_url=url or "redis://127.0.0.1:1/0",
        broker_connection_retry_on_startup=True,
        **broker_options(url),
        task_publish_retry=True,
        task_publish_retry_policy={"max_retries": 1, "interval_start": 0.1, "interval_max": 0.1},
        task_queues=kombu_queues(quorum=is_rabbitmq(url)),
        task_default_queue="control",
        task_create_missing_queues=False,
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_acks_late=False,
        task_serializer="json",
        accept_content=["json"],
        result_backend=None,
        worker_prefetch_multiplier=1,
        worker_send_task_events=settings.task_events,
        task_send_sent_event=False,
        worker_soft_shutdown_timeout=5.0,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_hijack_root_logger=True,
        task_time_limit=settings.step_timeout_s + settings.provider_call_limit_s,
        enable_utc=True,
        clonejob_reconcile_interval_s=settings.reconcile_interval_s,
        clonejob_audit_interval_s=settings.audit_interval_s,
        clonejob_audit_delete=settings.audit_delete,
    )  # fmt: skip
    app.steps["worker"].add(ReconcilerStep)

    @functools.cache
    def runtime_of(_pid: int) -> Runtime:
        """One runtime per process: connections are never shared across a fork."""
        return dataclasses.replace(build_runtime(settings, CeleryPublisher(app)), draining=drain.is_draining)

    register_tasks(app, lambda: runtime_of(os.getpid()))
    return app


def _report(task: Any, args: Any, reason: Reason, detail: str) -> None:
    """Send ``settle``. Runs in the worker's main process for lost and revoked tasks: a message is all it may do."""
    if task.name in CHAIN_TASKS:
        job_id, epoch, position = args
    elif task.name == CLEAN_UP:
        job_id, epoch, position = args[0], args[1] + 1, None  # claiming the clean-up raised the epoch
        if reason is Reason.REVOKED:
            return  # nobody can revoke a clean-up; the reconciler sends it again
    else:
        return
    CeleryPublisher(app).settle(job_id, epoch, position, reason, detail)


@task_failure.connect(weak=False)
def _on_failure(sender: Any = None, args: Any = (), exception: BaseException | None = None, **_: Any) -> None:
    if exception is not None and not isinstance(exception, StepFailedError):
        _report(sender, args, failure_reason(exception), f"{type(exception).__name__}: {exception}")


@task_revoked.connect(weak=False)
def _on_revoked(
    sender: Any = None, request: Any = None, terminated: bool = False, expired: bool = False, **_: Any
) -> None:
    if not expired:
        _report(
            sender, request.args, Reason.REVOKED, "terminated while it ran" if terminated else "while it was queued"
        )


@worker_init.connect(weak=False)
def _on_start(**_: Any) -> None:
    """Build the runtime once before any work: a target that cannot be built stops the worker now, with a reason in its
    log, and pool children inherit the imports. No connection is made."""
    settings = load_settings()
    build_runtime(settings, CeleryPublisher(app))
    drain.drain_on_shutdown(settings.provider_call_limit_s)


@worker_process_init.connect(weak=False)
def _on_child(**_: Any) -> None:
    """A pool child that outlived its worker would work on with nobody above it, and never end."""
    die_with_parent(os.getppid(), signal.SIGKILL)


class _QuietReconciler(logging.Filter):
    """Two lines every few seconds about nothing would drown the log."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno > logging.INFO or getattr(record, "data", {}).get("name") != RECONCILE


for _chatty in ("celery.worker.strategy", "celery.app.trace"):
    logging.getLogger(_chatty).addFilter(_QuietReconciler())

app = make_app(load_settings())
