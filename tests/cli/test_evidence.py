"""clonejob show --evidence and --screenshot; clonejob vm show and vm cycles on what boots."""

import hashlib
import json

import pytest

VM = "projects/clonejob/locations/global/sources/default/migratingVms/web-1"
JOB = f"{VM}/cloneJobs/c1"
PNG = b"\x89PNG\r\n\x1a\n..."


def evidence(**more):
    def kept(content, path):
        return {"path": path, "sha256": hashlib.sha256(content).hexdigest(), "sizeBytes": str(len(content))}

    path = f"/clonejob/v1/{JOB}/evidence"
    return {
        "name": JOB, "verdict": "BOOTED", "seconds": 4.25, "firstOutputSeconds": 0.5, "detail": "",
        "time": "2026-01-01T00:00:04Z", "requireBoot": False, "console": kept(b"console", f"{path}/console"),
        "screenshot": kept(PNG, f"{path}/screenshot"), "summary": {"sha256": "ab" * 32, "sizeBytes": "3"},
        "consoleEnd": "".join(f"line {n}\r\n" for n in range(40)) + "\x1b[2Jlogin: ", "missing": {}, **more,
    }  # fmt: skip


@pytest.fixture
def service(stub):
    stub.on("GET", f"/clonejob/v1/{JOB}/evidence", evidence())
    stub.on("GET", f"/clonejob/v1/{JOB}/evidence/screenshot", PNG)
    return stub


def test_show_evidence(clonejob, service):
    shown = clonejob("show", "web-1/c1", "--evidence", "--server", service.url)
    assert shown.code == 0
    head, _, console = shown.out.partition("\nConsole, its last lines\n")
    assert "\nboot      BOOTED\nseconds   0.5 s to the first output, 4.2 s to the boot\n" in head
    assert f"\nscreen    {service.url}/clonejob/v1/{JOB}/evidence/screenshot, {len(PNG)} bytes, SHA-256 " in head
    assert hashlib.sha256(PNG).hexdigest() in head and "evidence.json, 3 bytes" in head
    assert console.splitlines()[-1] == "  login: " and len(console.splitlines()) == 20
    assert "--screenshot FILE" in shown.err
    assert service.called() == [("GET", f"/clonejob/v1/{JOB}/evidence")]
    as_json = clonejob("show", "web-1/c1", "--evidence", "--json", "--server", service.url)
    assert json.loads(as_json.out) == evidence() and as_json.err == ""


def test_the_screen_is_saved_once_its_hash_is_right(clonejob, service, tmp_path):
    shown = clonejob("show", "web-1/c1", "--screenshot", "screen.png", "--server", service.url)
    assert shown.code == 0 and f"saved to screen.png, {len(PNG)} bytes" in shown.out and shown.err == ""
    assert (tmp_path / "screen.png").read_bytes() == PNG
    service.on("GET", f"/clonejob/v1/{JOB}/evidence/screenshot", PNG + b"x")
    refused = clonejob("show", "web-1/c1", "--screenshot", "other.png", "--server", service.url)
    assert refused.code == 1 and "nothing was saved" in refused.err
    assert [path.name for path in tmp_path.iterdir()] == ["screen.png"]


def test_a_screen_that_cannot_be_written(clonejob, service):
    nowhere = clonejob("show", "web-1/c1", "--screenshot", "no/folder.png", "--server", service.url)
    assert (nowhere.code, nowhere.out) == (1, "") and "no/folder.png cannot be written: No such file" in nowhere.err


def test_what_is_missing_says_why(clonejob, stub):
    found = evidence(screenshot=None, console=None, missing={"screenshot": "no screen here", "console": "disk full"})
    found |= {"verdict": "NO_BOOT", "seconds": None, "detail": "no \x1b[31mdisk", "requireBoot": True, "consoleEnd": ""}
    stub.on("GET", f"/clonejob/v1/{JOB}/evidence", found)
    shown = clonejob("show", "web-1/c1", "--evidence", "--server", stub.url)
    assert "NO_BOOT, which success required (no disk)" in shown.out and "Console" not in shown.out
    assert "\nconsole   none: disk full\nscreen    none: no screen here\n" in shown.out
    saved = clonejob("show", "web-1/c1", "--screenshot", "s.png", "--server", stub.url)
    assert saved.code == 1 and "has no screenshot: no screen here" in saved.err


def test_none_yet(clonejob, stub):
    shown = clonejob("show", "web-1/c1", "--evidence", "--server", stub.url)
    assert shown.code == 4 and "does not exist" in shown.err


@pytest.mark.parametrize("command", ["show", "cycles"])
def test_which_cycles_are_proven_to_boot(clonejob, stub, command):
    names = [f"{VM}/replicationCycles/cycle-{number}" for number in (3, 2, 1)]
    stub.on("GET", f"/v1/{VM}", {"name": VM, "state": "ACTIVE"})
    cycles = [{"name": name, "state": "SUCCEEDED"} for name in names]
    stub.on("GET", f"/v1/{VM}/replicationCycles", {"replicationCycles": cycles})
    proofs = [
        {
            "replicationCycle": cycle,
            "cloneJob": f"{VM}/cloneJobs/{job}",
            "verdict": verdict,
            "time": "2026-01-01T00:00:00Z",
        }
        for cycle, job, verdict in (
            (names[1], "c9", "NO_BOOT"),
            (names[1], "c8", "BOOTED"),
            (names[2], "c7", "UNKNOWN"),
        )
    ]
    stub.on("GET", f"/clonejob/v1/{VM}/bootProofs", {"bootProofs": proofs})
    shown = clonejob("vm", command, "web-1", "--server", stub.url)
    lines = {line.split()[0]: line for line in shown.out.splitlines() if line.startswith("cycle-")}
    assert lines["cycle-3"].endswith("not tried yet")
    assert "proven by web-1/c8" in lines["cycle-2"] and "UNKNOWN by web-1/c7" in lines["cycle-1"]
    assert json.loads(clonejob("vm", command, "web-1", "--json", "--server", stub.url).out)["bootProofs"] == proofs


@pytest.mark.parametrize("command", ["show", "cycles"])
def test_a_pruned_cycle_says_so(clonejob, stub, command):
    stub.on("GET", f"/v1/{VM}", {"name": VM, "state": "ACTIVE"})
    warning = {"warningMessage": {"locale": "en-US", "message": "Its snapshots were pruned."}}
    cycles = [{"name": f"{VM}/replicationCycles/cycle-2", "state": "SUCCEEDED"},
              {"name": f"{VM}/replicationCycles/cycle-1", "state": "SUCCEEDED", "warnings": [warning]}]  # fmt: skip
    stub.on("GET", f"/v1/{VM}/replicationCycles", {"replicationCycles": cycles})
    stub.on("GET", f"/clonejob/v1/{VM}/bootProofs", {})
    shown = clonejob("vm", command, "web-1", "--server", stub.url).out.splitlines()
    [newer], [older] = ([line for line in shown if line.startswith(name)] for name in ("cycle-2", "cycle-1"))
    assert newer.rstrip().endswith("not tried yet") and older.endswith("Its snapshots were pruned.")
