from __future__ import annotations

import multiprocessing
import os
import signal

import pytest

from targets.base import BootVerdict, InstanceSpec, Owner, ResourceKind, ResourceRef, Status
from targets.errors import ConflictError, RefusedError, TombstonedError, TransientError
from targets.local_files import locked
from targets.simulated import SimulatedTarget

FORK = multiprocessing.get_context("fork")
REF = ResourceRef(ResourceKind.INSTANCE, "c-vm")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def target(tmp_path, clock):
    return SimulatedTarget(tmp_path, clock=clock, sleep=clock.sleep, call_timeout_s=0.2)


def spec(name: str = "c-vm", job_id: str = "job-1") -> InstanceSpec:
    return InstanceSpec(ResourceRef(ResourceKind.INSTANCE, name), Owner(job_id, 3), (), "web-1")


def outcomes(target, op):
    return [call.outcome for call in target.calls() if call.op == op and call.phase == "end"]


def run_in_child(work) -> int:
    process = FORK.Process(target=work)
    process.start()
    process.join(20)
    return process.exitcode


def test_the_log_tells_everything(target, clock):
    made = target.create(spec())
    target.delete(REF, job_id="job-1", uid=made.uid)
    lines = [(call.op, call.phase, call.outcome) for call in target.calls()]
    assert lines == [
        ("create", "start", None),
        ("create", "effect", "made"),
        ("create", "end", "ok"),
        ("delete", "start", None),
        ("delete", "effect", "gone"),
        ("delete", "end", "ok"),
    ]
    first = target.calls()[0]
    assert (first.pid, first.time, first.kind, first.name) == (os.getpid(), 1000.0, "instance", "c-vm")
    assert (first.job_id, first.epoch) == ("job-1", 3)
    assert target.calls()[3].uid == made.uid
    target.clear()
    assert target.calls() == []


def test_durations(tmp_path, clock):
    durations = {ResourceKind.INSTANCE: 10}
    target = SimulatedTarget(tmp_path, clock=clock, durations=durations, delete_durations={ResourceKind.INSTANCE: 4})
    made = target.create(spec())
    assert (made.status, made.progress_percent) == (Status.CREATING, 0)
    clock.now += 5
    assert target.find(REF).progress_percent == 50
    assert target.boot_report(REF).verdict is BootVerdict.WAITING
    clock.now += 5
    assert target.find(REF).status is Status.READY
    assert "hostname=web-1" in target.boot_report(REF).console
    target.delete(REF, job_id="job-1", uid=made.uid)
    target.delete(REF, job_id="job-1", uid=made.uid)
    assert target.find(REF).status is Status.DELETING
    with pytest.raises(TransientError, match="still being deleted"):
        target.create(spec())
    clock.now += 4
    assert target.find(REF) is None
    assert target.inventory() == []


@pytest.mark.parametrize(("fault", "error"), [("fail", TransientError), ("refuse", RefusedError)])
def test_errors_before_any_effect(target, fault, error):
    target.add_fault(op="create", fault=fault, times=2)
    for _ in range(2):
        with pytest.raises(error):
            target.create(spec())
    assert target.everything() == []
    assert target.create(spec()).status is Status.READY
    assert outcomes(target, "create") == [f"error:{error.__name__}"] * 2 + ["ok"]
    assert target.faults_left() == []


def test_a_lost_reply_has_its_effect(target):
    target.add_fault(op="create", fault="lose_reply")
    with pytest.raises(TransientError):
        target.create(spec())
    made = target.find(REF)
    assert target.create(spec()).uid == made.uid
    target.add_fault(op="delete", fault="lose_reply")
    with pytest.raises(TransientError):
        target.delete(REF, job_id="job-1", uid=made.uid)
    assert target.find(REF) is None
    assert outcomes(target, "create") == ["lost", "ok"]


@pytest.mark.parametrize(("fault", "exists"), [("crash_before", False), ("crash_after", True)])
def test_crashes(target, fault, exists):
    target.add_fault(op="create", fault=fault)
    assert run_in_child(lambda: target.create(spec())) == -signal.SIGKILL
    assert (target.find(REF) is not None) is exists
    assert outcomes(target, "create") == []
    assert target.create(spec()).status is Status.READY
    assert len(target.everything()) == 1


