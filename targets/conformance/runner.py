"""Runs the checks against one target, and removes all that they made, whatever happens."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from targets.base import Observed, ResourceRef, Status, Target
from targets.conformance import (
    burying,
    creating,
    deleting,
    labelling,
    losing,
    naming,
    owning,
    planning,
    running,
    waiting,
)
from targets.conformance.bench import Bench, shown
from targets.conformance.check import Check, CheckFailedError, NotApplicableError, Outcome
from targets.conformance.stage import Stage, TombstoneKeeper
from targets.errors import PermanentError, TargetError, TransientError
from targets.local_files import KIT_PREFIX

_MODULES = (creating, planning, losing, waiting, owning, labelling, naming, deleting, burying, running)
CHECKS: tuple[Check, ...] = tuple(
    each for module in _MODULES for each in vars(module).values() if isinstance(each, Check)
)


@dataclass(frozen=True, slots=True)
class Result:
    """What one check ended with. ``left``: what it made and the kit could not remove, each with the reason."""

    check: Check
    outcome: Outcome
    detail: str
    seconds: float
    left: tuple[str, ...] = ()


def new_run() -> str:
    """Prefix of all job ids and names of one run."""
    return f"{KIT_PREFIX}{uuid.uuid4().hex[:8]}"


def run(
    stage: Stage, checks: Sequence[Check] = CHECKS, *, on_left: Callable[[str], None] | None = None
) -> Iterator[Result]:
    """Run the checks one after the other. What each made is removed before the next begins.

    Also after Ctrl-C or the end of the iteration; ``on_left`` then hears of what could not be removed.
    """
    prefix = new_run()
    for each in checks:
        yield run_check(stage, each, prefix=f"{prefix}-{CHECKS.index(each) if each in CHECKS else 0}", on_left=on_left)


def run_check(
    stage: Stage, check: Check, *, prefix: str | None = None, on_left: Callable[[str], None] | None = None
) -> Result:
    """Run one check and remove what it made. A target's own failure to keep the rule is a result, not an error."""
    start = time.monotonic()
    bench = Bench(stage, prefix or new_run())
    try:
        outcome, detail = _run(check, bench)
    finally:
        left = remove_all(bench, on_left or (lambda _: None))
    return Result(check, outcome, detail, time.monotonic() - start, tuple(left))


def _run(check: Check, bench: Bench) -> tuple[Outcome, str]:
    try:
        check.function(bench)
    except CheckFailedError as error:
        return Outcome.FAILED, str(error)
    except NotApplicableError as error:
        return Outcome.NOT_APPLICABLE, str(error)
    except TargetError as error:
        return Outcome.FAILED, f"unexpected {type(error).__name__}: {error}"
    except Exception as error:  # noqa: BLE001 - the target's own code
        return Outcome.FAILED, f"{type(error).__name__} came out of the target, where only a TargetError may: {error}"
    return Outcome.PASSED, ""


def remove_all(bench: Bench, on_left: Callable[[str], None]) -> list[str]:
    """Delete what this check made, and nothing else; answers with what is left and why."""
    left: list[str] = []
    waiting = bench.notes.in_removal_order()
    jobs = {job_id for _, job_id in waiting}
    target = bench.stage.connect()
    try:
        while waiting:
            left += _remove(bench, target, *waiting[0])
            del waiting[0]
        for seen in _of_jobs(target, jobs) if jobs else ():
            if not any(each.startswith(f"{seen.ref} ") for each in left):
                left += _remove(bench, target, seen.ref, str(seen.job_id))
        if isinstance(target, TombstoneKeeper):
            for job_id in bench.notes.buried:
                target.remove_tombstone(job_id)
    except KeyboardInterrupt:
        left += [f"{ref} of job {job_id}, if it exists: its removal was interrupted" for ref, job_id in waiting]
        raise
    except Exception as error:  # noqa: BLE001 - the target's own code
        left.append(f"perhaps more of the jobs {bench.prefix}-…: the last look failed ({error})")
    finally:
        for each in left:
            on_left(each)
    return left


def _of_jobs(target: Target, jobs: set[str]) -> list[Observed]:
    return [seen for seen in target.inventory() if seen.job_id in jobs]


def _remove(bench: Bench, target: Target, ref: ResourceRef, job_id: str) -> list[str]:
    """Delete one name until it is gone, if it is of this job; what is left of it, with the reason."""
    deadline = time.monotonic() + bench.stage.patience_s
    why = ""
    while True:
        try:
            seen = target.find(ref, job_id)
            if seen is None or seen.job_id != job_id:
                return []  # gone, or not made by the kit
            why = f"it is {shown(seen)}"
            if seen.status is not Status.DELETING:
                target.delete(ref, job_id=job_id, uid=seen.uid)
                if target.find(ref, job_id) is None:
                    return []
        except TransientError as error:
            why = str(error)
        except PermanentError as error:
            return [] if not why else [f"{ref} of job {job_id}: {error}"]  # a name that no find accepts was never made
        except Exception as error:  # noqa: BLE001 - the target's own code; the other names must still be removed
            return [f"{ref} of job {job_id}: {type(error).__name__}: {error}"]
        if time.monotonic() > deadline:
            return [f"{ref} of job {job_id}: {why}"]
        time.sleep(bench.stage.poll_s)
