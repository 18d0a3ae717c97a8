"""What every control worker asks for by itself: reconciling, and more rarely an audit."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tasks import audit
from tasks.chain import AUDIT, RECONCILE, register_tasks
from worker.app import make_app
from worker.bootsteps import ReconcilerStep
from worker.settings import load_settings


class Timer:
    """The worker's timer, which the test rings."""

    def __init__(self):
        self.entries = []

    def call_repeatedly(self, interval_s, function, args):
        entry = SimpleNamespace(interval_s=interval_s, ring=lambda: function(*args), cancelled=False)
        entry.cancel = lambda: setattr(entry, "cancelled", True)
        self.entries.append(entry)
        return entry


def started(monkeypatch, tmp_path, **settings):
    app = make_app(load_settings(data_dir=tmp_path, **settings))
    sent = []
    monkeypatch.setattr(app, "send_task", lambda name, **options: sent.append((name, options)))
    worker = SimpleNamespace(app=app, hostname="control@here", timer=Timer())
    step = ReconcilerStep(worker)
    step.start(worker)
    return app, worker, step, sent


@pytest.mark.parametrize("delete", [False, True])
def test_both_are_asked_for_in_their_intervals_and_only_a_setting_makes_the_audit_delete(monkeypatch, tmp_path, delete):
    _, worker, step, sent = started(monkeypatch, tmp_path, audit_interval_s=40, audit_delete=delete or None)
    assert [entry.interval_s for entry in worker.timer.entries] == [2.0, 40.0]
    for entry in worker.timer.entries:
        entry.ring()
    (reconcile, how), (audited, told) = sent
    assert (reconcile, audited) == (RECONCILE, AUDIT)
    assert how["args"][1:] == (5.0,) and told["args"][1:] == (100.0, delete) and how["args"][0] == told["args"][0]
    assert told["queue"] == "control" and told["expires"] == 40.0
    step.stop(worker)
    assert all(entry.cancelled for entry in worker.timer.entries)


def test_by_default_it_looks_every_five_minutes_and_only_reports():
    settings = load_settings()
    assert (settings.audit_interval_s, settings.audit_delete) == (300.0, False)


def test_a_broker_that_is_down_is_waited_for(monkeypatch, tmp_path, caplog):
    app, worker, step, _ = started(monkeypatch, tmp_path)

    def down(*_, **__):
        raise ConnectionError("refused")

    monkeypatch.setattr(app, "send_task", down)
    for entry in worker.timer.entries:
        entry.ring()
    assert "clonejob.audit waits for it" in caplog.text
    step.stop(worker)


class Tasks:
    """Collects what is registered, as an app would."""

    def __init__(self):
        self.by_name = {}

    def task(self, name, **_):
        return lambda function: self.by_name.setdefault(name, function)


@pytest.mark.parametrize("delete", [False, True])
def test_the_task_audits(monkeypatch, delete):
    app, asked, told = Tasks(), [], []
    runtime = SimpleNamespace(draining=lambda: bool(told))
    register_tasks(app, lambda: runtime)
    monkeypatch.setattr(audit, "audit_periodically", lambda *args, **more: asked.append((args, more)))
    app.by_name[AUDIT]("me", 100.0, delete)
    assert asked == [((runtime, "me", 100.0), {"delete": delete})]
    told.append("to stop")
    app.by_name[AUDIT]("me", 100.0, delete)
    assert len(asked) == 1  # another worker asks as well
