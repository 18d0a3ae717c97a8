"""``clonejob audit``: what it sends, says, and with which exit code it ends."""

from __future__ import annotations

import json

import pytest

from worker.cli import audit

PARENT = "projects/clonejob/locations/global"
JOB = f"{PARENT}/sources/default/migratingVms/web-1/cloneJobs/c1"
GOOD = {"name": "local", "good": True, "things": 2, "detail": ""}
DOWN = {"name": "lab", "good": False, "things": 0, "detail": "the target did not answer: throttled"}
EMPTY = {
    "time": "2026-01-01T00:00:00Z", "quarantineS": 60.0, "inventories": 3, "targets": [GOOD], "orphans": [],
    "deleted": [], "missing": [], "strangers": [], "cleanups": [], "elsewhere": 0,
}  # fmt: skip
ORPHAN = {
    "target": "local", "kind": "disk", "name": "web-1-0123456789-disk0", "uid": "u1", "status": "ready", "jobId": "j1",
    "jobName": JOB, "jobState": "CANCELLED", "why": "CLEANED_UP", "meaning": "a call that landed later made it",
    "firstSeen": "2026-01-01T00:00:00Z", "lastSeen": "2026-01-01T00:00:00Z", "goodInventories": 1, "deletable": True,
    "proven": False, "next": "kept until it is proven",
}  # fmt: skip
FOREIGN = ORPHAN | {
    "why": "JOB_UNKNOWN",
    "jobName": None,
    "jobState": None,
    "deletable": False,
    "next": "never deleted",
}


def on(stub, *answers, verb="audit"):
    stub.on("POST", f"/clonejob/v1/{PARENT}:{verb}", *answers)


def test_nothing_found(clonejob, stub):
    on(stub, EMPTY)
    result = clonejob("audit", "--server", stub.url)
    assert (result.code, result.err) == (0, "") and result.out.splitlines()[-1] == "no orphan was found"
    assert json.loads(stub.calls[0].body) == {"quarantineS": 60.0, "inventories": 3}
    assert json.loads(clonejob("audit", "--json", "--server", stub.url).out) == EMPTY


def test_orphans_are_exit_code_1_and_say_whose_they_are_and_what_comes_next(clonejob, stub):
    buried = f"deleted/20260101T000000Z-ab/{JOB}"
    on(stub, EMPTY | {"orphans": [ORPHAN, FOREIGN, ORPHAN | {"jobName": buried}], "elsewhere": 2})
    result = clonejob("audit", "--target", "local", "--quarantine", "10m", "--inventories", "5", "--server", stub.url)
    assert result.code == 1
    for part in ("ORPHANS (3)", "disk web-1-0123456789-disk0 on local, uid u1, ready", "job web-1/c1 CANCELLED",
                 "unknown job j1", "next: kept until it is proven", "1 good inventories", "2 more belong to other",
                 "web-1/c1 (of a deleted VM)"):  # fmt: skip
        assert part in result.out, result.out
    assert json.loads(stub.calls[0].body) == {"quarantineS": 600.0, "inventories": 5, "target": "local"}


def test_delete_is_another_call(clonejob, stub):
    on(stub, EMPTY | {"deleted": [ORPHAN]}, verb="deleteOrphans")
    result = clonejob("audit", "--delete", "--server", stub.url)
    assert result.code == 0 and "DELETED (1)" in result.out and "no orphan is left" in result.out


def test_a_target_that_does_not_answer_is_exit_code_1(clonejob, stub):
    on(stub, EMPTY | {"targets": [GOOD, DOWN]})
    result = clonejob("audit", "--server", stub.url)
    assert result.code == 1 and "target lab: this look does not count: the target did not answer" in result.out


def test_watch_goes_on_until_looking_longer_would_change_nothing(clonejob, stub, monkeypatch):
    pauses = []
    monkeypatch.setattr(audit.time, "sleep", pauses.append)
    on(stub, EMPTY | {"targets": [DOWN]}, EMPTY | {"orphans": [ORPHAN]},
       EMPTY | {"orphans": [ORPHAN | {"proven": True}]}, EMPTY | {"deleted": [ORPHAN], "orphans": [FOREIGN]},
       verb="deleteOrphans")  # fmt: skip
    result = clonejob("audit", "--delete", "--watch", "--json", "--quarantine", "30s", "--server", stub.url)
    assert result.code == 1 and len(stub.calls) == 4 and pauses == [15.0] * 3  # what is left is never deleted
    assert len(result.out.splitlines()) == 4 and all(json.loads(line) for line in result.out.splitlines())


def test_watching_without_deleting_ends_with_the_proof(clonejob, stub, monkeypatch):
    monkeypatch.setattr(audit.time, "sleep", lambda _: None)
    on(stub, EMPTY | {"orphans": [ORPHAN]}, EMPTY | {"orphans": [ORPHAN | {"proven": True}]})
    assert clonejob("audit", "--watch", "--server", stub.url).code == 1 and len(stub.calls) == 2


@pytest.mark.parametrize("wrong", ["", "soon", "-1", "1.5h", "8d", "99999999s", "60 s", "²s"])
def test_a_wrong_quarantine_is_one_line_and_exit_code_2(clonejob, stub, wrong):
    result = clonejob("audit", "--quarantine", wrong, "--server", stub.url)
    assert result.code == 2 and not stub.calls
    assert result.err.startswith("error: --quarantine") and result.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--inventories", "1"], ["--inventories", "x"], ["--nonsense"], ["extra"]])
def test_wrong_use_is_exit_code_2(clonejob, stub, arguments):
    assert clonejob("audit", *arguments, "--server", stub.url).code == 2 and not stub.calls


def test_a_target_that_is_not_configured_is_wrong_use(clonejob, stub):
    error = {
        "error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "target: 'x' is not configured", "details": []}
    }
    on(stub, (400, error))
    result = clonejob("audit", "--target", "x", "--server", stub.url)
    assert result.code == 2 and result.err == "error: target: 'x' is not configured\n"
