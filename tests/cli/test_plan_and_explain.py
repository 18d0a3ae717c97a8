"""``clonejob plan`` and ``clonejob explain``, and the upload of an import."""

from __future__ import annotations

import json

import pytest

VM = "projects/clonejob/locations/global/sources/default/migratingVms/web-1"
JOB = f"{VM}/cloneJobs/c1"
CYCLE = f"{VM}/replicationCycles/cycle-1"
PLAN = {
    "migratingVm": VM, "ready": True, "target": "local", "cloneMode": "full", "blockers": [],
    "replicationCycle": {
        "name": CYCLE, "cycleNumber": 7, "endTime": "2026-01-01T00:00:00Z",
        "snapshots": [{"diskNumber": 0, "format": "qcow2", "sha256": "ab" * 32, "virtualSizeBytes": str(3 << 30),
                       "storedSizeBytes": "2048"}],
    },
    "steps": [{"kind": "adapting_os", "reason": "not adapted yet"}],
    "resources": [{"kind": "disk", "name": "web-1-<hash>-disk0", "role": "product", "step": "preparing_vm_disks"}],
}  # fmt: skip
EXPLANATION = {
    "name": JOB, "state": "CANCELLING", "summary": "It was cancelled, and what it made is being removed: no.",
    "waitsFor": {"reason": "CLEANUP_WAITS", "message": "no", "since": "2026-01-01T00:00:00Z", "until": None,
                 "holder": None, "attempts": 2},
    "failure": None, "left": [{"kind": "disk", "name": "d0", "role": "product", "state": "DELETING"}],
    "cleaned": [{"kind": "instance", "name": "i0", "absentTime": "2026-01-01T00:00:00Z", "detail": "never created"}],
    "kept": [], "next": ["Mend it."],
}  # fmt: skip


def test_plan(clonejob, stub):
    stub.on("POST", f"/clonejob/v1/{VM}:planCloneJob", PLAN)
    result = clonejob("plan", "web-1", "--server", stub.url)
    assert result.code == 0
    for part in (
        "web-1: can be cloned",
        "cycle    7",
        "disks    clone mode full",
        "3 GiB",
        "2 KiB",
        "ab" * 32,
        "not adapted yet",
        "web-1-<hash>-disk0",
    ):
        assert part in result.out
    assert json.loads(clonejob("plan", "web-1", "--json", "--server", stub.url).out) == PLAN


def test_a_blocked_plan_says_what_to_do(clonejob, stub):
    blocker = {"reason": "CLONE_JOB_RUNNING", "subject": JOB, "message": "a clone is running", "action": "Wait for it."}
    blocked = PLAN | {"ready": False, "blockers": [blocker], "replicationCycle": None, "target": None}
    stub.on("POST", f"/clonejob/v1/{VM}:planCloneJob", blocked)
    result = clonejob("plan", "web-1", "--server", stub.url)
    assert result.code == 5
    for part in ("cannot be cloned now", "a clone is running (CLONE_JOB_RUNNING)", "Wait for it.", "cycle    -"):
        assert part in result.out


def test_explain(clonejob, stub):
    stub.on("GET", f"/clonejob/v1/{JOB}:explain", EXPLANATION)
    result = clonejob("explain", "web-1/c1", "--server", stub.url)
    assert result.code == 0
    for part in (
        "web-1/c1: It was cancelled",
        "CLEANUP_WAITS",
        "d0",
        "deleting",
        "seen absent",
        "never created",
        "Mend it.",
    ):
        assert part in result.out
    assert json.loads(clonejob("explain", "web-1/c1", "--json", "--server", stub.url).out) == EXPLANATION
    failure = {"code": "CLONE_ERROR", "message": "m", "action": "a", "step": None, "attempts": 3, "time": None}
    stub.on("GET", f"/clonejob/v1/{JOB}:explain", EXPLANATION | {"waitsFor": None, "failure": failure})
    assert (
        "in step finish, CLONE_ERROR, after 3 attempt(s)" in clonejob("explain", "web-1/c1", "--server", stub.url).out
    )


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "boot.img"
    path.write_bytes(b"\0" * 510 + b"\x55\xaa" + b"x" * 1000)
    return path


def upload(stub, disk, monkeypatch, chunk=1000):
    from worker.cli import upload as module
    from worker.cli.client import Client

    monkeypatch.setattr(module, "CHUNK_BYTES", chunk)
    monkeypatch.setattr(module, "_PAUSE_FIRST_S", 0.01)
    client = Client(stub.url)
    try:
        return module.upload(client, "/disk", disk, "raw", lambda _: None)
    finally:
        client._http.close()


def ranges(stub):
    return [call.headers["Content-Range"] for call in stub.calls if call.method == "PUT"]


def test_an_upload_in_chunks(stub, disk, monkeypatch):
    part = (308, {"complete": False, "receivedBytes": "1000"})
    stub.on("PUT", "/disk", part, {"complete": True, "sha256": "x"})
    assert upload(stub, disk, monkeypatch)["sha256"] == "x"
    assert ranges(stub) == ["bytes 0-999/1512", "bytes 1000-1511/1512"]
    assert b"".join(call.body for call in stub.calls) == disk.read_bytes()


def test_an_upload_asks_where_to_go_on(stub, disk, monkeypatch):
    unavailable = (503, {"error": {"status": "UNAVAILABLE", "message": "try again"}})
    busy = {"error": {"status": "ABORTED", "message": "busy", "details": [{"reason": "UPLOAD_RUNNING"}]}}
    stub.on("PUT", "/disk", unavailable, (409, busy), {"complete": True})
    stub.on("GET", "/disk", {"complete": False, "receivedBytes": "700"})
    upload(stub, disk, monkeypatch, chunk=1 << 20)
    assert ranges(stub) == ["bytes 0-1511/1512", "bytes 700-1511/1512", "bytes 700-1511/1512"]


def test_a_lost_last_answer_is_asked_for(stub, disk, monkeypatch):
    unavailable = (503, {"error": {"status": "UNAVAILABLE", "message": "try again"}})
    stub.on("PUT", "/disk", unavailable, {"complete": True, "sha256": "x"})
    stub.on("GET", "/disk", {"complete": True, "receivedBytes": "1512"})
    assert upload(stub, disk, monkeypatch, chunk=1 << 20)["sha256"] == "x"
    assert ranges(stub) == ["bytes 0-1511/1512", "bytes */1512"]


def test_an_upload_that_is_refused_is_not_repeated(stub, disk, monkeypatch):
    from worker.cli.errors import CliError

    wrong = {"error": {"status": "INVALID_ARGUMENT", "message": "no", "details": [{"reason": "IMAGE_REFUSED"}]}}
    stub.on("PUT", "/disk", (400, wrong))
    with pytest.raises(CliError, match="no"):
        upload(stub, disk, monkeypatch)
    assert len(stub.calls) == 1


def test_an_upload_gives_up_at_last(stub, disk, monkeypatch):
    from worker.cli import upload as module
    from worker.cli.errors import CliError

    monkeypatch.setattr(module, "PATIENCE_S", 0.1)
    stub.on("PUT", "/disk", (503, {"error": {"status": "UNAVAILABLE", "message": "never"}}))
    with pytest.raises(CliError, match="never"):
        upload(stub, disk, monkeypatch)
