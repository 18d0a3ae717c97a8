"""What the commands of clone jobs send, print and return, against a stub of the service."""

from __future__ import annotations

import json

import pytest

from models.states import StepKind
from worker.cli.output import step_name, step_text

VM = "projects/clonejob/locations/global/sources/default/migratingVms/web-1"
JOB = f"{VM}/cloneJobs/c1"
OPERATION = "projects/clonejob/locations/global/operations/o1"
CYCLE = f"{VM}/replicationCycles/cycle-1"


def exists(code=409):
    info = {"reason": "RESOURCE_ALREADY_EXISTS", "metadata": {}}
    return code, {"error": {"code": code, "status": "ALREADY_EXISTS", "message": "exists", "details": [info]}}


def job(state, **more):
    return {"name": JOB, "state": state, "createTime": "2026-01-01T00:00:00.123456789Z", **more}


def test_submit_prints_the_name_and_sends_a_request_id(clonejob, stub):
    stub.on("POST", f"/v1/{VM}/cloneJobs", {"name": OPERATION, "metadata": {"target": JOB}, "done": True})
    stub.on("GET", f"/v1/{JOB}", job("PENDING"))
    result = clonejob("submit", "web-1", "--server", stub.url)
    assert (result.code, result.out) == (0, f"{JOB}\n")
    query = dict(part.split("=") for part in stub.calls[0].query.split("&"))
    assert query["cloneJobId"].startswith("clone-20")
    assert len(query["requestId"]) == 36
    assert json.loads(clonejob("submit", "web-1", "--json", "--server", stub.url).out) == job("PENDING")


@pytest.mark.parametrize(("state", "code"), [("SUCCEEDED", 0), ("FAILED", 1), ("CANCELLED", 1)])
def test_submit_waits_for_the_end(clonejob, stub, state, code):
    stub.on("POST", f"/v1/{VM}/cloneJobs", {"name": OPERATION, "done": True})
    stub.on("GET", f"/clonejob/v1/{JOB}/progress", {"steps": []})
    stub.on("GET", f"/v1/{JOB}", job("PENDING"), job("ACTIVE"), job(state, error={"message": "no memory"}))
    result = clonejob("submit", "web-1", "--id", "c1", "--wait", "--server", stub.url)
    assert (result.code, result.out) == (code, f"{JOB}\n")
    expected = f"error: web-1/c1 ended {state}: no memory; see `clonejob show web-1/c1`"
    last = "web-1/c1 SUCCEEDED" if code == 0 else expected
    assert result.err.splitlines() == ["web-1/c1 PENDING", "web-1/c1 ACTIVE", last]


@pytest.mark.parametrize(("state", "code"), [("SUCCEEDED", 0), ("FAILED", 1), ("CANCELLED", 0)])
def test_watch_prints_a_line_for_each_change(clonejob, stub, state, code):
    running = {"kind": "preparing_vm_disks", "startTime": "2026-01-01T00:00:00Z", "progress": {"detail": "disk 0"}}
    stub.on("GET", f"/clonejob/v1/{JOB}/progress", {"steps": [running]})
    stub.on("GET", f"/v1/{JOB}", job("ACTIVE"), job("ACTIVE"), job(state))
    result = clonejob("watch", "web-1/c1", "--server", stub.url)
    assert (result.code, result.out.splitlines()) == (
        code,
        ["web-1/c1 ACTIVE preparing vm disks: disk 0", f"web-1/c1 {state}"],
    )


def test_watch_in_json_prints_one_document_a_line(clonejob, stub):
    stub.on("GET", f"/clonejob/v1/{JOB}/progress", {"steps": []})
    stub.on("GET", f"/v1/{JOB}", job("ACTIVE"), job("SUCCEEDED"))
    result = clonejob("watch", "web-1/c1", "--json", "--server", stub.url)
    assert [json.loads(line)["cloneJob"]["state"] for line in result.out.splitlines()] == ["ACTIVE", "SUCCEEDED"]


