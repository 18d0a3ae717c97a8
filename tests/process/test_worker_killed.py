"""SIGKILL of the worker in the middle of each step of a QEMU clone.

One job for each place is brought to hang there (a job hangs at the first place that no other job hangs at), then one
SIGKILL hits the whole worker: its main process and every pool child.
"""

from __future__ import annotations

import datetime as dt
import os
import signal

import pytest
from live_service import running_service

POINTS = (
    "target.create.adapted_image",
    "target.create.disk",
    "target.create.instance",
    "target.boot_report.instance",
    "target.delete.adapted_image",  # in finish
)
LEASE_S = 8
PLACES = [(point, phase) for point in POINTS for phase in ("before", "after")]
each_place = pytest.mark.parametrize("place", PLACES, ids=lambda place: "-".join(place))


@pytest.fixture(scope="module")
def service(folder):
    # A call that hangs longer than the limit counts as lost: all jobs must hang at their places before that.
    with running_service(folder / "s", WORKERS=len(PLACES) + 1, LEASE_S=LEASE_S, PROVIDER_CALL_LIMIT_S=8) as service:
        yield service


def hang_everywhere(service, kind):
    """A job at each place, its VM's id by the place's number."""
    vms = [service.import_vm(f"{kind}-{number}") for number in range(len(PLACES))]
    service.arm(*PLACES)
    jobs = [service.submit(vm, "clone", client="rest" if number % 2 else "grpc") for number, vm in enumerate(vms)]
    pids = service.wait_fired(len(PLACES), 40)
    workers = {pid: job for job, pid in service.leases().items()}
    assert sorted(workers) == sorted(pids), "a job was taken over before the kill"
    assert {service.state(job) for job in jobs} <= {"ADAPTING_OS", "ACTIVE"}
    return {place: workers[pid] for place, pid in zip(PLACES, pids, strict=True)}


def prefix_of(job):
    return job.split("/")[-3] + "-"


@pytest.fixture(scope="module")
def went_on(service):
    jobs = hang_everywhere(service, "go")
    service.kill_child("steps")
    service.wait_ended(jobs.values())
    return jobs


@pytest.fixture(scope="module")
def cancelled(service):
    jobs = hang_everywhere(service, "stop")
    service.kill_child("steps")
    for job in jobs.values():
        service.grpc.cancel_clone_job(name=job)
    service.wait_ended(jobs.values())
    return jobs


@each_place
def test_the_job_succeeds_with_one_instance(service, went_on, place):
    job = went_on[place]
    service.assert_one_clone(job, prefix_of(job))
    assert service.events(job).count("lease_lost") == 1


@each_place
def test_a_cancel_after_the_kill_leaves_nothing(service, cancelled, place):
    job = cancelled[place]
    service.assert_nothing_left(job, prefix_of(job))


def test_a_worker_that_dies_between_a_step_and_the_next_message_costs_no_second_step(service):
    vm = service.import_vm("between")
    service.arm(("store.complete_step", "after"), action="kill")
    job = service.submit(vm, "clone")
    assert service.wait_ended([job]) == ["SUCCEEDED"]
    assert service.fired()
    service.assert_one_clone(job, "between-")
    assert service.events(job).count("step_started") == service.events(job).count("step_ended") == 3


def test_the_control_worker_is_killed_in_the_middle_of_two_clean_ups(service):
    jobs = [service.submit(service.import_vm(f"off-{number}", boot_delay_s=900), "clone") for number in range(2)]
    for job in jobs:
        service.wait_booting(job)
    assert len(service.vms_named("off-")) == 2
    service.arm(("target.delete.instance", "before"), ("target.delete.instance", "after"))
    for job in jobs:
        service.rest.cancel_clone_job(name=job)
    assert set(service.wait_fired(2)) == {service.child("control")}
    assert len(service.vms_named("off-")) == 1
    assert {service.state(job) for job in jobs} == {"CANCELLING"}
    service.kill_child("control")
    service.wait_ended(jobs)
    for number, job in enumerate(jobs):
        service.assert_nothing_left(job, f"off-{number}-")
        assert service.events(job).count("cleanup_started") == 2


def test_the_death_of_one_pool_child_is_noticed_long_before_its_lease_has_run_out(service):
    vm = service.import_vm("child")
    service.arm(("target.create.disk", "after"))
    job = service.submit(vm, "clone")
    [pid] = service.wait_fired()
    worker = service.child("steps")
    assert pid != worker
    killed_at = dt.datetime.now(dt.UTC)
    os.kill(pid, signal.SIGKILL)
    assert service.wait_ended([job]) == ["SUCCEEDED"]
    service.assert_one_clone(job, "child-")
    events = service.page(job, "events")["events"]
    forfeited = next(event for event in events if event["kind"] == "lease_forfeited")
    waited = dt.datetime.fromisoformat(forfeited["time"]) - killed_at
    assert waited < dt.timedelta(seconds=LEASE_S - 2)
    assert service.events(job).count("lease_lost") == 1
    assert service.child("steps") == worker, "the whole worker was restarted"
