"""Finds what no message and no signal reported, and sends it through the normal door. It never runs work itself.

Each job's row carries its own alarm (``wake_at``), so that one indexed query finds: created but never dispatched, lease
run out, a wait that nobody came back from, a verdict not acted on, clean-up stalled.
"""

from __future__ import annotations

import logging

from models.schema import CloneJob
from tasks.dispatch import dispatch_steps
from tasks.runtime import Runtime
from tasks.settle import recover

logger = logging.getLogger(__name__)


def reconcile(runtime: Runtime, owner: str, hold_s: float) -> int | None:
    """One round; how many jobs were looked at, or None while another worker's reconciler is the active one."""
    if not runtime.store.hold_reconciler(owner, hold_s):
        return None
    _expire(runtime)
    due = runtime.store.due_jobs()
    for job in due:
        try:
            _look_at(runtime, job)
        except Exception:
            logger.exception("reconciling job %s failed; it stays due", job.id)
    return len(due)


def _expire(runtime: Runtime) -> None:
    """MigratingVms whose life is over change their state by themselves; nothing else depends on the hour."""
    try:
        runtime.catalog.expire_vms()
    except Exception:
        logger.exception("MigratingVms whose time is over could not be marked; they are looked at again")


def _look_at(runtime: Runtime, job: CloneJob) -> None:
    if job.verdict is None and job.lease_owner is not None:
        recover(runtime, job)
    elif not runtime.store.dispatch_again(job):
        return
    elif job.verdict is None:
        dispatch_steps(runtime, job)
    else:
        # Whether a lease still stands against it is decided by claiming the clean-up.
        runtime.publisher.cleanup(job.id, job.epoch)
