"""The write that accepts a job, on both databases: all rows or none, whatever happened since the plan."""

import datetime as dt
import uuid

import pytest
import sqlalchemy as sa
from harness import VM

from models.catalog import JobRecord
from models.operations import NewOperation, RequestIdReused
from models.schema import CloneJob, CloneStep, JobEvent, LedgerRow, MigratingVm, Operation
from models.states import VmState
from models.store import ActiveJobExists, JobExists, VmNotCloneable
from tasks.plan import plan_job

TABLES = (CloneJob, CloneStep, LedgerRow, JobEvent, Operation)


def planned(world, name="one", **operation):
    """A job as the service plans it, and the operation that it would start."""
    ground = world.runtime.catalog.clone_ground(VM)
    full_name = f"{VM}/cloneJobs/{name}"
    job = plan_job(job_id=uuid.uuid4().hex, name=full_name, vm=ground.vm, cycle=ground.cycle, target="simulated",
                   now=world.clock())  # fmt: skip
    return job, NewOperation("projects/p/locations/global", "create", "CreateCloneJob", full_name, **operation)


def create(world, job, operation):
    return world.runtime.store.create_job(job, operation, ends_with_job=False)


def values(row):
    return {column.key: getattr(row, column.key) for column in type(row).__table__.columns}


def count(world):
    with world.engine.connect() as connection:
        return [connection.scalar(sa.select(sa.func.count()).select_from(table)) for table in TABLES]


def change(world, **values):
    with world.engine.begin() as connection:
        connection.execute(sa.update(MigratingVm).where(MigratingVm.name == VM).values(**values))


def test_every_column_is_stored_as_it_was_planned(world):
    job, operation = planned(world, request_id=str(uuid.uuid4()), request_hash="hash")
    row = create(world, job, operation)
    stored = world.job(job.id)
    assert values(stored) == values(job)
    assert [values(each) for each in stored.steps] == [values(each) for each in job.steps]
    assert [values(each) for each in stored.ledger] == [values(each) for each in job.ledger]
    assert values(world.runtime.catalog.get(Operation, row.name)) == values(row)
    (event,) = world.runtime.catalog.events(job.id)
    assert (event.kind, event.epoch, event.time) == ("created", 1, world.clock())


def test_an_error_and_texts_of_any_kind_are_stored_as_they_are(world):
    job, operation = planned(world)
    job.target_details = {**job.target_details, "labels": {"quoted": '"\\ \u2028 ä 🙂 %s :name'}}
    create(world, job, operation)
    assert world.job(job.id).target_details == job.target_details


def test_what_clients_see_is_what_the_row_says(world):
    job, operation = planned(world)
    create(world, job, operation)
    for _ in range(2):
        row, seen = world.job(job.id), world.runtime.catalog.job(job.name)
        assert {key: getattr(seen, key) for key in ("id", "state", "create_time", "end_time", "target_details", "error")} == {
            key: getattr(row, key) for key in ("id", "state", "create_time", "end_time", "target_details", "error")
        }  # fmt: skip
        assert [(step.kind, step.start_time, step.end_time) for step in seen.steps] == [
            (step.kind, step.start_time, step.end_time) for step in row.steps
        ]
        (listed,) = world.runtime.catalog.list_page(JobRecord, VM, limit=10)
        assert listed.row == seen
        world.run()


@pytest.mark.parametrize(
    ("change_to", "state"),
    [
        ({"state": VmState.FINALIZED}, VmState.FINALIZED),
        ({"create_time": dt.datetime(2025, 1, 1, tzinfo=dt.UTC)}, VmState.EXPIRED),
        ({"name": f"{VM}-gone"}, None),
    ],
)
def test_a_vm_that_has_changed_since_the_plan(world, change_to, state):
    job, operation = planned(world)
    before = count(world)
    if "name" in change_to:
        with world.engine.begin() as connection:
            connection.execute(sa.text("DELETE FROM snapshots"))
            connection.execute(sa.text("DELETE FROM replication_cycles"))
            connection.execute(sa.text("DELETE FROM migrating_vms"))
    else:
        change(world, **change_to)
    with pytest.raises(VmNotCloneable) as refusal:
        create(world, job, operation)
    assert refusal.value.args == (state,)
    assert count(world) == before


@pytest.mark.parametrize("seconds", [-1, 0])
def test_a_vm_whose_life_ends_now(world, seconds):
    """To the second, in any time zone of the database server."""
    job, operation = planned(world)
    change(world, create_time=world.clock() - dt.timedelta(days=200, seconds=seconds), extension_count=1)
    if seconds < 0:
        create(world, job, operation)
    else:
        with pytest.raises(VmNotCloneable):
            create(world, job, operation)


def test_another_job_that_came_between(world):
    job, operation = planned(world, "two")
    world.create("one")
    before = count(world)
    with pytest.raises(ActiveJobExists, match="cloneJobs/one"):
        create(world, job, operation)
    assert count(world) == before


def test_another_job_of_the_same_name(world):
    job, operation = planned(world)
    world.create("one")
    world.run()
    before = count(world)
    with pytest.raises(JobExists):
        create(world, job, operation)
    assert count(world) == before


def test_the_same_request_that_came_between(world):
    request = {"request_id": str(uuid.uuid4()), "request_hash": "hash"}
    (first, operation), (second, _) = planned(world, **request), planned(world, **request)
    (third, reused) = planned(world, request_id=request["request_id"], request_hash="another")
    row = create(world, first, operation)
    before = count(world)
    assert values(create(world, second, operation)) == values(row)
    with pytest.raises(RequestIdReused):
        create(world, third, reused)
    change(world, state=VmState.FINALIZED)  # what was accepted stays accepted
    assert values(create(world, second, operation)) == values(row)
    assert count(world) == before
