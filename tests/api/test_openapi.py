"""The OpenAPI document, the page that shows it, and a fuzz of the service by it."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from harness import VM
from hypothesis import HealthCheck, given, settings
from openapi_spec_validator import OpenAPIV31SpecValidator

from api.additions import ADDITIONS, EVIDENCE, UPLOADS
from api.methods import METHODS
from api.openapi import document, template


@pytest.fixture(scope="module")
def openapi():
    return document()


def test_it_is_valid(openapi):
    assert openapi["openapi"] == "3.1.0"
    assert list(OpenAPIV31SpecValidator(openapi).iter_errors()) == []


def test_it_has_every_route_and_no_other(openapi):
    served = {(each.verb, template(each.path)) for each in (*METHODS, *ADDITIONS, *EVIDENCE, *UPLOADS) if each.verb}
    said = {(verb.upper(), path) for path, item in openapi["paths"].items() for verb in item if verb != "parameters"}
    assert said == served | {("GET", "/healthz")}
    ids = [item[verb]["operationId"] for item in openapi["paths"].values() for verb in item if verb != "parameters"]
    assert len(ids) == len(set(ids))
    for path, item in openapi["paths"].items():
        assert re.findall(r"\{(\w+)\}", path) == [each["name"] for each in item.get("parameters", [])], path


def test_messages_are_those_of_the_contract(openapi):
    schemas = openapi["components"]["schemas"]
    job = schemas["CloneJob"]["properties"]
    assert job["createTime"] == {"type": "string", "format": "date-time"}
    assert "SUCCEEDED" in job["state"]["enum"]
    assert job["steps"] == {"type": "array", "items": {"$ref": "#/components/schemas/CloneStep"}}
    details = schemas["ComputeEngineTargetDetails"]["properties"]
    assert details["labels"] == {"type": "object", "additionalProperties": {"type": "string"}}
    create = openapi["paths"][template("/v1/{parent=projects/*/locations/*/sources/*/migratingVms/*}/cloneJobs")][
        "post"
    ]
    assert [(each["name"], each["required"]) for each in create["parameters"]] == [
        ("cloneJobId", True),
        ("requestId", False),
    ]
    assert schemas["ReplicatingStep"]["properties"]["totalBytes"]["type"] == "string"


def test_our_answers_are_as_described(live, openapi):
    import jsonschema

    live.world.create()
    live.world.run()
    job = f"{VM}/cloneJobs/clone-1"
    calls = [("GET", f"{job}/events", "Events"), ("GET", f"{job}/ledger", "Ledger"), ("GET", f"{job}/progress", "Progress"),
             ("GET", f"{job}:explain", "Explanation"), ("POST", f"{VM}:planCloneJob", "Plan"),
             ("GET", f"{job}/evidence", "Evidence"), ("GET", f"{VM}/bootProofs", "BootProofs")]  # fmt: skip
    for verb, path, name in calls:
        answer = live.http.request(verb, f"/clonejob/v1/{path}")
        assert answer.status_code == 200
        schema = openapi["components"]["schemas"][f"clonejob.{name}"] | {"components": openapi["components"]}
        jsonschema.Draft202012Validator(schema).validate(answer.json())


def test_the_document_is_served(http, openapi):
    response = http.get("/openapi.json")
    assert response.json() == openapi and response.headers["content-type"] == "application/json"


def test_the_page_needs_nothing_from_elsewhere(http):
    assert http.get("/docs").headers["location"] == "/docs/"
    page = http.get("/docs/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert "<script>" not in page.text and "style=" not in page.text and "//" not in page.text.replace("<!doctype", "")
    for name in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        answer = http.get(f"/docs/{name}")
        assert answer.status_code == 200 and answer.headers["x-content-type-options"] == "nosniff", name
    assert http.get("/docs/swagger-ui.css").headers["content-type"].startswith("text/css")
    assert http.get("/docs/../openapi.py").status_code == 404


def test_fuzz_by_the_document(live, openapi):
    """schemathesis against the real services: whatever it sends, no 5xx, no hang, answers as described."""
    import schemathesis
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

    live.world.create()
    checks = [not_a_server_error, response_schema_conformance, content_type_conformance]
    schema = schemathesis.openapi.from_dict(openapi)
    schema.config.update(base_url=live.url)
    statuses = Counter()

    def fuzz(case):
        response = case.call_and_validate(checks=checks, timeout=10)
        statuses[response.status_code] += 1

    bounded = settings(max_examples=8, deadline=None, database=None, derandomize=True,
                       suppress_health_check=list(HealthCheck))  # fmt: skip
    for operation in schema.get_all_operations():
        bounded(given(case=operation.ok().as_strategy())(fuzz))()
    assert statuses.total() > 100 and statuses[200] and statuses[404] and statuses[400], statuses
