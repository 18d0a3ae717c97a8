"""Watching a clone boot: the verdict, and evidence of it, before success is committed.

By default the finding stands beside success: the clone exists as asked, whether it boots or not. With ``require_boot``
it is a gate. After success nothing is read any more, and nothing was ever changed on the way: a guest that boots late is
not touched.
"""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from models.schema import CloneJob, LedgerRow
from targets.base import BootReport, BootVerdict
from targets.errors import PermanentError, TargetError, TransientError
from tasks.boot_pattern import PatternError, is_seen
from tasks.disks_plan import details_of
from tasks.evidence import SCREEN_LIMIT_BYTES, EvidenceTakenError
from tasks.runtime import BootPolicy
from tasks.work import NotYetError, Work

REQUIRE_BOOT_KEY = "clonejob-require-boot"  # in the metadata of a VM's target defaults, or of a job's target details
_FALSE = ("false", "no", "n", "0", "")  # as Compute Engine reads boolean metadata
_SHOWN_CHARACTERS = 4096  # of the console, in the row; the evidence has all of it
_PNG = b"\x89PNG\r\n\x1a\n"

Json = dict[str, Any]


class NotBootedError(PermanentError):
    """The clone had to boot and did not. ``action`` says what to do."""

    def __init__(self, instance: str, found: Found, policy: BootPolicy) -> None:
        why = found.report.detail.rstrip(".")
        seen = f"boot verdict {found.verdict}" + (f", {why}" if why else "")
        super().__init__(f"{instance} was to boot (require_boot) and did not: {seen}")
        pattern = (
            f"its target's boot_pattern is {policy.pattern!r}, which the console of a booted guest must match"
            if policy.pattern is not None
            else "one that has booted and shows no login prompt needs a boot_pattern of its target that its console matches"
        )
        self.action = (
            "Look at its console and screen with clonejob show JOB --evidence, mend the source VM or its adaptation, and "
            f"clone it again. A guest that needs longer than {policy.timeout_s:g} s needs a longer boot_timeout_s; {pattern}. "
            "To clone it "
            f"whether it boots or not, set require_boot of its target to false, or {REQUIRE_BOOT_KEY}=false in its metadata."
        )


@dataclass(frozen=True, slots=True)
class Found:
    """What was seen until now. Seconds run from the instance's start and are the least that was seen."""

    verdict: BootVerdict
    report: BootReport
    seconds: float | None = None
    first_output_seconds: float | None = None


def policy_of(policy: BootPolicy, job: CloneJob) -> BootPolicy:
    """The target's policy as this job has it: metadata of the VM may switch the gate on or off."""
    said = (details_of(job).get("metadata") or {}).get(REQUIRE_BOOT_KEY)
    if said is None:
        return policy
    # Whatever is no clear no is a yes: a word that is misspelt must not open the gate.
    return dataclasses.replace(policy, required=str(said).strip().lower() not in _FALSE)


def watch_boot(work: Work, row: LedgerRow, uid: str) -> None:
    """Wait until the guest has shown that it booted, gave up, or has had its time; then keep the evidence.

    Raises: NotYetError; NotBootedError if the job's policy requires a boot; StaleWrite; TargetError of the target.
    """
    policy = policy_of(work.runtime.boot_policy(work.job.target), work.job)
    started = row.created_time if row.uid == uid and row.created_time is not None else work.runtime.clock()
    earlier = work.job.steps[work.position].progress.get("boot") or {}
    earlier = earlier if earlier.get("uid") == uid else {}
    give_up_at = work.runtime.monotonic() + work.runtime.pacing.inline_wait_s
    last = None
    while True:
        work.held.check()
        report = work.calls.boot_report(row)
        waited_s = max(0.0, (work.runtime.clock() - started).total_seconds())
        if last is None or report != last.report:
            last = _judged(report, policy.pattern, waited_s, last, earlier)
        if last.verdict is not BootVerdict.WAITING or waited_s > policy.timeout_s or _is_over(work):
            break
        if work.runtime.monotonic() >= give_up_at:
            work.runtime.store.note_progress(work.held.lease, work.position, percent=50, boot=_shown(last, uid),
                                             detail=f"waiting for {row.name} to boot")  # fmt: skip
            raise NotYetError(f"waiting for {row.name} to boot")
        work.held.wait(min(0.05, work.runtime.pacing.poll_s))
    if last.verdict is BootVerdict.WAITING:
        detail = last.report.detail or f"nothing conclusive was seen within {min(waited_s, policy.timeout_s):.3g} s"
        last = dataclasses.replace(
            last, verdict=BootVerdict.UNKNOWN, report=dataclasses.replace(last.report, detail=detail)
        )
    boot = _shown(last, uid) | {"required": policy.required} | _keep(work, row, uid, last, policy)
    work.runtime.store.note_progress(work.held.lease, work.position, percent=100, detail=f"boot: {last.verdict}",
                                     boot=boot)  # fmt: skip
    if policy.required and last.verdict is not BootVerdict.BOOTED:
        raise NotBootedError(row.name, last, policy)


