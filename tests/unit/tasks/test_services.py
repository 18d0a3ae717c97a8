"""Bad input and idempotency of the use-cases: a clear error, and nothing half-made."""

import uuid

import pytest
from harness import PARENT, SOURCE, VM, count, refused

from models.schema import CloneJob
from models.states import JobState
from tasks.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)
from tasks.services import Request


@pytest.mark.parametrize("job_id", ["", "A", "1a", "-a", "a-", "a" * 64, "a_b", "ä", "a/b", "..", "a b", "a\n"])
def test_an_illegal_job_id(light, job_id):
    error = refused(light, InvalidArgument, lambda: light.create(job_id))
    assert error.field == "clone_job_id"


def test_the_longest_legal_id(light):
    assert light.create("a" + "b" * 62).name.endswith("b" * 62)


def test_a_vm_that_does_not_exist(light):
    error = refused(light, NotFound, lambda: light.create(vm=f"{SOURCE}/migratingVms/nope"))
    assert "nope does not exist" in error.message


def test_a_vm_without_a_successful_cycle(light):
    vm = light.add_vm("web-2")
    light.services.cycles.begin(vm)
    error = refused(light, FailedPrecondition, lambda: light.create(vm=vm))
    assert error.reason == "NO_SUCCESSFUL_CYCLE" and "upload one" in error.message and error.subject == vm


def test_a_vm_without_target(light):
    light.services.migrating_vms.create(SOURCE, "web-2", {}, Request())
    vm = f"{SOURCE}/migratingVms/web-2"
    light.upload(vm)
    assert refused(light, FailedPrecondition, lambda: light.create(vm=vm)).reason == "NO_TARGET_DEFAULTS"


@pytest.mark.parametrize("reason", ["TARGET_PROJECT_NOT_FOUND", "TARGET_NOT_CONFIGURED"])
def test_a_target_that_is_not_there(light, reason):
    if reason == "TARGET_NOT_CONFIGURED":
        light.runtime.targets.clear()
    else:  # such a VM was written before target defaults were held against the target projects
        light.corrupt("DELETE FROM target_projects")
    assert refused(light, FailedPrecondition, light.create).reason == reason


def test_a_second_clone_while_one_runs_names_the_first(world):
    first = world.create("one")
    error = refused(world, Aborted, lambda: world.create("two"))
    assert first.name in error.message
    world.run()
    assert world.create("two").state is JobState.PENDING


def test_a_job_id_that_is_taken(world):
    job = world.create("one")
    world.run()
    refused(world, AlreadyExists, lambda: world.create("one"))
    assert world.job(job.id).state is JobState.SUCCEEDED


def test_the_same_request_id_gives_the_same_operation(world):
    request = Request(str(uuid.uuid4()), "hash")
    create = world.services.clone_jobs.create
    first, job = create(VM, "one", request)
    for _ in range(2):
        again, same = create(VM, "one", request)
        assert (again.name, same.id) == (first.name, job.id)
    world.run()
    assert create(VM, "one", request)[0].name == first.name  # also after the job has ended
    assert count(world, CloneJob) == [1]


def test_the_same_request_id_with_another_body(world):
    request_id = str(uuid.uuid4())
    world.services.clone_jobs.create(VM, "one", Request(request_id, "hash"))
    error = refused(
        world, InvalidArgument, lambda: world.services.clone_jobs.create(VM, "one", Request(request_id, "other"))
    )
    assert error.reason == "REQUEST_ID_REUSED"


@pytest.mark.parametrize("request_id", ["x", "00000000-0000-0000-0000-000000000000"])
def test_an_illegal_request_id(light, request_id):
    refused(light, InvalidArgument, lambda: light.services.clone_jobs.create(VM, "one", Request(request_id)))


def test_unknown_job_operations_and_cycles(light):
    for call in (
        light.services.clone_jobs.get,
        light.services.clone_jobs.cancel,
        light.services.clone_jobs.events,
        light.services.operations.get,
        light.services.operations.cancel,
        light.services.operations.delete,
        light.services.cycles.get,
        light.services.cycles.finish,
        light.services.cycles.begin,
        light.services.sources.get,
        light.services.migrating_vms.get,
        light.services.target_projects.get,
    ):
        refused(light, NotFound, lambda call=call: call(f"{VM}/cloneJobs/nope"))


