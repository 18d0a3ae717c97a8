"""The judge's findings and the figures of a run, as one JSON document; and the evidence of a run that went wrong."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from models.schema import CloneJob, JobEvent
from models.states import JobState, Verdict
from targets.local_files import read_json
from targets.simulated_log import Call
from guarantee.chaos.calm import percentiles
from guarantee.chaos.cluster import PACE, Cluster
from guarantee.chaos.faults import Orphaned
from guarantee.chaos.monkey import Monkey
from guarantee.chaos.producers import Book
from guarantee.judge import Violation, judge, read_jobs

_DROPPED = re.compile(r"Task clone\.[a-z_]+\[[^]]*\] ignored")


def report(cluster: Cluster, monkey: Monkey, book: Book, calm: dict[str, Any], calm_kills: int) -> dict[str, Any]:
    """Judge, and put the figures together. Everything stands still by now."""
    calls = cluster.target.calls()
    finding = judge(cluster.engine, cluster.target, final=True, accepted=dict(book.accepted), calls=calls)
    jobs = read_jobs(cluster.engine)
    violations = [*finding.violations, *_gone_too_late(cluster, jobs)]
    violations += [Violation("R7", "", broken) for broken in book.broken]
    names = {job.name for job in jobs}
    violations += [Violation("R7", name, "was refused, and exists") for name in sorted(book.refused & names)]
    orphaned = monkey.faults.orphaned
    taken_over = [job for job in jobs if job.id in monkey.faults.taken_over]
    lost = _events(cluster)
    cancels = calm.get("cancels", [])
    return {
        "jobs": {"total": len(jobs), **finding.jobs},
        "faults": {"total": sum(monkey.fired.values()), **dict(sorted(monkey.fired.items()))},
        "faults_without_a_victim": dict(sorted(monkey.missed.items())),
        "violations": [violation._asdict() for violation in violations],
        "stuck_jobs": sum(job.end_time is None for job in jobs),
        "late_calls_without_effect": len(finding.late_calls),
        "cancel_to_absence_healthy": percentiles(cancels) | _bar(cancels, 2.0, "p99_s"),
        "cancel_to_absence_after_kill": percentiles(calm.get("cancels_after_a_kill", [])),
        "cancel_to_absence_under_chaos": percentiles(_cancel_times(jobs)),
        "recovery_after_sigkill_calm": _recoveries(orphaned[:calm_kills], jobs, calls, with_bars=True),
        "recovery_after_sigkill_under_chaos": _recoveries(orphaned[calm_kills:], jobs, calls, with_bars=False),
        "target_outage": calm.get("outage"),
        "stale_writes_rejected": sum(job.stale_writes for job in jobs),
        "frozen_with_a_lease": {
            "leases": monkey.faults.frozen,
            "jobs_taken_over_before_the_thaw": len(taken_over),
            "stale_writes_rejected_of_these": sum(job.stale_writes for job in taken_over),
        },
        "deliveries_dropped": sum(len(_DROPPED.findall(log.read_text(errors="replace"))) for log in cluster.logs()),
        "leases_lost": sum(lost["lease_lost"].values()),
        "leases_forfeited": sum(lost["lease_forfeited"].values()),
        "attempts_failed": sum(lost["attempt_failed"].values()),
        "restarts": {name: child.restarts for name, child in cluster.supervisor.children.items()},
        "target_calls": sum(call.phase == "start" for call in calls),
        "cancels": dict(sorted(book.cancels.items())),
        "answers": dict(sorted(book.answers.items())),
        "harness_errors": monkey.errors,
    }  # fmt: skip


def _gone_too_late(cluster: Cluster, jobs: list[CloneJob]) -> list[Violation]:
    """R1 to the letter: a delete that takes time is through before the end is published, not only begun."""
    ends = {job.id: job for job in jobs if job.state in (JobState.FAILED, JobState.CANCELLED)}
    found = []
    for path in sorted((cluster.target.root / "resources").glob("*/[!.]*.json")):
        entry = read_json(path) or {}
        job = ends.get(entry.get("labels", {}).get("clonejob-id", ""))
        if job is None or job.end_time is None or entry["deleting_until"] is None:
            continue
        if entry["deleting_until"] > job.end_time.timestamp():
            found.append(
                Violation("R1", job.name, f"{path.stem} was still being deleted when {job.state} was published")
            )
    return found


def _events(cluster: Cluster) -> dict[str, Counter[str]]:
    kinds: dict[str, Counter[str]] = {kind: Counter() for kind in ("lease_lost", "lease_forfeited", "attempt_failed")}
    with Session(cluster.engine) as session:
        for job_id, kind in session.execute(sa.select(JobEvent.job_id, JobEvent.kind).where(JobEvent.kind.in_(kinds))):
            kinds[kind][job_id] += 1
    return kinds


def _cancel_times(jobs: list[CloneJob]) -> list[float]:
    """From the verdict, for want of the request's own time."""
    return [
        (job.end_time - job.verdict_time).total_seconds()
        for job in jobs
        if job.verdict is Verdict.CANCEL and job.end_time and job.verdict_time and "/calm-" not in job.name
    ]


def _recoveries(
    orphaned: list[Orphaned], jobs: list[CloneJob], calls: list[Call], *, with_bars: bool
) -> dict[str, Any]:
    """From a SIGKILL to the first call that another process makes for the job, by the target's own log.

    Clean-up of a lost worker's job waits for the lease and for as long as one call of it may still land (R1).
    """
    by_id = {job.id: job for job in jobs}
    times: dict[str, list[float]] = {"of_steps": [], "of_clean_ups": []}
    for orphan in orphaned:
        job = by_id[orphan.job_id]
        places = {(row.kind, row.name) for row in job.ledger}
        again = (
            call.time for call in calls
            if call.phase == "start" and call.time > orphan.time and call.pid not in orphan.pids
            and (call.job_id == job.id or (call.kind, call.name) in places)
        )  # fmt: skip
        at = next(again, job.end_time.timestamp() if job.end_time else None)
        if at is None:
            continue
        cleaned = (
            job.verdict in (Verdict.FAIL, Verdict.CANCEL) and job.verdict_time and job.verdict_time.timestamp() < at
        )
        times["of_clean_ups" if cleaned else "of_steps"].append(at - orphan.time)
    bars = {"of_steps": PACE["lease_s"] + 5.0, "of_clean_ups": PACE["lease_s"] + PACE["provider_call_limit_s"] + 5.0}
    return {
        what: percentiles(found) | (_bar(found, bars[what], "max_s") if with_bars else {})
        for what, found in times.items()
    }


def _bar(samples: list[float], bar_s: float, which: str) -> dict[str, Any]:
    value = percentiles(samples)[which]
    return {"bar_s": bar_s, "met": None if value is None else value <= bar_s}


def keep_evidence(cluster: Cluster, folder: Path, document: dict[str, Any]) -> None:
    """Logs, the target's call log, jobs, ledgers and events, for whoever has to explain a violation."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(document, indent=2))
    shutil.copytree(cluster.folder / "logs", folder / "logs", dirs_exist_ok=True)
    shutil.copy(cluster.folder / "calls.jsonl", folder)
    with cluster.engine.connect() as connection:
        for table in ("clone_jobs", "clone_steps", "ledger", "job_events", "operations"):
            with (folder / f"{table}.jsonl").open("w") as file:
                for row in connection.execute(sa.text(f"SELECT * FROM {table}")).mappings():
                    file.write(json.dumps(dict(row), default=str) + "\n")
