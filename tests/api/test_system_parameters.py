"""``fields`` and ``alt`` over REST: partial responses as Google's clients ask for them, and JSON, nothing else."""

from __future__ import annotations

import pytest
from google.cloud import vmmigration_v1 as v1
from harness import VM

from api.system_parameters import read_form
from tasks.errors import InvalidArgument

LOCATION = "projects/p/locations/l"
JOBS = f"/v1/{LOCATION}/sources/src/migratingVms/vm/cloneJobs"
MIGRATING_VM = v1.MigratingVm.pb().DESCRIPTOR


def violation(response):
    assert response.status_code == 400, response.text
    details = {each["@type"].rpartition(".")[2]: each for each in response.json()["error"]["details"]}
    (found,) = details["BadRequest"]["fieldViolations"]
    return found["field"], found["description"]


def selected(fields, answer):
    return read_form([("fields", fields)], None).shape(answer)


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ("a", {"a": 1}),
        ("a,d", {"a": 1, "d": "x"}),
        ("b", {"b": [{"c": 1, "d": {"e": 2, "f": 3}}, {"c": 4}]}),
        ("b(c)", {"b": [{"c": 1}, {"c": 4}]}),
        ("b/c", {"b": [{"c": 1}, {"c": 4}]}),
        ("b/d/e", {"b": [{"d": {"e": 2}}, {}]}),
        ("b(c,d/f),a", {"a": 1, "b": [{"c": 1, "d": {"f": 3}}, {"c": 4}]}),
        ("b/d(e,f)", {"b": [{"d": {"e": 2, "f": 3}}, {}]}),
        ("b/c,b/d/e", {"b": [{"c": 1, "d": {"e": 2}}, {"c": 4}]}),
        ("b/c,b", {"b": [{"c": 1, "d": {"e": 2, "f": 3}}, {"c": 4}]}),
        ("*", {"a": 1, "b": [{"c": 1, "d": {"e": 2, "f": 3}}, {"c": 4}], "d": "x"}),
        ("*/c", {"b": [{"c": 1}, {"c": 4}]}),
        ("b(*/e,c)", {"b": [{"c": 1, "d": {"e": 2}}, {"c": 4}]}),
        ("d/e", {}),
        ("z", {}),
    ],
)
def test_what_a_selector_keeps(fields, kept):
    assert selected(fields, {"a": 1, "b": [{"c": 1, "d": {"e": 2, "f": 3}}, {"c": 4}], "d": "x"}) == kept


def test_several_selectors_add_up_and_an_empty_one_is_none():
    assert read_form([("fields", "a"), ("$fields", "b")], None).shape({"a": 1, "b": 2, "c": 3}) == {"a": 1, "b": 2}
    assert read_form([("fields", "")], None).shape({"a": 1}) == {"a": 1}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ("a(", "is missing at its end"),
        ("name(", "is missing at its end"),
        ("name,", "is missing at its end"),
        (",name", "is missing before ','"),
        ("name)", "')' is not expected"),
        ("policy(idleDuration", "closing parenthesis"),
        ("policy()", "is missing before ')'"),
        ("policy(idleDuration)name", "'name' is not expected"),
        ("policy//x", "is missing before '/'"),
        ("name display", "only names"),
        ("näme", "only names"),
        ("name\0", "only names"),
        ("/".join("a" * 21), "nested more than 20 deep"),
        ("a(" * 5000, "nested more than 20 deep"),
        ("nonsense", "MigratingVm has no field 'nonsense'"),
        ("policy/nonsense", "SchedulePolicy has no field 'policy/nonsense'"),
        ("recentCloneJobs(name,nonsense)", "CloneJob has no field 'recentCloneJobs/nonsense'"),
        ("name/x", "'name' is a plain value"),
        ("createTime/seconds", "'createTime' is a plain value"),
        ("labels/env/x", "'labels/env' is a plain value"),
    ],
)
def test_a_selector_that_is_refused(fields, says):
    with pytest.raises(InvalidArgument) as caught:
        read_form([("fields", fields)], MIGRATING_VM)
    assert caught.value.field == "fields" and says in caught.value.description


