"""``up`` itself is killed or stopped in the middle of a step, and started again on the same folder."""

from __future__ import annotations

import os
import signal
import time

import pytest
from live_service import running_service, until


@pytest.fixture(scope="module")
def kept(service):
    """The machine of a job that succeeded before."""
    job = service.submit(service.import_vm("kept"), "clone")
    assert service.wait_ended([job]) == ["SUCCEEDED"]
    return service.assert_one_clone(job, "kept-")


def test_up_is_killed_in_the_middle_of_steps(service, kept):
    service.arm(("target.create.disk", "before"), ("target.create.instance", "after"))
    vms = [service.import_vm(f"kill-{number}") for number in range(2)]
    jobs = [service.submit(vm, "clone") for vm in vms]
    service.wait_fired(2)
    service.kill()
    until("nothing but virtual machines is left", lambda: not service.others(), 15)
    assert len(service.vms_named("kill-")) == 1
    assert service.vms_named("kept-") == [kept]
    service.start()
    assert service.wait_ended(jobs) == ["SUCCEEDED"] * 2
    for number, job in enumerate(jobs):
        service.assert_one_clone(job, f"kill-{number}-")
    assert service.vms_named("kept-") == [kept]


def test_up_is_stopped_in_the_middle_of_steps(service, kept):
    """One step ends within the worker's grace, one does not, one waits for its guest."""
    waits = service.submit(service.import_vm("stop-1", boot_delay_s=12), "clone")
    service.wait_booting(waits)
    # As late as can be: a call that outlasts its limit before the service is stopped is repeated by another worker.
    service.arm(("target.create.disk", "before"))
    stuck = service.submit(service.import_vm("stop-0"), "clone")
    service.wait_fired()
    service.arm(("target.create.instance", "after"), seconds=2.0)
    ends = service.submit(service.import_vm("stop-2"), "clone")
    service.wait_fired()
    started_at = time.monotonic()
    assert service.stop() == 0
    assert time.monotonic() - started_at < 20
    assert service.others() == {}
    assert [vm.name[:6] for vm in service.vms_named("stop-")] == ["stop-1", "stop-2"]
    assert service.vms_named("kept-") == [kept]
    service.start()
    assert service.wait_ended([stuck, waits, ends], 60) == ["SUCCEEDED"] * 3
    for number, job in enumerate([stuck, waits, ends]):
        service.assert_one_clone(job, f"stop-{number}-")
    assert service.vms_named("kept-") == [kept]


def test_a_worker_that_stands_still_is_started_again(folder):
    with running_service(folder / "frozen", FREEZE_LIMIT_S=2, LEASE_S=2, PROVIDER_CALL_LIMIT_S=4) as service:
        job = service.submit(service.import_vm("frozen", boot_delay_s=900), "clone")
        service.wait_booting(job)
        pid = service.child("steps")
        os.killpg(pid, signal.SIGSTOP)
        service.rest.cancel_clone_job(name=job)
        until("another worker", lambda: service.child("steps") not in (0, pid), 60)
        assert service.wait_ended([job]) == ["CANCELLED"]
        service.assert_nothing_left(job, "frozen-")