def test_cancel_of_a_failed_job_is_refused(light):
    job = light.create()
    light.target.add_fault(op="create", kind="disk", fault="refuse")
    while light.job(job.id).verdict is None:
        light.deliver()
    assert (
        "is failing" in refused(light, FailedPrecondition, lambda: light.services.clone_jobs.cancel(job.name)).message
    )
    light.run()
    assert (
        "has failed" in refused(light, FailedPrecondition, lambda: light.services.clone_jobs.cancel(job.name)).message
    )


# Pages


def test_pages_go_through_everything_once_even_when_jobs_are_added_meanwhile(world):
    names = []
    for number in range(7):
        names.insert(0, world.create(f"job-{number}").name)
        world.run()
        world.clock.advance(number % 2)  # some share their creation time
    seen, token = [], ""
    while True:
        page = world.services.clone_jobs.list(VM, page_size=2, page_token=token)
        seen += [job.name for job in page.items]
        token = page.next_page_token
        if len(seen) == 4:
            world.create("late")
            world.run()
        if not token:
            break
    assert seen == names


def test_page_sizes_and_tokens(light):
    light.create()
    listing = light.services.clone_jobs.list
    assert len(listing(VM, page_size=0).items) == len(listing(VM, page_size=10**9).items) == 1
    refused(light, InvalidArgument, lambda: listing(VM, page_size=-1))
    for token in ("x", "!", "e30", "W10", "bnVsbA"):
        refused(light, InvalidArgument, lambda token=token: listing(VM, page_size=1, page_token=token))


def test_a_token_of_another_list(light):
    for number in range(2):
        light.create(f"job-{number}")
        light.run()
    token = light.services.clone_jobs.list(VM, page_size=1).next_page_token
    other = light.add_vm("web-2")
    refused(light, InvalidArgument, lambda: light.services.clone_jobs.list(other, page_size=1, page_token=token))


def test_a_list_over_all_vms(world):
    other = world.add_vm("web-2")
    world.upload(other)
    jobs = {world.create("a").name, world.create("b", other).name}
    everywhere = f"{PARENT}/sources/-/migratingVms/-"
    assert {job.name for job in world.services.clone_jobs.list(everywhere).items} == jobs
    assert not world.services.clone_jobs.list("projects/other/locations/global/sources/-/migratingVms/-").items


# Operations


def test_operations_are_listed_with_their_results_and_deleted_when_their_job_has_ended(light):
    job = light.create()
    page = light.services.operations.list(PARENT)
    row, result = page.items[0] if page.items[0][0].method == "CreateCloneJob" else page.items[-1]
    by_method = {row.method: (row, result) for row, result in page.items}
    assert set(by_method) == {"CreateSource", "CreateTargetProject", "CreateMigratingVm", "CreateCloneJob"}
    row, result = by_method["CreateCloneJob"]
    assert result.id == job.id and row.end_time
    refused(light, FailedPrecondition, lambda: light.services.operations.delete(row.name))
    light.run()
    light.services.operations.delete(row.name)
    refused(light, NotFound, lambda: light.services.operations.get(row.name))


def test_a_create_operation_that_ends_with_its_job(tmp_path):
    import dataclasses

    from harness import World

    from tasks.services import Services

    world = World(tmp_path)
    world.set_up()
    services = Services(dataclasses.replace(world.runtime, create_operation_ends_with_job=True))
    operation, job = services.clone_jobs.create(VM, "one", Request())
    assert operation.end_time is None
    world.run()
    assert services.operations.get(operation.name)[0].end_time
    operation, job = services.clone_jobs.create(VM, "two", Request())
    world.deliver(("step", job.id, 1, 0))
    services.operations.cancel(operation.name)
    world.run_to_end(job.id)
    assert services.operations.get(operation.name)[0].error["code"] == "CANCELLED"
    world.close()


def test_a_job_that_ends_while_its_successor_is_refused_is_in_nobodys_way(world, monkeypatch):
    first = world.create("one")
    explain = type(world.runtime.store)._explain_conflict

    def late(store, *args):
        world.services.clone_jobs.cancel(first.name)
        return explain(store, *args)

    monkeypatch.setattr(type(world.runtime.store), "_explain_conflict", late)
    second = world.create("two")
    assert world.job(first.id).state is JobState.CANCELLED
    assert world.job(second.id).name.endswith("/two") and len(world.job(second.id).steps) == len(first.steps)
