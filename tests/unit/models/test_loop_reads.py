"""Reads in the event loop: the same rows as by the ordinary way, or none at all, never an error and never a wait."""

import asyncio
import contextlib

import pytest
import sqlalchemy as sa

from models import io_points, job_records, loop_reads
from models.loop_reads import LoopReads

JOBS = 1  # the second statement
TERMINATE = sa.text(
    "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid != pg_backend_pid()"
)


@contextlib.asynccontextmanager
async def reads(world):
    made = LoopReads(world.engine, (job_records.REVISIONS, job_records.BY_NAMES), point="catalog.get_many")
    try:
        yield made
    finally:
        await made.close()


async def answered(made, names):
    """The rows, once it is connected."""
    for _ in range(2000):
        answer = await made.answer(names, JOBS)
        if answer is not None:
            return job_records.jobs_in(answer.rows)
        await asyncio.sleep(0.005)
    raise AssertionError("it never answered")


@pytest.fixture
def postgres(world, monkeypatch):
    if world.engine.dialect.name != "postgresql":
        pytest.skip("SQLite is read by the ordinary way alone")
    monkeypatch.setattr(loop_reads, "_AGAIN_S", 0.0)
    return world


def other(world):
    """Another session, as an administrator has it."""
    return contextlib.closing(
        sa.create_engine(world.engine.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool).connect()
    )


def test_the_same_jobs_as_by_the_ordinary_way(postgres):
    jobs = [postgres.create().name]
    postgres.run()
    wanted = [*jobs, jobs[0] + "-nobody", 'with "quotes", {braces} and \\ in it']

    async def main():
        async with reads(postgres) as made:
            found = await answered(made, wanted)
            assert found == postgres.runtime.catalog.jobs(wanted)
            assert found == {name: postgres.runtime.catalog.job(name) for name in jobs}
            assert await answered(made, []) == {}

    asyncio.run(main())
    assert postgres.engine.pool.checkedout() == 0


def test_two_questions_at_once_are_not_mixed_up(postgres):
    name = postgres.create().name

    async def main():
        async with reads(postgres) as made:
            await answered(made, [name])
            first, second = await asyncio.gather(made.answer([name], JOBS), made.answer(["nobody"], JOBS))
            assert list(job_records.jobs_in(first.rows)) == [name]
            assert second is None  # the connection was busy: the ordinary way

    asyncio.run(main())


def test_a_connection_that_the_server_ends_is_made_again(postgres):
    name = postgres.create().name

    async def main():
        async with reads(postgres) as made:
            await answered(made, [name])
            with other(postgres) as administrator:
                administrator.execute(TERMINATE)
            assert await made.answer([name], JOBS) is None
            assert list(await answered(made, [name])) == [name]

    asyncio.run(main())


def test_an_answer_that_does_not_come_is_not_waited_for(postgres, monkeypatch):
    name = postgres.create().name
    monkeypatch.setattr(loop_reads, "_HANGS_S", 0.05)

    async def main():
        async with reads(postgres) as made:
            await answered(made, [name])
            with other(postgres) as administrator:
                administrator.execute(sa.text("BEGIN"))
                administrator.execute(sa.text("LOCK TABLE clone_jobs IN ACCESS EXCLUSIVE MODE"))
                assert await made.answer([name], JOBS) is None
                administrator.execute(sa.text("ROLLBACK"))
            assert list(await answered(made, [name])) == [name]

    asyncio.run(main())


def test_a_statement_that_fails_is_left_to_the_ordinary_way(postgres):
    name = postgres.create().name

    async def main():
        async with reads(postgres) as made:
            await answered(made, [name])
            with other(postgres) as administrator:
                administrator.execute(sa.text("ALTER TABLE clone_steps RENAME TO elsewhere"))
                assert await made.answer([name], JOBS) is None
                administrator.execute(sa.text("ALTER TABLE elsewhere RENAME TO clone_steps"))
            assert list(await answered(made, [name])) == [name]

    asyncio.run(main())


def test_a_caller_that_goes_away_leaves_nothing_for_the_next(postgres):
    name = postgres.create().name

    async def main():
        async with reads(postgres) as made:
            await answered(made, [name])
            gone = asyncio.ensure_future(made.answer([name], JOBS))
            await asyncio.sleep(0)
            gone.cancel()
            await asyncio.wait([gone])
            for _ in range(20):
                answer = await made.answer(["nobody"], JOBS)
                assert answer is None or not answer.rows

    asyncio.run(main())


def test_it_does_not_answer_while_the_points_are_watched(postgres):
    name = postgres.create().name

    async def main():
        async with reads(postgres) as made:
            await answered(made, [name])
            io_points.install_hook(lambda point, phase: None)
            try:
                assert await made.answer([name], JOBS) is None
            finally:
                io_points.install_hook(None)

    asyncio.run(main())


def test_sqlite_and_a_closed_one_never_answer(world):
    name = world.create().name

    async def main():
        async with reads(world) as made:
            if world.engine.dialect.name == "sqlite":
                for _ in range(3):
                    assert await made.answer([name], JOBS) is None
        for _ in range(3):
            assert await made.answer([name], JOBS) is None

    asyncio.run(main())
    assert world.engine.pool.checkedout() == 0


def test_no_table_is_read_whole_however_small_it_was_when_the_statement_was_planned(postgres):
    """A plan is kept, and the planner reads tables of one row whole: on a connection that is there before the jobs are,
    each read would cost the more the more jobs come."""
    name = postgres.create().name
    with other(postgres) as administrator:
        administrator.execute(sa.text("ANALYZE clone_jobs, clone_steps"))
    plans = []

    async def main():
        async with reads(postgres) as made:
            await answered(made, [name])
            for statement in (0, 1):
                explained = made._held._pgconn.exec_(b"EXPLAIN EXECUTE loop_read_%d('{x}')" % statement)
                plans.append("\n".join(explained.get_value(row, 0).decode() for row in range(explained.ntuples)))

    asyncio.run(main())
    for plan in plans:
        assert "Index" in plan and "Seq Scan" not in plan, plan
