"""Polled jobs: whatever is kept, the answer is what a read of the jobs would have said at that moment."""

import asyncio
import contextlib
import random

import pytest
import sqlalchemy as sa

from models import job_polls, loop_reads
from tasks.errors import FailedPrecondition

TERMINATE = (
    "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid != pg_backend_pid()"
)
BY_HAND = (
    "UPDATE clone_steps SET start_time = now() WHERE position = 0",
    "UPDATE clone_steps SET end_time = coalesce(start_time, now()) WHERE position = 1",
    "UPDATE clone_steps SET start_time = NULL, end_time = NULL",
    'UPDATE clone_jobs SET target_details = target_details || \'{"machineType": "n2"}\'',
    "UPDATE clone_jobs SET state_time = now()",
    "BEGIN; SAVEPOINT a; UPDATE clone_steps SET end_time = now() WHERE position = 2; RELEASE a; SAVEPOINT b;"
    " UPDATE clone_steps SET end_time = NULL WHERE position = 1; ROLLBACK TO b; COMMIT",
    "VACUUM FULL clone_steps",
    "VACUUM (FULL, FREEZE) clone_jobs",
)


@pytest.fixture
def postgres(world, monkeypatch):
    if world.engine.dialect.name != "postgresql":
        pytest.skip("SQLite is read by the ordinary way alone")
    monkeypatch.setattr(loop_reads, "_AGAIN_S", 0.0)
    return world


@pytest.fixture
def administrator(postgres):
    engine = sa.create_engine(postgres.engine.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        yield lambda statement: connection.exec_driver_sql(statement)


@contextlib.asynccontextmanager
async def polls(world):
    made = world.runtime.catalog.job_polls()
    try:
        yield made
    finally:
        await made.close()


async def answered(made, names):
    for _ in range(2000):
        found = await made.jobs(names)
        if found is not None:
            return found
        await asyncio.sleep(0.005)
    raise AssertionError("it never answered")


@pytest.mark.parametrize("seed", range(2))
def test_the_answer_is_always_what_an_uncached_read_says(postgres, administrator, seed):
    chance = random.Random(seed)  # noqa: S311
    vms = [postgres.add_vm(f"vm-{number}") for number in range(3)]
    for vm in vms:
        postgres.upload(vm)
    jobs = [postgres.create("c", vm) for vm in vms]
    names = [job.name for job in jobs] + [vms[0] + "/cloneJobs/never"]

    def act():
        what = chance.random()
        if what < 0.4 and postgres.mail.messages:
            postgres.deliver()
        elif what < 0.5:
            with contextlib.suppress(FailedPrecondition):  # it has ended
                postgres.services.clone_jobs.cancel(chance.choice(jobs).name)
        elif what < 0.8:
            administrator(chance.choice(BY_HAND))
        elif what < 0.85:
            administrator(TERMINATE)

    async def main():
        async with polls(postgres) as made:
            for _ in range(30):
                act()
                asked = chance.sample(names, chance.randint(1, len(names)))
                assert await answered(made, asked) == postgres.runtime.catalog.jobs(asked)

    asyncio.run(main())


def test_a_job_that_has_not_changed_is_the_same_object(postgres, administrator):
    job = postgres.create()

    async def main():
        async with polls(postgres) as made:
            first = (await answered(made, [job.name]))[job.name]
            assert (await answered(made, [job.name]))[job.name] is first
            administrator("UPDATE clone_steps SET progress = '{}' WHERE position = 0")
            again = (await answered(made, [job.name]))[job.name]
            assert again is not first
            assert again == first

    asyncio.run(main())


def test_a_change_that_is_not_committed_is_not_seen_and_once_it_is_it_is(postgres, administrator):
    job = postgres.create()

    async def main():
        async with polls(postgres) as made:
            before = (await answered(made, [job.name]))[job.name]
            administrator("BEGIN")
            administrator("UPDATE clone_steps SET start_time = now()")
            assert (await answered(made, [job.name]))[job.name] is before
            administrator("COMMIT")
            assert (await answered(made, [job.name]))[job.name].steps[0].start_time is not None

    asyncio.run(main())


def test_nothing_outlives_its_connection_or_its_hour(postgres, administrator):
    job = postgres.create()

    async def main():
        async with polls(postgres) as made:
            first = (await answered(made, [job.name]))[job.name]
            administrator(TERMINATE)
            second = (await answered(made, [job.name]))[job.name]
            assert second is not first
            made._clock = lambda: made._kept_since + job_polls.LIFE_S + 1
            assert (await answered(made, [job.name]))[job.name] is not second

    asyncio.run(main())


def test_what_is_kept_is_bounded_in_number_and_in_size(postgres, administrator, monkeypatch):
    monkeypatch.setattr(job_polls, "MOST_JOBS", 2)
    vms = [postgres.add_vm(f"vm-{number}") for number in range(4)]
    for vm in vms:
        postgres.upload(vm)
    names = [postgres.create("c", vm).name for vm in vms]

    async def main():
        async with polls(postgres) as made:
            for name in (names[0], names[1], names[0], names[2]):
                await answered(made, [name])
            assert list(made._kept) == [names[0], names[2]]  # the one that was asked for longest ago has gone
            assert set(await answered(made, names)) == set(names)
            assert len(made._kept) == 2
            large = '{"metadata": {"note": "%s"}}' % ("x" * job_polls.MOST_BYTES)
            administrator(f"UPDATE clone_jobs SET target_details = '{large}' WHERE name = '{names[0]}'")
            first = (await answered(made, names[:1]))[names[0]]
            assert names[0] not in made._kept
            assert (await answered(made, names[:1]))[names[0]] is not first

    asyncio.run(main())
