"""Checks: instances that stop are started again, and what a guest shows can be looked at."""

from __future__ import annotations

from targets.base import BootReport, BootVerdict, Observed, ResourceKind, ResourceRef, Status
from targets.conformance.bench import Bench, need, shown
from targets.conformance.check import NotApplicableError, check, expect
from targets.errors import TargetError

_PNG = b"\x89PNG\r\n\x1a\n"


@check
def a_stopped_instance_is_shown(bench: Bench) -> None:
    """An instance that a user or a crash has stopped exists: it is found as STOPPED, with its uid.

    Source: Status.
    """
    made = _stopped(bench)
    seen = bench.must_find(made.ref)
    expect(seen.uid == made.uid, f"{made.ref} had uid {made.uid} and has {seen.uid}")
    expect(bench.is_listed(made.ref, str(made.job_id)), f"{made.ref} is stopped and not in the inventory")


@check
def a_stopped_instance_is_started_again(bench: Bench) -> None:
    """A create of an instance that is stopped starts the same one again.

    Source: R3, Target.create.
    """
    need(bench.hands.power_off, "power_off")
    job, name = bench.job(), bench.name()
    spec = bench.instance(job, name, bench.part_of(job))
    made = bench.make(spec)
    _stop(bench, made)
    again = bench.make(spec, by=bench.connect())
    expect(again.uid == made.uid, f"{spec.ref} had uid {made.uid}; the create after the stop made {again.uid}")
    seen = bench.must_find(spec.ref)
    expect(seen.status is Status.READY, f"{spec.ref} was started again: {shown(seen)}")


@check
def a_stopped_instance_can_be_deleted(bench: Bench) -> None:
    """A stopped instance is deleted like a running one.

    Source: R1, Target.delete.
    """
    made = _stopped(bench)
    bench.delete_until_gone(made.ref, str(made.job_id))


@check
def the_boot_report_is_one_at_any_time(bench: Bench) -> None:
    """boot_report() answers with a verdict and a console text, or a TargetError, also where nothing runs yet.

    Source: Target.boot_report.
    """
    nothing = ResourceRef(ResourceKind.INSTANCE, bench.name())
    try:
        report = bench.once().boot_report(nothing)
        _expect_report(report)
        expect(report.verdict is not BootVerdict.BOOTED, f"{nothing} does not exist and is said to have booted")
    except TargetError:
        pass
    made = _running(bench)
    _expect_report(bench.connect().boot_report(made.ref))


@check
def the_guest_is_seen_to_boot(bench: Bench) -> None:
    """The boot report of a bootable clone becomes BOOTED; UNKNOWN where there is no console.

    Source: BootVerdict.
    """
    made = _running(bench)
    first = bench.target.boot_report(made.ref)
    if bench.stage.boots is None and first.verdict is BootVerdict.WAITING:
        raise NotApplicableError("nobody has said whether the guest in these snapshots shows that it has booted")
    report = bench.until(lambda: bench.connect().boot_report(made.ref), lambda seen: seen.verdict != BootVerdict.WAITING,
                         f"the boot report of {made.ref} is still WAITING")  # fmt: skip
    if report.verdict is BootVerdict.UNKNOWN:
        raise NotApplicableError("this target has no console")
    due = BootVerdict.NO_BOOT if bench.stage.boots is False else BootVerdict.BOOTED
    expect(report.verdict is due, f"{made.ref} has the verdict {report.verdict} ({report.detail})")


@check
def the_screenshot_is_a_png(bench: Bench) -> None:
    """screenshot() answers with a PNG or None, or a TargetError, also where nothing runs yet.

    Source: Target.screenshot.
    """
    nothing = ResourceRef(ResourceKind.INSTANCE, bench.name())
    try:
        shot = bench.once().screenshot(nothing)
        expect(shot is None, f"{nothing} does not exist and has a screenshot")
    except TargetError:
        pass
    shot = bench.target.screenshot(_running(bench).ref)
    expect(shot is None or shot.startswith(_PNG), f"the screenshot begins with {(shot or b'')[:8]!r}")


def _running(bench: Bench) -> Observed:
    return bench.make(bench.spec(ResourceKind.INSTANCE))


def _stopped(bench: Bench) -> Observed:
    need(bench.hands.power_off, "power_off")
    made = _running(bench)
    _stop(bench, made)
    return made


def _stop(bench: Bench, made: Observed) -> None:
    need(bench.hands.power_off, "power_off")(made.ref)
    bench.until(lambda: bench.must_find(made.ref), lambda seen: seen.status is Status.STOPPED,
                f"{made.ref} was stopped and is not STOPPED")  # fmt: skip


def _expect_report(report: BootReport) -> None:
    expect(isinstance(report, BootReport), f"boot_report() answered {report!r}")
    expect(isinstance(report.verdict, BootVerdict), f"the verdict is {report.verdict!r}")
    expect(isinstance(report.console, str), f"the console is {type(report.console).__name__}, not text")
    is_time = report.boot_seconds is None or report.boot_seconds >= 0
    expect(is_time, f"boot_seconds is {report.boot_seconds!r}")
