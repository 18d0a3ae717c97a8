"""GET JOB/evidence, its files, and VM/bootProofs, of the real services behind a real server."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest
from guarded import VM_P, info_of
from harness import VM

from tasks.runtime import BootPolicy

JOB = f"/clonejob/v1/{VM}/cloneJobs/clone-1"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_the_evidence_of_a_boot(live):
    job = live.world.create()
    waiting = live.http.get(f"{JOB}/evidence")
    assert waiting.status_code == 404 and "yet: the clone has not shown" in waiting.json()["error"]["message"]
    live.world.run()
    found = live.http.get(f"{JOB}/evidence").json()
    assert (found["name"], found["verdict"], found["seconds"], found["requireBoot"]) == (job.name, "BOOTED", 0.0, False)
    assert found["missing"] == {} and "BOOTED hostname=" in found["consoleEnd"]
    for part, kind in (("console", "text/plain; charset=utf-8"), ("screenshot", "image/png")):
        answer = live.http.get(f"{JOB}/evidence/{part}")
        assert answer.status_code == 200 and found[part]["path"] == f"{JOB}/evidence/{part}"
        assert answer.headers["content-type"] == kind and answer.headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in answer.headers["content-security-policy"]
        assert sha256(answer.content) == found[part]["sha256"] and len(answer.content) == int(found[part]["sizeBytes"])
        assert answer.headers["content-digest"] == (
            f"sha-256=:{base64.b64encode(hashlib.sha256(answer.content).digest()).decode()}:"
        )
    assert live.http.get(f"{JOB}/evidence?fields=verdict").json() == {"verdict": "BOOTED"}
    [proof] = live.http.get(f"/clonejob/v1/{VM}/bootProofs").json()["bootProofs"]
    assert proof["cloneJob"] == job.name and proof["replicationCycle"] == job.cycle and proof["verdict"] == "BOOTED"
    assert proof["screenshotSha256"] == found["screenshot"]["sha256"]


def test_the_contracts_own_messages_stay_as_they_were(live):
    live.world.create()
    live.world.run()
    for path in (f"{VM}/cloneJobs/clone-1", VM, f"{VM}/replicationCycles/cycle-1"):
        text = live.http.get(f"/v1/{path}").text
        assert "BOOTED" not in text and "evidence" not in text.lower()


def test_a_guest_that_had_to_boot_and_did_not(live):
    live.world.runtime.boot_policies["simulated"] = BootPolicy(required=True)
    live.world.target.add_fault(op="boot_report", fault="no_boot", times=None)
    live.world.run_to_end(live.world.create().id)
    failed = live.http.get(f"/v1/{VM}/cloneJobs/clone-1").json()
    assert failed["state"] == "FAILED" and "boot verdict NO_BOOT" in failed["error"]["message"]
    [detail] = [each for each in failed["error"]["details"] if each["@type"].endswith("MigrationError")]
    assert detail["code"] == "CLONE_ERROR" and "--evidence" in detail["actionItem"]["message"]
    assert detail["helpLinks"][0]["url"] == "/docs/errors#CLONE_ERROR"
    found = live.http.get(f"{JOB}/evidence").json()
    assert (found["verdict"], found["requireBoot"]) == ("NO_BOOT", True)
    assert live.http.get(f"{JOB}/evidence/console").content == b"No bootable device."
    explained = live.http.get(f"{JOB}:explain").json()
    assert "did not" in explained["failure"]["message"] and "--evidence" in explained["failure"]["action"]


def test_what_is_not_there_says_why(live):
    live.world.target.add_fault(op="screenshot", fault="refuse")
    job = live.world.create()
    live.world.run()
    found = live.http.get(f"{JOB}/evidence").json()
    assert found["screenshot"] is None and found["missing"] == {
        "screenshot": "screenshot was refused (scripted fault)."
    }
    answer = live.http.get(f"{JOB}/evidence/screenshot")
    assert answer.status_code == 404 and "scripted fault" in answer.json()["error"]["message"]
    console = live.world.runtime.evidence._root / job.id / "console.txt"
    console.write_text("something else")  # changed by hand
    answer = live.http.get(f"{JOB}/evidence/console")
    assert answer.status_code == 404 and "SHA-256 on record" in answer.json()["error"]["message"]
    console.unlink()
    assert live.http.get(f"{JOB}/evidence/console").status_code == 404
    for path in (f"{JOB}/evidence/other", f"{JOB}/evidence/console/..%2fevidence.json", f"{JOB}x/evidence"):
        assert live.http.get(path).status_code == 404
    assert live.http.get(f"/clonejob/v1/{VM}x/bootProofs").status_code == 404


def test_a_job_that_ended_before_its_clone_was_watched(live):
    job = live.world.create()
    live.world.services.clone_jobs.cancel(job.name)
    live.world.run_to_end(job.id)
    answer = live.http.get(f"{JOB}/evidence")
    assert answer.status_code == 404 and "ended CANCELLED before" in answer.json()["error"]["message"]


def test_what_a_worker_of_the_version_before_has_recorded(live):
    job = live.world.create()
    live.world.run()
    boot = {"verdict": "BOOTED", "seconds": None, "console": "login: ", "detail": ""}
    live.world.corrupt(
        "UPDATE clone_steps SET progress = :progress WHERE job_id = :id", id=job.id, progress=json.dumps({"boot": boot})
    )
    found = live.http.get(f"{JOB}/evidence").json()
    assert (found["verdict"], found["console"], found["time"]) == ("BOOTED", None, None)
    assert found["missing"]["console"] == "the worker that watched it kept none"


@pytest.mark.parametrize("path", ["cloneJobs/c1/evidence", "cloneJobs/c1/evidence/console", "bootProofs"])
def test_evidence_is_for_those_who_may_read_jobs(place, path):
    answer = place.rest("GET", f"/clonejob/v1/{VM_P}/{path}", place.token("other", "q", "admin"))
    assert answer.status_code == 403 and info_of(answer)["reason"] == "PERMISSION_DENIED"
    assert place.rest("GET", f"/clonejob/v1/{VM_P}/{path}", "").status_code == 401
