"""What may be deleted, what stays as evidence, and that a name is free again; both databases."""

import uuid

import pytest
import sqlalchemy as sa
from harness import PARENT, SOURCE, VM
from sqlalchemy.orm import Session

from models.schema import CloneJob, JobEvent, MigratingVm, ReplicationCycle, Snapshot, Source
from models.states import JobState, LedgerState
from tasks.errors import FailedPrecondition, InvalidArgument, NotFound
from tasks.services import Request

PROJECT = f"{PARENT}/targetProjects/simulated"
NONE = Request()


def request(body="hash"):
    return Request(str(uuid.uuid4()), body)


def test_a_source_with_vms_stays(world):
    world.add_vm("web-2")
    with pytest.raises(FailedPrecondition, match="has 2 migrating VMs") as error:
        world.services.sources.delete(SOURCE, NONE)
    assert (error.value.reason, error.value.subject) == ("SOURCE_HAS_VMS", SOURCE)
    assert world.services.sources.get(SOURCE)


def test_a_source_goes_and_its_name_is_free(world):
    world.services.sources.create(PARENT, "empty", {"description": "old"}, NONE)
    name = f"{PARENT}/sources/empty"
    once = request()
    operation = world.services.sources.delete(name, once)
    assert (operation.verb, operation.method, operation.end_time is None) == ("delete", "DeleteSource", False)
    assert world.services.sources.delete(name, once).name == operation.name
    with pytest.raises(InvalidArgument, match="another request"):
        world.services.sources.delete(name, Request(once.id, "other"))
    for gone in (lambda: world.services.sources.delete(name, NONE), lambda: world.services.sources.get(name)):
        with pytest.raises(NotFound):
            gone()
    world.clock.advance(1)
    _, again = world.services.sources.create(PARENT, "empty", {}, NONE)
    assert again.body == {}
    assert world.services.operations.get(operation.name)[1] is None  # that was about the other one


def test_updates_with_a_request_id(world):
    once = request()

    def change(body):
        return {**body, "description": body.get("description", "") + "x"}

    first, row = world.services.sources.update(SOURCE, change, once)
    again, _ = world.services.sources.update(SOURCE, change, once)
    assert again.name == first.name and world.services.sources.get(SOURCE).body == {"description": "x"} == row.body
    with pytest.raises(NotFound):
        world.services.sources.update(f"{SOURCE}x", change, NONE)


def test_a_target_project_that_a_vm_names_stays(world):
    delete = world.services.target_projects.delete
    with pytest.raises(FailedPrecondition, match=VM) as error:
        delete(PROJECT, NONE)
    assert error.value.reason == "TARGET_PROJECT_IN_USE"
    world.services.migrating_vms.update(VM, lambda _: {}, NONE)
    once = request()
    assert delete(PROJECT, once).name == delete(PROJECT, once).name
    with pytest.raises(NotFound):
        delete(PROJECT, NONE)
    world.services.target_projects.create(PARENT, "simulated", {"project": "simulated"}, NONE)


def test_a_vm_of_another_project_is_not_named(world):
    world.services.migrating_vms.update(VM, lambda _: {}, NONE)
    elsewhere = "projects/secret/locations/global"
    world.services.sources.create(elsewhere, "s", {}, NONE)
    body = {"computeEngineTargetDefaults": {"targetProject": PROJECT}}
    world.services.migrating_vms.create(f"{elsewhere}/sources/s", "hidden", body, NONE)
    with pytest.raises(FailedPrecondition) as error:
        world.services.target_projects.delete(PROJECT, NONE)
    assert "another project" in error.value.message and "secret" not in error.value.message


def test_a_target_project_takes_configured_targets_only(world):
    update = world.services.target_projects.update
    _, row = update(PROJECT, lambda body: {**body, "description": "d"}, NONE)
    assert (row.description, row.target) == ("d", "simulated")
    with pytest.raises(InvalidArgument, match="simulated"):
        update(PROJECT, lambda body: {**body, "project": "nope"}, NONE)
    with pytest.raises(InvalidArgument):
        update(PROJECT, lambda body: {}, NONE)


def test_a_vm_with_a_running_job_or_an_open_cycle_stays(world):
    delete = world.services.migrating_vms.delete
    job = world.create()
    with pytest.raises(FailedPrecondition, match=job.name):
        delete(VM)
    world.run()
    cycle = world.services.cycles.begin(VM).name
    with pytest.raises(FailedPrecondition, match=cycle) as error:
        delete(VM)
    assert (error.value.reason, error.value.subject) == ("CYCLE_RUNNING", cycle)
    world.services.cycles.abort(cycle, "")
    delete(VM)


