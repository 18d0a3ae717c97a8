"""How a job ended, in a few words: the instance, what its guest showed, and what to do about what went wrong."""

from __future__ import annotations

from collections import Counter
from typing import Any

import click

from worker.cli.context import short_name
from worker.cli.output import TERMINAL, duration, plain

Json = dict[str, Any]
_NOT_SEEN = {
    "NO_BOOT": "the clone exists, but its guest did not boot",
    "UNKNOWN": "the clone exists, but whether its guest booted is unknown: nothing was seen within boot_timeout_s",
}


def boot_of(progress: Json) -> Json:
    """What the guest showed when the job watched it; empty before."""
    found = [(step.get("progress") or {}).get("boot") for step in progress.get("steps", [])]
    return next((boot for boot in reversed(found) if boot), {})


def boot_line(boot: Json) -> str:
    """The verdict, the seconds, the console's last line."""
    verdict, seconds = str(boot.get("verdict", "-")), boot.get("seconds")
    said = [line for line in plain(str(boot.get("console") or "")).splitlines() if line.strip()]
    after = f" after {seconds:.1f} s" if seconds is not None else ""
    why = boot.get("detail") or ("nothing seen within boot_timeout_s" if verdict == "UNKNOWN" else "")
    return f"{verdict}{after}" + (f" ({why})" if why else "") + (f": {said[-1].strip()}" if said else "")


def adaptation_of(progress: Json) -> Json:
    """The report of what was done to the guest; empty without one."""
    found = [(step.get("progress") or {}).get("adaptation") for step in progress.get("steps", [])]
    return next((report for report in found if report), {})


def adaptation_line(report: Json) -> str:
    """``9 applied, 2 skipped, 1 unsupported (Debian GNU/Linux 12 (bookworm))``."""
    if not report.get("actions"):
        return f"nothing was done (policy {plain(str(report.get('policy', '-'))).strip()})"
    counts = Counter(str(action.get("outcome", "-")) for action in report["actions"])
    system = plain(str(report.get("os") or report.get("found") or "unknown system")).strip()
    said = ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common()) + f" ({system})"
    return f"{said}, result of {plain(str(report.get('made_at'))).strip()} reused" if report.get("reused") else said


def end_line(job: Json, progress: Json) -> str:
    """``web-1/clone-1 SUCCEEDED in 4.2 s: instance web-1-abc (local), boot BOOTED``."""
    lasted = f" in {duration(job.get('createTime'), job['endTime'])}" if job.get("endTime") else ""
    return f"{short_name(job['name'])} {job['state']}{lasted}" + (f": {what}" if (what := _what(job, progress)) else "")


def say_warnings(job: Json, progress: Json) -> None:
    """On stderr: a guest that was not seen to boot, a VM whose operating system could not be adapted."""
    name = short_name(job["name"])
    verdict = boot_of(progress).get("verdict")
    if job.get("state") == "SUCCEEDED" and verdict in _NOT_SEEN:
        click.echo(
            f"warning: {name}: boot {verdict}: {_NOT_SEEN[verdict]}; see `clonejob show {name} --evidence`", err=True
        )
    if hint := adaptation_hint(job, progress):
        click.echo(f"hint: {hint}", err=True)


def adaptation_hint(job: Json, progress: Json) -> str:
    """The command that has the VM cloned as it is, if its adaptation is what failed."""
    details = [d for d in (job.get("error") or {}).get("details", []) if isinstance(d, dict)]
    codes = {(progress.get("error") or {}).get("code"), *(d.get("code") for d in details)}
    if "OS_ADAPTATION_ERROR" not in codes:
        return ""
    return f"clonejob vm update {short_name(job['name'].partition('/cloneJobs/')[0])} --skip-os-adaptation"


def _what(job: Json, progress: Json) -> str:
    if job["state"] in TERMINAL and job["state"] != "SUCCEEDED":
        return str((job.get("error") or {}).get("message", ""))
    made = what_was_made(job)
    boot = boot_of(progress).get("verdict")
    where = f" ({progress['target']})" if progress.get("target") else ""
    return ", ".join(part for part in (made and f"{made}{where}", boot and f"boot {boot}") if part)


def what_was_made(job: Json) -> str:
    """``instance web-1``, or ``disks data, logs`` of a job whose target is disks alone; "" if that is not known yet."""
    disks = job.get("computeEngineDisksTargetDetails")
    instance = job.get("computeEngineTargetDetails", {}).get("vmName")
    if disks is not None:
        instance = disks.get("vmTargetDetails", {}).get("vmUri", "").rpartition("/")[2]
    if instance:
        return f"instance {instance}"
    names = [disk.get("diskUri", "").rpartition("/")[2] for disk in (disks or {}).get("disks", [])]
    return f"disk{'s' if len(names) > 1 else ''} {', '.join(names)}" if names else ""