def test_hang_and_slow(target, clock):
    target.add_fault(op="create", fault="hang", delay_s=60)
    target.create(spec())
    assert clock.now == 1060
    target.add_fault(op="create", fault="slow", delay_s=30)
    assert target.create(spec("c-2")).status is Status.CREATING
    clock.now += 30
    made = target.find(ResourceRef(ResourceKind.INSTANCE, "c-2"))
    assert made.status is Status.READY
    target.add_fault(op="delete", fault="slow", delay_s=30)
    target.delete(made.ref, job_id="job-1", uid=made.uid)
    assert target.find(made.ref).status is Status.DELETING


def test_a_call_that_hung_through_the_burial_makes_nothing(target, clock, tmp_path):
    late = SimulatedTarget(tmp_path, clock=clock, sleep=lambda _: target.bury("job-1"))
    target.add_fault(op="create", fault="hang")
    with pytest.raises(TombstonedError):
        late.create(spec())
    assert target.everything() == []


def test_a_cloud_without_tombstones(target, clock, tmp_path):
    cloud = SimulatedTarget(tmp_path / "cloud", clock=clock, keeps_tombstones=False)
    cloud.bury("job-1")
    assert cloud.create(spec()).status is Status.READY


def test_half_made(target):
    target.add_fault(op="create", fault="half_made")
    with pytest.raises(TransientError):
        target.create(spec())
    assert target.find(REF).status is Status.FAILED
    assert target.create(spec()).status is Status.READY


def test_no_boot(target):
    target.create(spec())
    target.add_fault(op="boot_report", fault="no_boot", times=None)
    assert [target.boot_report(REF).verdict for _ in range(3)] == [BootVerdict.NO_BOOT] * 3
    target.clear_faults()
    assert target.boot_report(REF).verdict is BootVerdict.BOOTED


def test_which_calls_a_fault_means(target):
    target.add_fault(op="create", fault="fail", kind="disk")
    target.add_fault(op="create", fault="fail", name="x-*")
    target.add_fault(op="create", fault="fail", job_id="job-2")
    target.create(spec())
    for other in (spec("x-1"), spec("c-2", "job-2")):
        with pytest.raises(TransientError):
            target.create(other)
    assert [fault.kind for fault in target.faults_left()] == ["disk"]
    target.clear_faults()
    target.add_fault(op="*", fault="fail", times=6)
    for call in (target.inventory, lambda: target.check([]), lambda: target.bury("j"), lambda: target.find(REF)):
        with pytest.raises(TransientError):
            call()
    assert target.faults_left()[0].times == 2


@pytest.mark.parametrize("wrong", [{"op": "made-up"}, {"fault": "made-up"}, {"times": 0}])
def test_faults_that_do_not_exist(target, wrong):
    with pytest.raises(ValueError, match="unknown|at least"):
        target.add_fault(**{"op": "create", "fault": "fail", **wrong})


def test_times_are_counted_across_processes(tmp_path):
    target = SimulatedTarget(tmp_path)
    target.add_fault(op="find", fault="fail", times=20)

    def look() -> None:
        for _ in range(20):
            try:
                SimulatedTarget(tmp_path).find(REF)
            except TransientError:
                pass

    workers = [FORK.Process(target=look) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(20)
    assert sorted(outcomes(target, "find")) == ["error:TransientError"] * 20 + ["ok"] * 40


def test_what_a_user_does(target):
    theirs = target.foreign(ResourceKind.DISK, "theirs", {"a": "b"})
    assert target.inventory() == []
    assert target.everything() == [theirs]
    made = target.create(spec())
    target.remove_by_hand(REF)
    assert target.find(REF) is None
    again = target.foreign(REF.kind, REF.name)
    with pytest.raises(ConflictError):
        target.delete(REF, job_id="job-1", uid=made.uid)
    assert target.find(REF) == again
    with pytest.raises(ValueError, match="there is no"):
        target.power_off(ResourceRef(ResourceKind.INSTANCE, "none"))


def test_a_name_that_someone_works_on(target, tmp_path):
    with locked(tmp_path / "locks" / "instance-c-vm", timeout_s=1):
        for call in (lambda: target.create(spec()), lambda: target.find(REF)):
            with pytest.raises(TransientError, match="still working"):
                call()
    assert target.create(spec()).status is Status.READY
