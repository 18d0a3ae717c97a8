"""The broker loses everything, the API dies, an operator revokes a task: every job ends all the same."""

from __future__ import annotations

from collections import Counter

import pytest
from celery import Celery
from live_service import until

from tasks.chain import kombu_queues
from worker.health import redis_client


def flush(service):
    client = redis_client(service.broker_url)
    try:
        client.flushall()
    finally:
        client.close()


def test_jobs_end_when_the_broker_is_killed_and_loses_everything(service):
    target = service.simulated()
    target.add_fault(op="create", kind="disk", fault="slow", times=None, delay_s=2.0)
    target.add_fault(op="create", kind="instance", fault="slow", times=None, delay_s=2.0)
    vms = [service.import_vm(f"sim-{number}", target="simulated") for number in range(5)]
    jobs = [service.submit(vm, "clone") for vm in vms]
    until("a disk is being made", lambda: any(kind == "disk" for kind, *_ in effects(target)))
    service.kill_child("broker")
    until("the broker is back", lambda: answers(service))
    flush(service)
    service.rest.cancel_clone_job(name=jobs[-1])
    until("an instance is being made", lambda: any(kind == "instance" for kind, *_ in effects(target)))
    flush(service)
    jobs.append(service.submit(service.import_vm("sim-9", target="simulated"), "clone"))
    flush(service)
    assert service.wait_ended(jobs, 60) == ["SUCCEEDED"] * 4 + ["CANCELLED", "SUCCEEDED"]
    assert set(effects(target).values()) == {1}, "something was created twice"
    left = Counter((str(each.ref.kind), each.ref.name[:5]) for each in target.inventory())
    assert left == {(kind, f"sim-{number}"): 1 for kind in ("disk", "instance") for number in (0, 1, 2, 3, 9)}


def effects(target):
    """How often each resource was made."""
    made = [call for call in target.calls() if call.op == "create" and call.phase == "effect"]
    return Counter((call.kind, call.name) for call in made)


def answers(service):
    client = redis_client(service.broker_url, timeout_s=0.5)
    try:
        return service.child("broker") and client.ping()
    finally:
        client.close()


def test_operations_are_resolvable_after_the_api_was_killed(service):
    vm = service.import_vm("web-1", boot_delay_s=900)
    created = service.grpc.create_clone_job(parent=vm, clone_job_id="clone", clone_job={}).operation.name
    job = f"{vm}/cloneJobs/clone"
    service.wait_booting(job)
    service.arm(("target.delete.instance", "before"), seconds=2.0)
    cancel = service.grpc.cancel_clone_job(name=job).operation.name
    service.kill_child("api")
    assert until("the API is back", lambda: service.rest.get_operation({"name": created})).done
    ended = until("the cancel has ended", lambda: done(service.grpc.get_operation({"name": cancel})))
    assert ended.WhichOneof("result") == "response"
    service.assert_nothing_left(job, "web-1-")


def done(operation):
    return operation.done and operation


def test_the_api_is_killed_while_a_job_runs(service):
    vm = service.import_vm("web-2")
    service.arm(("target.create.instance", "before"), seconds=1.5)
    job = service.submit(vm, "clone", client="rest")
    service.wait_fired()
    service.kill_child("api")
    until("the API is back", lambda: service.state(job))
    assert service.wait_ended([job]) == ["SUCCEEDED"]
    service.assert_one_clone(job, "web-2-")


@pytest.mark.parametrize("at", ["target.create.disk", "target.create.instance"])
def test_an_operator_revokes_the_running_step(service, at):
    vm_id = "rev-" + at.rpartition(".")[2]
    service.arm((at, "after"))
    job = service.submit(service.import_vm(vm_id), "clone")
    [pid] = service.wait_fired()
    with Celery(broker=service.broker_url) as app:
        app.control.revoke(running_task(app, pid)["id"], terminate=True)
    assert service.wait_ended([job]) == ["CANCELLED"]
    service.assert_nothing_left(job, f"{vm_id}-")


def test_a_duplicate_of_the_running_step_disturbs_nobody(service):
    service.arm(("target.create.disk", "before"), seconds=2.0)
    job = service.submit(service.import_vm("twice"), "clone")
    [pid] = service.wait_fired()
    with Celery(broker=service.broker_url) as app:
        task = running_task(app, pid)
        for _ in range(3):
            app.send_task(task["name"], args=task["args"], queue=queue_of("disks"))
    assert service.wait_ended([job]) == ["SUCCEEDED"]
    service.assert_one_clone(job, "twice-")
    assert not {"lease_forfeited", "lease_lost", "attempt_failed"} & set(service.events(job))


def running_task(app, pid):
    """The task that the worker with that pid is at."""

    def look():
        active = app.control.inspect(timeout=0.5).active() or {}
        return next((task for tasks in active.values() for task in tasks if task["worker_pid"] == pid), None)

    return until("the task is active", look)


def queue_of(name):
    return next(queue for queue in kombu_queues() if queue.name == name)