def test_cancel_waits_for_the_operation_and_tells_what_for(clonejob, stub):
    stub.on("POST", f"/v1/{JOB}:cancel", {"name": OPERATION})
    running, done = {"name": OPERATION}, {"name": OPERATION, "done": True, "response": {}}
    stub.on("GET", f"/v1/{OPERATION}", running, running, done)
    detail = "disk web-1-disk0: the target does not answer"
    stub.on("GET", f"/clonejob/v1/{JOB}/progress", {}, {"cleanupDetail": detail})
    stub.on("GET", f"/v1/{JOB}", job("CANCELLED"))
    result = clonejob("cancel", "web-1/c1", "--wait", "--server", stub.url)
    assert (result.code, result.out, result.err) == (0, "web-1/c1 is CANCELLED\n", f"web-1/c1: {detail}\n")
    stub.on("GET", f"/v1/{OPERATION}", running, done)
    quiet = clonejob("cancel", "web-1/c1", "--wait", "--json", "--server", stub.url)
    assert (json.loads(quiet.out)["state"], quiet.err) == ("CANCELLED", "")


def test_cancel_takes_several_and_one_that_lost_stops_no_other(clonejob, stub):
    other = JOB.replace("web-1", "web-2")
    stub.on("POST", f"/v1/{JOB}:cancel", {"name": OPERATION, "done": True, "error": {"code": 9, "message": "too late"}})
    stub.on("POST", f"/v1/{other}:cancel", {"name": OPERATION})
    stub.on("GET", f"/v1/{OPERATION}", {"name": OPERATION, "done": True, "response": {}})
    stub.on("GET", f"/clonejob/v1/{other}/progress", {})
    stub.on("GET", f"/v1/{other}", job("CANCELLED") | {"name": other})
    result = clonejob("cancel", "web-1/c1", "web-2/c1", "--wait", "--server", stub.url)
    assert (result.code, result.out, result.err) == (5, "web-2/c1 is CANCELLED\n", "error: too late\n")


def test_a_cancel_that_lost_against_success_is_a_conflict(clonejob, stub):
    failed = {"name": OPERATION, "done": True, "error": {"code": 9, "message": "it has succeeded"}}
    stub.on("POST", f"/v1/{JOB}:cancel", failed)
    result = clonejob("cancel", "web-1/c1", "--server", stub.url)
    assert (result.code, result.err) == (5, "error: it has succeeded\n")


def test_show_prints_steps_ledger_and_events(clonejob, stub):
    steps = [{"preparingVmDisks": {}, "startTime": "2026-01-01T00:00:00Z", "endTime": "2026-01-01T00:00:02.500Z"}]
    row = {"kind": "disk", "name": "web-1-disk0", "role": "product", "state": "KEPT", "absentTime": None}
    stub.on("GET", f"/v1/{JOB}", job("SUCCEEDED", steps=steps, endTime="2026-01-01T00:00:03Z"))
    stub.on("GET", f"/clonejob/v1/{JOB}/progress", {"replicationCycle": CYCLE})
    stub.on("GET", f"/clonejob/v1/{JOB}/ledger", {"ledger": [row]})
    stub.on("GET", f"/clonejob/v1/{JOB}/events", {"events": [{"kind": "created", "message": "pinned"}]})
    result = clonejob("show", "web-1/c1", "--server", stub.url)
    assert result.code == 0
    for part in (JOB, "SUCCEEDED", f"{CYCLE} (pinned)", "preparing vm disks", "2.5 s", "web-1-disk0", "KEPT", "pinned"):
        assert part in result.out
    assert set(json.loads(clonejob("show", "web-1/c1", "--json", "--server", stub.url).out)) == {
        "cloneJob",
        "progress",
        "ledger",
        "events",
    }