def deleted_with_a_kept_and_a_failed_clone(world):
    kept = world.create("kept")
    world.run()
    world.upload(VM, content=b"later")
    lost = world.create("lost")
    world.services.clone_jobs.cancel(lost.name)
    world.run_to_end(lost.id)
    world.services.migrating_vms.delete(VM)
    return world.job(kept.id), world.job(lost.id)


def test_the_record_of_the_jobs_stays_and_so_does_what_kept_clones_need(world):
    keys = {s.store_key for s in world.services.migrating_vms.last_cycle(VM).snapshots}
    instances = world.kinds()
    kept, lost = deleted_with_a_kept_and_a_failed_clone(world)
    assert world.kinds() != instances  # the kept clone is there
    assert kept.state is JobState.SUCCEEDED and lost.state is JobState.CANCELLED
    assert {row.state for row in kept.ledger if row.role == "product"} == {LedgerState.KEPT}
    assert all(name.startswith("deleted/") for name in (kept.name, kept.parent, kept.cycle, lost.name))
    with Session(world.engine) as session:
        rows = session.scalars(sa.select(Snapshot)).all()
        assert {row.store_key for row in rows} == keys  # the later cycle's are gone, row and file
        assert session.get(ReplicationCycle, kept.cycle).parent == kept.parent
        assert session.get(MigratingVm, kept.parent).parent.endswith(SOURCE)
        events = session.scalars(sa.select(JobEvent.kind).where(JobEvent.job_id == kept.id)).all()
        assert events[-1] == "vm_deleted"
    files = [path for path in world.snapshots.root.rglob("*") if path.is_file()]
    assert {str(path.relative_to(world.snapshots.root)) for path in files} == keys


def test_nothing_deleted_is_seen_by_any_read(world):
    deleted_with_a_kept_and_a_failed_clone(world)
    services = world.services
    for gone in (
        lambda: services.migrating_vms.get(VM),
        lambda: services.clone_jobs.get(f"{VM}/cloneJobs/kept"),
        lambda: services.clone_jobs.list(VM),
        lambda: services.cycles.get(f"{VM}/replicationCycles/cycle-1"),
        lambda: services.migrating_vms.delete(VM),
    ):
        with pytest.raises(NotFound):
            gone()
    everywhere = "projects/p/locations/-/sources/-"
    assert not services.migrating_vms.list(everywhere).items and not services.migrating_vms.list(SOURCE).items
    assert not services.clone_jobs.list(f"{everywhere}/migratingVms/-").items
    assert not services.cycles.list(f"{everywhere}/migratingVms/-").items
    assert [row.name for row in services.sources.list("projects/p/locations/-").items] == [SOURCE]
    assert world.runtime.catalog.expire_vms() == 0
    services.target_projects.delete(PROJECT, NONE)
    services.sources.delete(SOURCE, NONE)


def test_the_names_are_free_again_and_twice(world):
    for _ in range(2):
        deleted_with_a_kept_and_a_failed_clone(world)
        world.add_vm("web-1")
        world.upload(VM)
    job = world.create("kept")
    world.run()
    assert world.job(job.id).state is JobState.SUCCEEDED and job.name == f"{VM}/cloneJobs/kept"
    with world.engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(CloneJob)) == 5


def test_late_messages_for_jobs_of_a_deleted_vm_do_nothing(world):
    kept, lost = deleted_with_a_kept_and_a_failed_clone(world)
    before = world.kinds()
    for job in (kept, lost):
        for message in (("step", job.id, job.epoch, 0), ("step", job.id, 1, 0), ("cleanup", job.id, job.epoch)):
            world.deliver(message)
    assert world.kinds() == before and world.mail.messages == []
    assert world.job(kept.id).state is JobState.SUCCEEDED


def test_a_snapshot_that_cannot_be_removed_now_is_removed_later(world, monkeypatch):
    from targets.snapshot_store import SnapshotStoreError

    def broken(key):
        raise SnapshotStoreError("not now")

    with monkeypatch.context() as patched:
        patched.setattr(world.runtime.snapshots, "remove", broken)
        world.services.migrating_vms.delete(VM)
    assert [path for path in world.snapshots.root.rglob("*") if path.is_file()]
    other = world.add_vm("other")
    world.services.migrating_vms.delete(other)
    assert not [path for path in world.snapshots.root.rglob("*") if path.is_file()]


