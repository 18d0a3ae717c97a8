from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest

from models.states import Verdict
from tasks.services import Request, Services
from worker import doctor
from worker.broker import running_broker
from worker.composition import build_runtime, upgrade_database
from worker.doctor import examine
from worker.settings import load_settings


@pytest.fixture
def simulated(tmp_path):
    return {"data_dir": tmp_path, "targets": {"simulated": {"type": "simulated"}}}


PARENT = "projects/clonejob/locations/global"


def add_vm(runtime, vm_id):
    services, source = Services(runtime), f"{PARENT}/sources/default"
    if vm_id == "web-1":
        services.sources.create(PARENT, "default", {}, Request())
        services.target_projects.create(PARENT, "simulated", {"project": "simulated"}, Request())
    body = {"computeEngineTargetDefaults": {"targetProject": f"{PARENT}/targetProjects/simulated"}}
    _, vm = services.migrating_vms.create(source, vm_id, body, Request())
    cycle = services.cycles.begin(vm.name)
    services.cycles.put_disk(cycle.name, 0, "raw", [b"\0" * 510 + b"\x55\xaa" + b"x" * 512])
    services.cycles.finish(cycle.name)
    return vm.name


def by_name(report):
    return {check.name: check for check in report.checks}


def test_nothing_runs_yet_is_a_warning(simulated):
    report = examine(load_settings(**simulated))
    checks = by_name(report)
    assert report.ok
    assert checks["service"].status == checks["database"].status == "warn"
    assert "clonejob up" in checks["service"].detail + checks["service"].action
    assert "valkey-server" in checks["broker"].detail


def test_a_broker_that_does_not_answer_fails(simulated):
    report = examine(load_settings(**simulated, broker_url="redis://:s3cret@127.0.0.1:1/0"))
    checks = by_name(report)
    assert not report.ok
    assert (checks["broker"].status, checks["workers"].status) == ("fail", "fail")
    assert checks["broker"].action == "check CLONEJOB_BROKER_URL"
    assert "s3cret" not in json.dumps(report.as_json()) + "\n".join(report.lines())


def test_a_broker_without_workers(simulated, tmp_path):
    settings = load_settings(**simulated)
    upgrade_database(settings)
    with running_broker(tmp_path / "b") as url:
        checks = by_name(examine(settings.model_copy(update={"broker_url": url})))
    assert checks["broker"].status == checks["queues"].status == checks["database"].status == "ok"
    assert (checks["workers"].status, checks["workers"].action) == ("fail", "start `clonejob worker`")


def test_an_old_schema_fails(simulated, tmp_path):
    (tmp_path / "clonejob.sqlite3").touch()
    check = by_name(examine(load_settings(**simulated)))["database"]
    assert (check.status, check.action) == ("fail", "run `clonejob db upgrade`")


def test_missing_qemu_fails_only_where_it_is_needed(simulated, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert by_name(examine(load_settings(**simulated)))["qemu-img"].status == "warn"
    needs = examine(load_settings(data_dir=tmp_path, targets={"local": {"type": "qemu"}}))
    assert by_name(needs)["target local"].status == by_name(needs)["qemu-img"].status == "fail"


def test_a_misspelt_variable_is_a_warning(simulated, monkeypatch):
    monkeypatch.setenv("CLONEJOB_LEASE", "1")
    assert by_name(examine(load_settings(**simulated)))["environment"].detail == "CLONEJOB_LEASE is read by no setting"


def test_a_check_that_breaks_is_a_finding(simulated, monkeypatch):
    def broken(_):
        raise RuntimeError("loose wire")
        yield

    monkeypatch.setattr(doctor, "target_checks", broken)
    check = by_name(examine(load_settings(**simulated)))["targets"]
    assert (check.status, check.detail) == ("fail", "RuntimeError: loose wire")


def test_the_settings_are_shown_only_when_asked_for(simulated):
    report = examine(load_settings(**simulated))
    assert "lease_s" not in "\n".join(report.lines())
    lines = list(report.lines(settings=True))
    assert lines[0] == "checks"
    assert lines.index("settings (CLONEJOB_...)") > 0
    assert "lease_s" in lines[-1] + "\n".join(lines)


@pytest.mark.parametrize(
    ("free", "status", "shown"),
    [(63 << 20, "fail", "63.0 MiB"), (64 << 20, "warn", "64.0 MiB"), (3 << 29, "ok", "1.5 GiB")],
)
def test_free_space(simulated, tmp_path, monkeypatch, free, status, shown):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    check = by_name(examine(load_settings(**simulated)))["free space"]
    assert (check.status, check.detail) == (status, f"{shown} on the disk of {tmp_path}")
    assert bool(check.action) == (status != "ok")


def test_unfinished_jobs_and_the_clean_up_that_waits_longest(simulated):
    settings = load_settings(**simulated)
    upgrade_database(settings)
    assert by_name(examine(settings))["jobs"].detail == "0 unfinished, no clean-up waits"
    runtime = build_runtime(settings, SimpleNamespace(steps=lambda *_: True, clean_up=lambda *_: True))
    try:
        vms = [add_vm(runtime, name) for name in ("web-1", "web-2", "web-3")]
        jobs = [Services(runtime).clone_jobs.create(vm, "c1", Request())[1] for vm in vms]
        for job in jobs[:2]:
            runtime.store.claim_step(job.id, job.epoch, 0, "a worker")
            runtime.store.settle(job.id, Verdict.CANCEL, reason="test")
        reason = runtime.store.get_job(jobs[0].id).cleanup_detail
        check = by_name(examine(settings))["jobs"]
    finally:
        runtime.store.engine.dispose()
    assert check.status == "warn"
    assert check.detail.startswith("3 unfinished, 2 wait with their clean-up; the oldest, web-1/c1, for ")
    assert reason
    assert check.detail.endswith(f": {reason}")
    assert "clonejob show web-1/c1" in check.action


def test_the_way_to_kvm_can_be_copied(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor.os, "access", lambda *_: True)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(doctor, "_version", lambda _: "QEMU")
    detail = by_name(examine(load_settings(data_dir=tmp_path)))["target local"].detail
    assert """CLONEJOB_TARGETS='{"local":{"type":"qemu","accel":"auto"},"simulated":{"type":"simulated"}}'""" in detail


def test_a_vmhost_that_does_not_answer_is_named_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("CLONEJOB_TARGETS", '{"local": {"type": "qemu", "vmhost": true}}')
    (tmp_path / "targets" / "local").mkdir(parents=True)
    found = {check.name: check for check in examine(load_settings(data_dir=tmp_path)).checks}["target local"]
    assert found.status == "fail"
    assert found.detail.startswith("No vmhost answers in") and "start `clonejob vmhost`" in found.action