@pytest.mark.parametrize(("count", "said"), [(0, False), (3, True)])
def test_show_tells_of_stale_writes_when_there_were_some(clonejob, stub, count, said):
    stub.on("GET", f"/v1/{JOB}", job("ACTIVE"))
    stub.on("GET", f"/clonejob/v1/{JOB}/progress", {"staleWrites": count})
    for part in ("ledger", "events"):
        stub.on("GET", f"/clonejob/v1/{JOB}/{part}", {part: []})
    shown = clonejob("show", "web-1/c1", "--server", stub.url).out
    assert ("refused   3 stale write(s) of workers that had lost the job" in shown) == said
    assert json.loads(clonejob("show", "web-1/c1", "--json", "--server", stub.url).out)["progress"] == {
        "staleWrites": count
    }


def test_every_page_calls_a_step_the_same(clonejob, stub):
    for kind in StepKind:
        assert step_text(kind) == kind.value.replace("_", " ")
        field = "".join(part.title() for part in kind.value.split("_"))
        assert step_name({field[0].lower() + field[1:]: {}}) == step_text(kind)
    assert step_name({"coolingDown": {}}) == "unknown step"


def test_list_reads_every_page(clonejob, stub):
    stub.on(
        "GET",
        f"/v1/{VM}/cloneJobs",
        {"cloneJobs": [job("ACTIVE")], "nextPageToken": "t"},
        {"cloneJobs": [job("FAILED")]},
    )
    result = clonejob("list", "web-1", "--server", stub.url)
    assert [line.split()[1] for line in result.out.splitlines()] == ["STATE", "ACTIVE", "FAILED"]


def test_list_can_be_narrowed(clonejob, stub):
    stub.on("GET", f"/v1/{VM}/cloneJobs", {"cloneJobs": [job(s) for s in ("ACTIVE", "FAILED", "FAILED", "SUCCEEDED")]})

    def states(*options):
        listed = clonejob("list", "web-1", "--json", *options, "--server", stub.url)
        return [each["state"] for each in json.loads(listed.out)]

    assert states("--state", "failed") == ["FAILED", "FAILED"]
    assert states("--limit", "2") == ["ACTIVE", "FAILED"]
    assert states("--state", "FAILED", "--limit", "1") == ["FAILED"]
    assert clonejob("list", "--state", "LOST", "--server", stub.url).code == 2


def test_a_repeated_request_id_is_the_same_job(clonejob, stub):
    stub.on("POST", f"/v1/{VM}/cloneJobs", {"name": OPERATION, "metadata": {"target": JOB}, "done": True})
    stub.on("GET", f"/v1/{JOB}", job("PENDING"))
    request_id = "6BA7B810-9dad-11d1-80b4-00c04fd430c8"
    for _ in range(2):
        assert clonejob("submit", "web-1", "--request-id", request_id, "--server", stub.url).code == 0
    queries = [call.query for call in stub.calls if call.method == "POST"]
    assert queries[0] == queries[1]
    assert f"cloneJobId=clone-{request_id.replace('-', '').lower()}" in queries[0]


def booted(verdict, **more):
    return {"target": "local", "steps": [{}, {"progress": {"boot": {"verdict": verdict, **more}}}]}


def cloned(**more):
    details = {"vmName": "web-1-abc", "project": "local", "zone": "local-a"}
    return job("SUCCEEDED", endTime="2026-01-01T00:00:04.323456789Z", computeEngineTargetDetails=details, **more)


def test_show_tells_what_was_done_to_the_guest(clonejob, stub):
    actions = [{"id": "hostname", "version": 1, "outcome": "applied", "reason": "old became \x1b[31mnew"},
               {"id": "virtio-drivers", "version": 2, "outcome": "unsupported", "reason": "packed with lz4"}]  # fmt: skip
    report = {"policy": "best_effort", "method": "m", "os": "Debian 12", "found": "", "actions": actions,
              "reused": True, "made_at": "2026-01-01T00:00:00Z"}  # fmt: skip
    stub.on("GET", f"/v1/{JOB}", job("SUCCEEDED"))
    stub.on("GET", f"/clonejob/v1/{JOB}/progress", {"steps": [{"progress": {"adaptation": report}}, {"progress": {}}]})
    stub.on("GET", f"/clonejob/v1/{JOB}/ledger", {})
    stub.on("GET", f"/clonejob/v1/{JOB}/events", {})
    shown = clonejob("show", "web-1/c1", "--server", stub.url).out
    assert "adapted   1 applied, 1 unsupported (Debian 12), result of 2026-01-01T00:00:00Z reused" in shown
    lines = [line.split() for line in shown.splitlines()]
    assert ["hostname", "1", "applied", "old", "became", "new"] in lines
    assert ["virtio-drivers", "2", "unsupported", "packed", "with", "lz4"] in lines


