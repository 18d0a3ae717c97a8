"""REST below the official clients: query strings, bodies, paths, errors in Google's shape."""

from __future__ import annotations

import json
import time

import pytest

from models.states import JobState
from tasks.services import Request

LOCATION = "projects/p/locations/l"
JOBS = f"/v1/{LOCATION}/sources/src/migratingVms/vm/cloneJobs"


def error_of(response):
    """The error of a response, checked to be in Google's shape."""
    error = response.json()["error"]
    assert error["code"] == response.status_code
    assert error["details"][0]["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"
    assert error["details"][0]["domain"] == "clonejob"
    assert "Traceback" not in response.text
    return error


def reason_of(response):
    return error_of(response)["details"][0]["reason"]


def fields_of(response):
    return [v["field"] for d in error_of(response)["details"] for v in d.get("fieldViolations", [])]


def test_healthz(http):
    assert http.get("/healthz").json() == {"status": "ok"}


def test_enums_as_names_or_integers(http, vm):
    body = {"computeEngineTargetDefaults": {"diskType": 2}, "policy": {"skipOsAdaptation": True}}
    path = f"/v1/{LOCATION}/sources/src/migratingVms"
    assert http.post(f"{path}?migratingVmId=other&$alt=json;enum-encoding=int", json=body).status_code == 200
    by_name = http.get(f"{path}/other").json()
    by_number = http.get(f"{path}/other?%24alt=json%3Benum-encoding%3Dint&$prettyPrint=0").json()
    assert (by_name["state"], by_number["state"]) == ("READY", 2)
    assert by_name["computeEngineTargetDefaults"]["diskType"] == "COMPUTE_ENGINE_DISK_TYPE_SSD"
    assert by_number["computeEngineTargetDefaults"]["diskType"] == 2
    for view in ("2", "MIGRATING_VM_VIEW_FULL"):
        assert http.get(f"{path}/other?view={view}").status_code == 200
    for view in ("SIDEWAYS", "99", "-1"):
        assert fields_of(http.get(f"{path}/other?view={view}")) == ["view"]
        assert fields_of(http.get(f"{path}?view={view}")) == ["view"]


def test_query_names_in_both_cases_and_noise(http, vm):
    assert (
        http.post(f"{JOBS}?clone_job_id=job&requestId=&alt=json&prettyPrint=true&key=k&fields=name").status_code == 200
    )
    assert len(http.get(f"{JOBS}?page_size=1&pageToken=").json()["cloneJobs"]) == 1
    assert fields_of(http.get(f"{JOBS}?pageSize=many")) == ["page_size"]
    assert fields_of(http.get(f"{JOBS}?pageSize=99999999999999999999")) == ["page_size"]
    assert fields_of(http.get(f"{JOBS}?pageSize=1&page_size=2")) in (["page_size"], [])
    assert fields_of(http.get(f"{JOBS}?pageSize=1&pageSize=2")) == ["page_size"]
    assert fields_of(http.get(f"{JOBS}?nonsense=1")) == ["nonsense"]
    assert fields_of(http.get(f"{JOBS}?parent=other")) == ["parent"]
    assert fields_of(http.post(f"{JOBS}/job:cancel?name=other")) == ["name"]
    assert reason_of(http.get(f"{JOBS}?pageToken=%ff")) == "INVALID_ENCODING"


@pytest.mark.parametrize(("path", "field"), [
    ("sources/src", "source.name"), ("sources/src/migratingVms/vm", "migrating_vm.name"),
    ("targetProjects/t", "target_project.name"),
])  # fmt: skip
def test_the_body_of_an_update_cannot_name_another_resource(http, server, vm, path, field):
    server.fake.target_projects.create(LOCATION, "t", {"project": "local"}, Request())
    path, before = f"/v1/{LOCATION}/{path}", http.get(f"/v1/{LOCATION}/{path}").text
    for name in (path.removeprefix("/v1/") + "-2", "x"):
        response = http.patch(f"{path}?updateMask=description", json={"name": name, "description": "d"})
        assert (fields_of(response), response.status_code) == ([field], 400) and name in response.text
    assert http.get(path).text == before


def test_update_mask_in_both_cases(http, server, vm):
    for number, mask in enumerate(
        ("computeEngineTargetDefaults.vmName,labels", "compute_engine_target_defaults.vm_name,labels")
    ):
        body = {
            "name": vm,
            "labels": {"a": str(number)},
            "computeEngineTargetDefaults": {"vmName": f"v{number}"},
        }
        body["description"] = "not in the mask"
        assert http.patch(f"/v1/{vm}?updateMask={mask}", json=body).status_code == 200
        read = http.get(f"/v1/{vm}").json()
        assert read["labels"] == {"a": str(number)} and "description" not in read
        assert read["computeEngineTargetDefaults"] == {"vmName": f"v{number}"}


@pytest.mark.parametrize(
    ("body", "field", "reason"),
    [
        (b'{"nonsense": 1}', "clone_job.nonsense", "UNKNOWN_FIELD"),
        (b'{"computeEngineTargetDetails": {"vmName": 7}}', "clone_job.computeEngineTargetDetails.vmName", "INVALID_FIELD"),
        (b'{"computeEngineTargetDetails": {"x": 7}}', "clone_job.computeEngineTargetDetails.x", "UNKNOWN_FIELD"),
        (b'{"state": "SIDEWAYS"}', "clone_job.state", "INVALID_FIELD"),
        (b'{"a":', "clone_job", "INVALID_JSON"),
        (b"[]", "clone_job", "INVALID_FIELD"),
        (b"7", "clone_job", "INVALID_FIELD"),
        (b"\xff\xfe", "clone_job", "INVALID_JSON"),
        (b"[" * 100_000, "clone_job", "INVALID_JSON"),
        (b'{"name": "' + b"1" * 5000 + b'", "createTime": ' + b"1" * 5000 + b"}", "clone_job.createTime", "INVALID_FIELD"),
        (b'{"name": "\\ud800"}', "clone_job.name", "INVALID_FIELD"),
        (b"x" * (2 << 20), "body", "REQUEST_TOO_LARGE"),
    ],
)  # fmt: skip
def test_bad_bodies(http, server, vm, body, field, reason):
    response = http.post(f"{JOBS}?cloneJobId=job", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400 and error_of(response)["status"] == "INVALID_ARGUMENT"
    assert len(response.text) < 2000
    assert reason_of(response) in (reason, "INVALID_JSON")
    assert fields_of(response)[0].startswith(field.split(".")[0])
    if reason == "UNKNOWN_FIELD":
        assert fields_of(response) == [field]
    assert http.get(JOBS).json() == {}


def test_ten_megabytes_are_refused_and_the_answer_arrives(http, vm):
    assert reason_of(http.post(f"{JOBS}?cloneJobId=job", content=b"x" * (10 << 20))) == "REQUEST_TOO_LARGE"


def test_wrong_content_type(http, vm):
    response = http.post(
        f"{JOBS}?cloneJobId=job", content=b"a=b", headers={"Content-Type": "application/x-www-form-urlencoded"}
    )
    assert reason_of(response) == "UNSUPPORTED_CONTENT_TYPE"
    assert http.post(f"{JOBS}?cloneJobId=job").status_code == 200


@pytest.mark.parametrize(
    ("verb", "path", "status", "name"),
    [
        ("GET", "/", 404, "NOT_FOUND"),
        ("GET", "/v1/nonsense", 404, "NOT_FOUND"),
        ("GET", "/v1/" + "a" * 10_000, 404, "NOT_FOUND"),
        ("GET", f"{JOBS}/job:frobnicate", 404, "NOT_FOUND"),
        ("DELETE", f"{JOBS}/job", 405, "UNIMPLEMENTED"),
        ("PUT", JOBS, 405, "UNIMPLEMENTED"),
        ("OPTIONS", JOBS, 405, "UNIMPLEMENTED"),
        ("GET", f"/v1/{LOCATION}/groups", 501, "UNIMPLEMENTED"),
        ("DELETE", f"/v1/{LOCATION}/groups/g", 501, "UNIMPLEMENTED"),
        ("GET", "/v1/projects/p/locations/nowhere", 404, "NOT_FOUND"),
        ("POST", f"/v1/{LOCATION}/sources/src:pauseMigration", 404, "NOT_FOUND"),
        ("POST", f"/v1/{LOCATION}/sources/src/migratingVms/vm/cutoverJobs/x:cancel", 501, "UNIMPLEMENTED"),
        ("GET", f"{JOBS}/a%2Fb", 400, "INVALID_ARGUMENT"),
        ("GET", f"{JOBS}/%2e%2e", 400, "INVALID_ARGUMENT"),
        ("GET", f"{JOBS}/%ff", 400, "INVALID_ARGUMENT"),
        ("GET", f"{JOBS}/%0a", 400, "INVALID_ARGUMENT"),
        ("GET", f"/v1/{LOCATION}/targetProjects/t", 400, "INVALID_ARGUMENT"),
        ("GET", "/clonejob/v1/nonsense", 404, "NOT_FOUND"),
        ("DELETE", "/healthz", 405, "UNIMPLEMENTED"),
    ],
)
def test_paths(http, verb, path, status, name):
    response = http.request(verb, path)
    assert (response.status_code, error_of(response)["status"]) == (status, name)
    if status == 405:
        assert response.headers["allow"]


def test_wildcard_parents_are_for_lists(http, server, vm):
    assert http.get(f"/v1/{LOCATION}/sources/-/migratingVms").status_code == 200
    assert reason_of(http.get(f"/v1/{LOCATION}/sources/-")) == "INVALID_RESOURCE_NAME"
    assert reason_of(http.get("/v1/projects/-/locations/l/sources")) == "INVALID_RESOURCE_NAME"


def test_a_jobs_events_ledger_and_progress(http, server, vm):
    http.post(f"{JOBS}?cloneJobId=job")
    base = f"/clonejob/v1/{vm}/cloneJobs/job"
    event = {"id": "1", "time": "2026-11-23T12:00:00.123456Z", "epoch": 1, "kind": "created", "message": "created"}
    assert http.get(f"{base}/events").json() == {"events": [event]}
    (row,) = http.get(f"{base}/ledger").json()["ledger"]
    assert (row["name"], row["role"], row["state"], row["uid"]) == ("disk-0", "product", "CREATED", "u1")
    assert (row["createdTime"], row["absentTime"]) == ("2026-11-23T12:00:00.123456Z", None)
    server.fake.clone_jobs.get(f"{vm}/cloneJobs/job").state = JobState.CANCELLING
    progress = http.get(f"{base}/progress").json()
    assert (progress["state"], progress["verdict"], progress["cleanupDetail"]) == ("CANCELLING", None, "waits")
    assert progress["staleWrites"] == 0
    server.fake.clone_jobs.get(f"{vm}/cloneJobs/job").stale_writes = 3
    assert http.get(f"{base}/progress").json()["staleWrites"] == 3
    assert [(step["kind"], step["startTime"] is None) for step in progress["steps"]] == [
        ("adapting_os", False), ("preparing_vm_disks", False), ("instantiating_migrated_vm", True)]  # fmt: skip
    assert http.get(f"/clonejob/v1/{vm}/cloneJobs/none/events").status_code == 404


def test_cycle_calls_check_their_bodies(http, vm):
    path = f"/clonejob/v1/{vm}/replicationCycles"
    for body in ({"nonsense": 1}, {"adaptation": 7}, [], "x"):
        assert http.post(path, json=body).status_code == 400
    cycle = http.post(path, json={"adaptation": {"licenseType": "x"}}).json()
    assert (cycle["state"], cycle["cycleNumber"]) == ("RUNNING", 1)
    failed = http.post(f"/clonejob/v1/{cycle['name']}:abort", json={"message": "no"}).json()
    assert (failed["state"], failed["error"]["message"]) == ("FAILED", "no")
    assert reason_of(http.post(f"/clonejob/v1/{cycle['name']}:finish")) == "CYCLE_CLOSED"
    assert json.loads(http.post(f"/clonejob/v1/{vm}/replicationCycles").text)["cycleNumber"] == 2


def test_answers_do_not_wait_for_delayed_acknowledgements(http):
    started = time.monotonic()
    for _ in range(40):
        http.get("/healthz")
    assert time.monotonic() - started < 1  # 1.6 s with Nagle's algorithm