def test_names_in_both_cases_maps_and_anything():
    form = read_form([("fields", "display_name,labels/env,error/details/reason,*/nonsense")], MIGRATING_VM)
    answer = {"displayName": "d", "name": "n", "labels": {"env": "prod", "b": "c"},
              "error": {"code": 2, "details": [{"@type": "t", "reason": "R"}]}}  # fmt: skip
    assert form.shape(answer) == {
        "displayName": "d", "labels": {"env": "prod"}, "error": {"details": [{"reason": "R"}]}}  # fmt: skip


def test_partial_answers_of_the_contract(http, vm):
    created = http.post(f"{JOBS}?cloneJobId=job&fields=name,metadata(target,verb),response/state").json()
    assert created.keys() == {"name", "metadata", "response"}
    assert created["metadata"] == {"target": f"{vm}/cloneJobs/job", "verb": "create"}
    assert created["response"] == {"state": "ACTIVE"}
    assert http.get(f"{JOBS}?$fields=cloneJobs(state,steps/adaptingOs)&$alt=json;enum-encoding=int").json() == {
        "cloneJobs": [{"state": 2, "steps": [{"adaptingOs": {}}, {}]}]}  # fmt: skip
    assert http.get(f"{JOBS}?fields=nextPageToken").json() == {}


def test_a_refused_selector_has_done_nothing(http, vm):
    assert violation(http.post(f"{JOBS}?cloneJobId=job&fields=nonsense"))[0] == "fields"
    assert http.get(f"/v1/{vm}/cloneJobs/job?fields=nonsense/x(").status_code == 400
    assert http.get(JOBS).json() == {}
    error = http.get(f"/v1/{vm}/cloneJobs/job?fields=state").json()["error"]  # errors are shown whole
    assert error["status"] == "NOT_FOUND" and error["details"]


def test_partial_answers_of_our_own_calls(live):
    job = live.world.create().name
    base = f"/clonejob/v1/{job}"
    assert live.http.get(f"{base}/ledger?fields=ledger(role)").json() == {"ledger": [{"role": "scaffold"}] + 2 * [
        {"role": "product"}]}  # fmt: skip
    assert live.http.get(f"{base}:explain?fields=(").status_code == 400
    cycle = live.http.post(f"/clonejob/v1/{VM}/replicationCycles?fields=name").json()
    assert cycle.keys() == {"name"}
    disk = f"/clonejob/v1/{cycle['name']}/disks/0?format=raw"
    assert violation(live.http.put(f"{disk}&fields=a(", content=b"\0" * 512))[0] == "fields"
    assert live.http.get(disk).status_code == 404
    answer = live.http.put(f"{disk}&fields=complete", content=b"\0" * 512)
    assert (answer.json(), answer.headers["upload-offset"]) == ({"complete": True}, "512")
    assert live.http.get(f"{disk}&fields=receivedBytes").json() == {"receivedBytes": "512"}


def test_json_is_what_is_served(http, vm):
    for legal in ("alt=json", "alt=", "alt=JSON", "$alt=json", "alt=json;enum-encoding=string"):
        assert http.get(f"/v1/{vm}?{legal}").json()["state"] == "READY"
    for legal in (
        "$alt=json;enum-encoding=int",
        "%24alt=json%3Benum-encoding%3Dint",
        "alt=json&$alt=json;enum-encoding=int",
    ):
        assert http.get(f"/v1/{vm}?{legal}").json()["state"] == 2
    for wrong in ("alt=media", "alt=proto", "$alt=sse", "alt=json;enum-encoding=roman", "alt=json&alt=media"):
        field, says = violation(http.post(f"{JOBS}?cloneJobId=job&{wrong}"))
        assert field == wrong.rpartition("&")[2].partition("=")[0] and "alt=json;enum-encoding=int" in says
    assert http.get(JOBS).json() == {}
    assert http.get(f"/clonejob/v1/{vm}/cloneJobs/job/events?alt=media").status_code == 400


@pytest.mark.parametrize("path", ["/healthz", "/openapi.json", "/docs", "/docs/", "/docs/errors", "/docs/start.js",
                                  "/docs/swagger-ui.css"])  # fmt: skip
def test_pages_are_served_to_head_as_to_get(http, path):
    head, whole = http.head(path), http.get(path)
    assert head.status_code == whole.status_code in (200, 308) and head.content == b""
    same = ("content-length", "content-type", "cache-control", "location")
    assert [head.headers.get(name) for name in same] == [whole.headers.get(name) for name in same]
    assert http.delete(path).headers["allow"] == "GET, HEAD"
    assert http.head(JOBS).status_code == 405