@pytest.mark.parametrize("verdict", ["BOOTED", "NO_BOOT", "UNKNOWN"])
@pytest.mark.parametrize("command", ["watch", "submit"])
def test_the_end_says_what_was_made_and_whether_it_boots(clonejob, stub, command, verdict):
    stub.on("POST", f"/v1/{VM}/cloneJobs", {"name": OPERATION, "done": True})
    stub.on("GET", f"/v1/{JOB}", cloned())
    stub.on("GET", f"/clonejob/v1/{JOB}/progress", booted(verdict))
    arguments = ["watch", "web-1/c1"] if command == "watch" else ["submit", "web-1", "--id", "c1", "--wait"]
    result = clonejob(*arguments, "--server", stub.url)
    assert result.code == 0
    lines = (result.out if command == "watch" else result.err).splitlines()
    assert lines[0] == f"web-1/c1 SUCCEEDED in 4.2 s: instance web-1-abc (local), boot {verdict}"
    warned = "warning: " in result.err and f"boot {verdict}" in result.err.splitlines()[-1]
    assert warned == (verdict != "BOOTED")
    assert clonejob(*arguments, "--json", "--server", stub.url).err == ""


@pytest.mark.parametrize(
    ("boot", "line"),
    [
        ({"verdict": "BOOTED", "seconds": 2.13, "console": "a\r\nlogin:\x1b[2J\r\n\r\n"}, "BOOTED after 2.1 s: login:"),
        ({"verdict": "NO_BOOT", "seconds": None, "console": "", "detail": "no disk"}, "NO_BOOT (no disk)"),
        ({"verdict": "UNKNOWN", "seconds": None, "console": "x"}, "UNKNOWN (nothing seen within boot_timeout_s): x"),
    ],
)
def test_show_tells_the_instance_and_how_it_booted(clonejob, stub, boot, line):
    stub.on("GET", f"/v1/{JOB}", job("SUCCEEDED"))
    stub.on("GET", f"/clonejob/v1/{JOB}/progress", booted(**boot))
    rows = [{"kind": "disk", "name": "d"}, {"kind": "instance", "name": "web-1-xyz"}]
    stub.on("GET", f"/clonejob/v1/{JOB}/ledger", {"ledger": rows})
    stub.on("GET", f"/clonejob/v1/{JOB}/events", {})
    shown = clonejob("show", "web-1/c1", "--server", stub.url)
    assert f"\nboot      {line}\n" in shown.out
    assert "\ninstance  web-1-xyz (hostname -)\n" in shown.out
    assert ("warning" in shown.err) == (boot["verdict"] != "BOOTED")


@pytest.mark.parametrize("command", ["watch", "submit", "show"])
def test_a_failed_adaptation_tells_how_to_do_without(clonejob, stub, command):
    code = {"code": "OS_ADAPTATION_ERROR"}
    failed = job("FAILED", error={"message": "no kernel", "details": [{"reason": "x"}, code]})
    stub.on("POST", f"/v1/{VM}/cloneJobs", {"name": OPERATION, "done": True})
    stub.on("GET", f"/v1/{JOB}", failed)
    for part in ("progress", "ledger", "events"):
        stub.on("GET", f"/clonejob/v1/{JOB}/{part}", {})
    arguments = [command, "web-1/c1"] if command != "submit" else ["submit", "web-1", "--id", "c1", "--wait"]
    result = clonejob(*arguments, "--server", stub.url)
    assert "hint: clonejob vm update web-1 --skip-os-adaptation\n" in result.err