def test_repeated_requests_about_a_vm_that_was_deleted(world):
    create, once = world.services.migrating_vms.create, request()
    first, row = create(SOURCE, "web-2", {}, once)
    job_once = request()
    job_operation, _ = world.services.clone_jobs.create(VM, "one", job_once)
    world.run()
    world.services.migrating_vms.delete(row.name)
    world.services.migrating_vms.delete(VM)
    assert create(SOURCE, "web-2", {}, once) == (first, None) or create(SOURCE, "web-2", {}, once)[1] is None
    again, job = world.services.clone_jobs.create(VM, "one", job_once)
    assert (again.name, job) == (job_operation.name, None)
    assert world.services.operations.get(job_operation.name)[1] is None
    world.services.operations.delete(job_operation.name)


def test_a_source_that_is_deleted_while_a_vm_is_created(world, monkeypatch):
    world.services.sources.create(PARENT, "brief", {}, NONE)
    insert = world.runtime.catalog.insert

    def late(row, operation):
        world.services.sources.delete(f"{PARENT}/sources/brief", NONE)
        return insert(row, operation)

    monkeypatch.setattr(world.runtime.catalog, "insert", late)
    with pytest.raises(NotFound, match="brief"):
        world.services.migrating_vms.create(f"{PARENT}/sources/brief", "v", {}, NONE)


def test_a_vm_that_is_deleted_while_a_job_is_planned(world, monkeypatch):
    plan = world.services.clone_jobs._plan

    def slow(vm, name):
        job = plan(vm, name)
        world.services.migrating_vms.delete(VM)
        return job

    monkeypatch.setattr(world.services.clone_jobs, "_plan", slow)
    with pytest.raises(NotFound):
        world.create()
    with Session(world.engine) as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Source)) == 2  # with the copy in the graveyard


# Operations


def test_a_deleted_operation_is_unknown_but_its_request_is_not(world):
    once = request()
    operation, _ = world.services.sources.create(PARENT, "again", {}, once)
    world.services.operations.delete(operation.name)
    for gone in (world.services.operations.get, world.services.operations.delete):
        with pytest.raises(NotFound):
            gone(operation.name)
    assert operation.name not in [row.name for row, _ in world.services.operations.list(PARENT).items]
    again, row = world.services.sources.create(PARENT, "again", {}, once)
    assert again.name.endswith(operation.name) and row.name == f"{PARENT}/sources/again"


def test_locations(world):
    services = world.services.locations
    world.services.sources.create("projects/p/locations/eu", "s", {}, NONE)
    world.services.sources.create("projects/pp/locations/us", "s", {}, NONE)
    assert services.list("projects/p").items == ["eu", "global"]
    page = services.list("projects/p", page_size=1)
    assert page.items == ["eu"]
    last = services.list("projects/p", page_size=1, page_token=page.next_page_token)
    assert (last.items, last.next_page_token) == (["global"], "")
    assert services.get("projects/p/locations/eu") == "eu"
    for bad in (
        lambda: services.list("projects/p", filter="name=x"),
        lambda: services.list("projects/p", page_size=-1),
        lambda: services.list("projects/pp", page_token=page.next_page_token),
    ):
        with pytest.raises(InvalidArgument):
            bad()
    with pytest.raises(NotFound):
        services.get("projects/p/locations/us")


# Races


def test_creating_pausing_ending_and_deleting_at_once_never_tear_anything(world):
    """Whoever loses is refused in the contract's terms; no deadlock, no constraint that shows through."""
    from concurrent.futures import ThreadPoolExecutor

    from tasks.errors import ServiceError

    services, outcomes = world.services, []
    for number in range(12):
        vm = world.add_vm(f"race-{number}")
        world.upload(vm)
        cycle = services.cycles.begin(vm).name
        services.cycles.put_disk(cycle, 0, "raw", [b"\0" * 510 + b"\x55\xaa"])
        calls = [
            lambda: services.migrating_vms.delete(vm),
            lambda: services.clone_jobs.create(vm, "job", NONE),
            lambda: services.migrating_vms.change_state(vm, "PauseMigration"),
            lambda: services.cycles.finish(cycle),
            lambda: services.migrating_vms.delete(vm),
        ]
        with ThreadPoolExecutor(len(calls)) as pool:
            for future in [pool.submit(call) for call in calls]:
                error = future.exception()
                assert error is None or isinstance(error, ServiceError), error
        try:
            outcomes.append(services.migrating_vms.get(vm).state)
        except NotFound:
            outcomes.append(None)
            with Session(world.engine) as session:
                assert not session.scalars(sa.select(CloneJob).where(CloneJob.parent == vm)).all()
    assert len(outcomes) == 12
