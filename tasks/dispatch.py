"""Hints that there may be work: sent after the commit, lost without harm."""

from __future__ import annotations

from models.schema import CloneJob
from models.states import Verdict
from tasks.runtime import Runtime


def dispatch_steps(runtime: Runtime, job: CloneJob) -> None:
    """Send the chain of the job's remaining steps under its present epoch."""
    kinds = tuple(str(step.kind) for step in job.steps)
    runtime.publisher.steps(job.id, job.epoch, job.current_step, kinds)


def dispatch_cleanup(runtime: Runtime, job_id: str) -> None:
    """Send the clean-up if the job waits for one and nobody may still work on it; the row decides."""
    job = runtime.store.get_job(job_id)
    if job is None or job.end_time is not None or job.verdict not in (Verdict.FAIL, Verdict.CANCEL):
        return
    if job.lease_owner is None and (job.fence_until is None or job.fence_until <= runtime.clock()):
        runtime.publisher.cleanup(job.id, job.epoch)
