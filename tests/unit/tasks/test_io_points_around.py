"""Whole lives of jobs, watched from below: no statement, no call to the target and no message outside a point."""

import time

import pytest
import sqlalchemy as sa
from celery.signals import before_task_publish

from models import io_points
from models.states import JobState, StepKind
from models.store import Lease
from tasks.chain import CLEAN_UP, RECONCILE, SETTLE, CeleryPublisher, NumberedCelery, register_tasks
from tasks.lease import HeldLease
from tasks.settle import Reason, settle
from tasks.steps import Result


class Watch:
    """Collects what happens while no point is open, and by which points the rest happened."""

    def __init__(self):
        self.outside = []
        self.inside = set()

    def __call__(self, what):
        if opened := io_points.open_points():
            self.inside.add(opened[-1])
        else:
            self.outside.append(what)


def until(what, holds):
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@pytest.fixture
def watched(world):
    watch = Watch()
    io_points.install_hook(lambda point, phase: None)
    sa.event.listen(world.engine, "before_cursor_execute", lambda c, cursor, statement, *_: watch(statement))
    sa.event.listen(world.engine, "commit", lambda connection: watch("COMMIT"))
    # models.prepared runs on the driver's cursor, which the other events do not tell of.
    sa.event.listen(world.engine, "checkout", lambda *_: watch("a connection is taken"))
    log = world.target._log.add
    world.target._log.add = lambda op, phase, **more: (watch(f"{op} {phase}"), log(op, phase, **more))[1]
    world.watch = watch
    yield world
    io_points.install_hook(None)
    assert watch.outside == []
    assert watch.inside <= io_points.names()


def test_success(watched):
    job = watched.create()
    assert watched.run_to_end(job.id).state is JobState.SUCCEEDED
    assert {"store.create_job", "target.check.job", "target.create.instance", "store.succeed"} <= watched.watch.inside


def test_cancel(watched):
    job = watched.create()
    watched.deliver()
    watched.deliver()
    watched.services.clone_jobs.cancel(job.name)
    assert watched.run_to_end(job.id).state is JobState.CANCELLED
    assert {"store.settle", "store.claim_cleanup", "target.bury.job", "store.finish_cleanup"} <= watched.watch.inside


def test_failure(watched):
    job = watched.create()
    watched.target.add_fault(op="create", kind="instance", fault="refuse")
    assert watched.run_to_end(job.id).state is JobState.FAILED
    assert {"store.settle", "target.delete.disk"} <= watched.watch.inside


def test_a_worker_that_is_lost_and_reconciled(watched):
    job = watched.create()
    watched.mail.messages.clear()
    watched.clock.advance(60)
    watched.reconcile()
    watched.runtime.store.claim_step(job.id, job.epoch, 0, "lost")
    watched.clock.advance(60)
    assert watched.run_to_end(job.id).state is JobState.SUCCEEDED
    seen = {"store.hold_reconciler", "store.due_jobs", "store.dispatch_again", "store.take_over", "catalog.expire_vms"}
    assert seen <= watched.watch.inside


def test_signals(watched):
    job = watched.create()
    watched.runtime.store.claim_step(job.id, job.epoch, 0, "dead")
    settle(watched.runtime, job.id, job.epoch, Reason.WORKER_LOST, "it died", 0)
    settle(watched.runtime, job.id, watched.job(job.id).epoch, Reason.REVOKED, "by an operator", 0)
    watched.clock.advance(60)
    assert watched.run_to_end(job.id).state is JobState.CANCELLED
    assert {"store.forfeit", "store.settle"} <= watched.watch.inside


def test_a_cancel_between_the_last_look_and_success(watched):
    """The verdict is lost in ``succeed``: the stale write is counted, the lease given back, all of it numbered."""
    job = watched.create()
    for _ in range(3):
        watched.deliver()
    cancelled = []

    def cancel_first(point, phase):
        if point == "store.succeed" and phase == "before" and not cancelled:
            cancelled.append(watched.services.clone_jobs.cancel(job.name))

    io_points.install_hook(cancel_first)
    assert watched.deliver().result is Result.DROPPED
    assert watched.run_to_end(job.id).state is JobState.CANCELLED
    assert cancelled
    assert {"store.succeed", "store.give_back"} <= watched.watch.inside


def test_the_thread_that_renews_a_lease(watched):
    job = watched.create()
    assert watched.runtime.store.claim_step(job.id, job.epoch, 0, "me")
    with HeldLease(watched.runtime, Lease(job.id, job.epoch, "me")):
        until("the lease is renewed", lambda: "store.renew" in watched.watch.inside)


@pytest.fixture
def app(light):
    app = NumberedCelery("test", broker="memory://", set_as_current=False)
    app.conf.task_ignore_result = True
    register_tasks(app, lambda: light.runtime)
    yield app
    app.close()


def test_every_message_is_sent_inside_a_point(app):
    sent = []

    def note(sender, **_):
        sent.append((sender, io_points.open_points()))

    before_task_publish.connect(note)
    io_points.install_hook(lambda point, phase: None)
    try:
        publisher = CeleryPublisher(app)
        assert publisher.steps("j", 1, 0, (StepKind.PREPARING_VM_DISKS, StepKind.INSTANTIATING_MIGRATED_VM))
        assert publisher.cleanup("j", 1)
        assert publisher.settle("j", 1, 0, Reason.TASK_FAILED, "detail")
        app.send_task(RECONCILE, args=("me", 1.0), queue="control")
        app.tasks["clone.finish"].apply_async(("j", 1, 2))
        app.tasks["clone.finish"].apply_async(("j", 1, 2), retries=1)
        app.tasks[SETTLE].apply_async((["j", 1, 2, "task_failed", ""],))
        app.tasks[CLEAN_UP].apply_async(("j", 1))
    finally:
        io_points.install_hook(None)
        before_task_publish.disconnect(note)
    assert sent == [
        ("clone.prepare_vm_disks", ("broker.publish.chain",)),
        (CLEAN_UP, ("broker.publish.cleanup",)),
        (SETTLE, ("broker.publish.settle",)),
        (RECONCILE, ("broker.publish.reconcile",)),
        ("clone.finish", ("broker.publish.next",)),
        ("clone.finish", ("broker.publish.retry",)),
        (SETTLE, ("broker.publish.errback",)),
        (CLEAN_UP, ("broker.publish.cleanup",)),
    ]
