"""The fault plan: each action does to a caller what it says, once, and only in its kind of process."""

import json

import pytest
import sqlalchemy as sa
from celery.signals import before_task_publish
from sqlalchemy.exc import OperationalError

from models import io_points
from models.states import StepKind
from targets.base import ResourceKind
from targets.errors import RefusedError, TransientError
from tasks.chain import RECONCILE, CeleryPublisher, NumberedCelery, kombu_queues, register_tasks
from tasks.plan import ref_of, spec_of
from tasks.target_calls import TargetCalls
from worker import faults
from worker.broker import running_broker
from worker.health import redis_client


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "plan.json"
    path.write_text("[]")

    def write(*entries):
        new = path.with_suffix(".new")
        new.write_text(json.dumps(entries))
        new.replace(path)

    io_points.install_hook(faults.FaultPlan(path))
    write.path = path
    yield write
    io_points.install_hook(None)
    faults._Below.plan = None


def intended(world):
    """A job whose first step holds its lease."""
    job = world.create()
    job = world.runtime.store.claim_step(job.id, job.epoch, 0, "me")
    assert job is not None
    return job


def test_the_reply_to_a_commit_is_lost(world, plan):
    from models.store import Lease

    job = intended(world)
    plan({"point": "store.mark_intended", "action": "lose_reply"})
    lease = Lease(job.id, job.epoch, "me")
    with pytest.raises(OperationalError):
        world.runtime.store.mark_intended(lease, 0)
    assert world.job_quietly(job.id).ledger[0].state == "INTENDED", "the commit has landed"
    world.runtime.store.mark_intended(lease, 0)  # once only


def test_the_reply_to_a_read_is_lost(world, plan):
    job = world.create()
    plan({"point": "store.get_job", "action": "lose_reply"})
    with pytest.raises(OperationalError):
        world.runtime.store.get_job(job.id)
    assert world.runtime.store.get_job(job.id).id == job.id


def test_the_target_loses_a_reply(light, plan):
    job = intended(light)
    row = job.ledger[0]
    calls = TargetCalls(light.runtime, "simulated")
    plan({"point": "target.create.*", "action": "lose_reply", "script": str(light.target.root)})
    with pytest.raises(TransientError):
        calls.create(job, row)
    assert [call.outcome for call in light.target.calls() if call.op == "create"] == [None, "made", "lost"]
    seen = light.target.find(ref_of(row))
    assert seen.ref.kind is ResourceKind.ADAPTED_IMAGE
    assert calls.create(job, row).uid == seen.uid == light.target.create(spec_of(job, row)).uid


@pytest.mark.parametrize(
    ("point", "action", "error"),
    [
        ("target.bury.job", "refuse", RefusedError),
        ("target.bury.job", "error", TransientError),
        ("store.get_job", "error", OperationalError),
    ],
)
def test_errors(plan, point, action, error):
    plan({"point": point, "action": action})
    with pytest.raises(error):
        io_points.call(point, lambda: pytest.fail("it was called"))
    assert io_points.call(point, lambda: 1) == 1
    plan({"point": point, "action": action, "phase": "after", "times": 2})
    made = []
    with pytest.raises(error):
        io_points.call(point, made.append, 1)
    assert made == [1]


def test_only_in_its_kind_of_process(plan, monkeypatch):
    plan({"point": "store.get_job", "action": "error", "role": "control"})
    monkeypatch.setattr("sys.argv", ["celery", "-A", "worker.app", "worker", "-n", "steps@%h", "--pool", "threads"])
    assert io_points.call("store.get_job", lambda: 1) == 1
    monkeypatch.setattr("sys.argv", ["celery", "-A", "worker.app", "worker", "-n", "control@%h", "--pool", "threads"])
    with pytest.raises(OperationalError):
        io_points.call("store.get_job", lambda: 1)


def test_roles(monkeypatch):
    monkeypatch.setattr("sys.argv", ["cli", "api"])
    assert faults.role() == "api"
    monkeypatch.setattr("sys.argv", ["celery", "worker", "-n", "steps@%h", "-c", "2", "--pool", "prefork"])
    assert faults.role() == "steps-main"


@pytest.fixture
def app(light):
    app = NumberedCelery("test", broker="memory://", set_as_current=False)
    register_tasks(app, lambda: light.runtime)
    yield app
    app.close()


def test_a_message_whose_reply_is_lost_is_sent_twice(light, plan, tmp_path):
    """What kombu does about a connection that broke after the message: the job must bear the duplicate."""
    plan({"point": "broker.publish.chain", "action": "lose_reply"})
    with running_broker(tmp_path) as url, NumberedCelery("test", broker=url, set_as_current=False) as app:
        app.conf.task_queues = kombu_queues()
        app.conf.task_publish_retry_policy = {"max_retries": 1, "interval_start": 0.01, "interval_max": 0.01}
        register_tasks(app, lambda: light.runtime)
        assert CeleryPublisher(app).steps("j", 1, 0, (StepKind.PREPARING_VM_DISKS,))
        client = redis_client(url)
        assert client.llen("disks") == 2
        client.close()


def test_what_is_done_outside_of_a_point_is_written_down(app, light, plan):
    plan({"point": "*", "action": "note"})
    outside, passed = (plan.path.with_name(f"plan.json.{name}") for name in ("outside", "passed"))
    light.services.clone_jobs.get(light.create().name)
    app.send_task(RECONCILE, args=("me", 1.0), queue="control")
    assert not outside.exists()
    points = {(json.loads(line)[3], json.loads(line)[4]) for line in passed.read_text().splitlines()}
    assert {
        ("store.create_job", "before"),
        ("store.create_job", "after"),
        ("broker.publish.reconcile", "after"),
    } <= points
    with light.engine.connect() as connection:
        connection.execute(sa.text("SELECT 1"))
    before_task_publish.send(sender="clone.finish")
    what = [json.loads(line)[1] for line in outside.read_text().splitlines()]
    assert what == ["a connection is taken", "BEGIN IMMEDIATE", "SELECT 1", "message clone.finish"]
