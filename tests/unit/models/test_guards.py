"""The database itself refuses what no code may do; both databases."""

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from models.states import LedgerState


def refused(world, statement, **values):
    with pytest.raises(DBAPIError) as refusal:
        world.corrupt(statement, **values)
    return str(refusal.value.orig)


@pytest.fixture
def succeeded(world):
    job = world.create()
    world.run()
    return world.job(job.id)


@pytest.mark.parametrize("state", ["DELETING", "ABSENT", "INTENDED", "CREATED", "PLANNED"])
def test_nothing_of_a_succeeded_job_may_be_deleted(world, succeeded, state):
    message = refused(
        world, "UPDATE ledger SET state = :state WHERE job_id = :id AND role = 'product'", state=state, id=succeeded.id
    )
    assert "clonejob guard" in message
    assert {row.state for row in world.job(succeeded.id).ledger if row.role == "product"} == {LedgerState.KEPT}


def test_the_scaffold_row_of_a_succeeded_job_is_closed_too(world, succeeded):
    assert "closed" in refused(
        world, "UPDATE ledger SET state = 'DELETING' WHERE job_id = :id AND role = 'scaffold'", id=succeeded.id
    )


@pytest.mark.parametrize("verdict", ["'FAIL'", "'CANCEL'", "NULL"])
def test_a_verdict_is_set_once(world, succeeded, verdict):
    assert "once" in refused(world, f"UPDATE clone_jobs SET verdict = {verdict} WHERE id = :id", id=succeeded.id)


def test_a_terminal_job_does_not_change(world, succeeded):
    refused(
        world,
        "UPDATE clone_jobs SET state = 'ACTIVE', end_time = NULL, wake_at = create_time WHERE id = :id",
        id=succeeded.id,
    )


def test_an_epoch_never_goes_back(world):
    job = world.create()
    assert "epoch" in refused(world, "UPDATE clone_jobs SET epoch = 0 WHERE id = :id", id=job.id)


def test_a_product_is_not_deleted_while_the_job_may_still_succeed(world):
    job = world.create()
    world.deliver(), world.deliver()
    assert "product" in refused(
        world, "UPDATE ledger SET state = 'DELETING' WHERE job_id = :id AND kind = 'disk'", id=job.id
    )


@pytest.mark.parametrize(
    "values",
    [
        "end_time = create_time",
        "state = 'SUCCEEDED'",
        "state = 'CANCELLING'",
        "wake_at = NULL",
        "state = 'FAILED', end_time = create_time, wake_at = NULL",
    ],
)
def test_state_verdict_and_end_time_agree(world, values):
    job = world.create()
    refused(world, f"UPDATE clone_jobs SET {values} WHERE id = :id", id=job.id)


def test_one_running_clone_job_per_vm(world):
    job = world.create()
    columns = [column.name for column in sa.inspect(type(job)).columns if column.name not in ("id", "name")]
    listed = ", ".join(columns)
    refused(world, f"INSERT INTO clone_jobs (id, name, {listed}) SELECT 'x', 'x', {listed} FROM clone_jobs")
