"""What an operator wants to know about a job: its events, its ledger, where it stands, why, and what a new one would do."""

from __future__ import annotations

import datetime as dt
from typing import Any

from api.names import CLONE_JOB, MIGRATING_VM, check_name
from api.translate import rfc3339
from models import schema
from tasks.services import Services
from tasks.services.explain import Explanation
from tasks.services.plans import Plan

Json = dict[str, Any]


def events(services: Services, name: str, _body: Json) -> Json:
    """What happened to a job, oldest first."""
    rows = services.clone_jobs.events(check_name("name", name, CLONE_JOB))
    return {"events": [event_json(row) for row in rows]}


def ledger(services: Services, name: str, _body: Json) -> Json:
    """What a job may have created, and what became of it."""
    return {"ledger": [_ledger_row(row) for row in _job(services, name).ledger]}


def progress(services: Services, name: str, _body: Json) -> Json:
    """Where a job stands: its whole plan, also the steps that have not started, and why it waits."""
    return progress_json(_job(services, name))


def explain(services: Services, name: str, _body: Json) -> Json:
    """Why a job waits or failed, what was cleaned, what was kept, and what to do next."""
    return _explanation(services.explain.explain(check_name("name", name, CLONE_JOB)))


def plan(services: Services, name: str, _body: Json) -> Json:
    """What CreateCloneJob would do for a VM now, and all that stands against it. Changes nothing."""
    return _plan(services.plans.plan(check_name("name", name, MIGRATING_VM)))


def progress_json(job: schema.CloneJob) -> Json:
    """A job with its steps."""
    return {
        "name": job.name,
        "state": str(job.state),
        "verdict": str(job.verdict) if job.verdict else None,
        "error": job.error,
        "cleanupDetail": job.cleanup_detail,
        "staleWrites": job.stale_writes,
        "replicationCycle": job.cycle,
        "target": job.target,
        "createTime": rfc3339(job.create_time),
        "stateTime": rfc3339(job.state_time),
        "endTime": rfc3339(job.end_time),
        "steps": [_step(step) for step in job.steps],
    }


def event_json(row: schema.JobEvent) -> Json:
    """One thing that happened."""
    times = {"id": str(row.id), "time": rfc3339(row.time)}
    return {**times, "epoch": row.epoch, "kind": row.kind, "message": row.message}


def _job(services: Services, name: str) -> schema.CloneJob:
    return services.clone_jobs.get(check_name("name", name, CLONE_JOB))


def _ledger_row(row: schema.LedgerRow) -> Json:
    return {
        "position": row.position,
        "step": str(row.step),
        "kind": row.kind,
        "name": row.name,
        "role": str(row.role),
        "state": str(row.state),
        "uid": row.uid,
        "detail": row.detail,
        "intendedTime": rfc3339(row.intended_time),
        "createdTime": rfc3339(row.created_time),
        "deletingTime": rfc3339(row.deleting_time),
        "absentTime": rfc3339(row.absent_time),
    }


def _step(row: schema.CloneStep) -> Json:
    times = {"startTime": rfc3339(row.start_time), "endTime": rfc3339(row.end_time)}
    return {"kind": str(row.kind), **times, "progress": row.progress}


def _explanation(found: Explanation) -> Json:
    waits, failure = found.waits, found.failure
    return {
        "name": found.name,
        "state": str(found.state),
        "cloneMode": found.clone_mode or None,
        "summary": found.summary,
        "waitsFor": None if waits is None else camel(waits),
        "failure": None if failure is None else camel(failure),
        "cleaned": [camel(each) for each in found.cleaned],
        "left": [camel(each) for each in found.left],
        "kept": [camel(each) for each in found.kept],
        "next": list(found.next_steps),
    }


def _plan(found: Plan) -> Json:
    cycle = found.cycle
    return {
        "migratingVm": found.vm,
        "ready": not found.blockers,
        "target": found.target,
        "cloneMode": found.clone_mode or None,
        "replicationCycle": None if cycle is None else {
            "name": cycle.name,
            "cycleNumber": cycle.cycle_number,
            "endTime": rfc3339(cycle.end_time),
            "snapshots": [
                {"diskNumber": each.disk_number, "format": each.format, "sha256": each.sha256,
                 "virtualSizeBytes": str(each.virtual_size_bytes), "storedSizeBytes": str(each.stored_size_bytes)}
                for each in cycle.snapshots
            ],
        },
        "steps": [camel(each) for each in found.steps],
        "resources": [camel(each) for each in found.resources],
        "blockers": [camel(each) for each in found.blockers],
    }  # fmt: skip


def camel(value: Any) -> Json:
    """A flat dataclass as JSON, its times as the contract writes them."""
    out: Json = {}
    for name in value.__slots__:
        head, *rest = name.split("_")
        item = getattr(value, name)
        out[head + "".join(part.title() for part in rest)] = rfc3339(item) if isinstance(item, dt.datetime) else item
    return out