def _is_over(work: Work) -> bool:
    """Whether the step's own time ends at the next look: it must not fail because a boot is being watched."""
    started = work.job.steps[work.position].start_time
    had_s = 0.0 if started is None else (work.runtime.clock() - started).total_seconds()
    return had_s + work.runtime.pacing.poll_s > work.runtime.pacing.step_timeout_s


def _judged(
    report: BootReport, pattern: str | None, waited_s: float, last: Found | None, earlier: Mapping[str, Any]
) -> Found:
    """What a report means: with a pattern, only a console that shows it counts as booted."""
    verdict, seconds = report.verdict, report.boot_seconds
    if pattern is not None and verdict in (BootVerdict.WAITING, BootVerdict.BOOTED):
        seconds = report.last_output_seconds
        try:
            verdict = BootVerdict.BOOTED if is_seen(pattern, report.console) else BootVerdict.WAITING
        except PatternError as error:  # it would be the same at the next look
            verdict, report = BootVerdict.UNKNOWN, dataclasses.replace(report, detail=str(error))
    first = report.first_output_seconds
    if first is None and report.console.strip():
        first = waited_s
    seconds = (waited_s if seconds is None else seconds) if verdict is BootVerdict.BOOTED else None
    was_booted = earlier.get("verdict") == BootVerdict.BOOTED and verdict is BootVerdict.BOOTED
    return Found(
        verdict,
        report,
        _least(seconds, earlier.get("seconds") if was_booted else None),
        _least(first, earlier.get("firstOutputSeconds"), None if last is None else last.first_output_seconds),
    )


def _least(*seconds: float | None) -> float | None:
    return min((each for each in seconds if each is not None), default=None)


def _storable(text: str) -> str:
    """PostgreSQL's JSON takes no NUL and no half of a surrogate pair, and a guest may print anything."""
    return text.encode(errors="replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


def _shown(found: Found, uid: str) -> Json:
    """What stands in the row."""
    return {
        "verdict": str(found.verdict),
        "seconds": found.seconds,
        "firstOutputSeconds": found.first_output_seconds,
        "console": _storable(found.report.console[-_SHOWN_CHARACTERS:]),
        "detail": _storable(found.report.detail),
        "uid": uid,
    }


def _keep(work: Work, row: LedgerRow, uid: str, found: Found, policy: BootPolicy) -> Json:
    """Write the evidence; what became of it, for the row. Nothing that goes wrong here fails the job."""
    screen, why_not = _screen(work, row)
    missing = {} if screen is not None else {"screen.png": why_not}
    now = work.runtime.clock().isoformat().replace("+00:00", "Z")
    summary = _shown(found, uid) | {
        "job": work.job.name,
        "jobId": work.job.id,
        "instance": row.name,
        "target": work.job.target,
        "replicationCycle": work.job.cycle,
        "time": now,
        "required": policy.required,
        "pattern": policy.pattern,
        "missing": missing,
    }
    del summary["console"]  # stands beside it, whole
    work.held.check()
    try:
        files = work.runtime.evidence.keep(
            work.job.id, work.held.lease.epoch, console=found.report.console, screen=screen, summary=summary
        )
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        why = "the disk of the data folder is full" if full else f"it could not be written: {error.strerror or error}"
        files, missing = {}, dict.fromkeys(("console.txt", "screen.png", "evidence.json"), why)
    except (TransientError, EvidenceTakenError):
        why = "another worker was writing it"
        files, missing = {}, dict.fromkeys(("console.txt", "screen.png", "evidence.json"), why)
    return {"time": now, "files": files, "missing": missing}


def _screen(work: Work, row: LedgerRow) -> tuple[bytes | None, str]:
    """The screen, or why there is none."""
    work.held.check()
    try:
        screen = work.calls.screenshot(row)
    except TargetError as error:
        return None, _storable(str(error))
    if screen is None:
        return None, "the target has no screen of this instance"
    if not screen.startswith(_PNG):
        return None, "what the target gave is no PNG"
    if len(screen) > SCREEN_LIMIT_BYTES:
        return None, f"it has {len(screen)} bytes, more than {SCREEN_LIMIT_BYTES}"
    return screen, ""
