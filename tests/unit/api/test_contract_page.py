"""The generated page, the table of reasons and the discovery document against the code."""

import ast
import importlib.resources
import json
import re
from pathlib import Path

from api import coverage, reasons
from api.discovery import EXPLAINED, differences
from api.methods import METHODS
from api.uncovered import UNCOVERED

ROOT = Path(__file__).parents[3]
# Error information is passed on in these places; the reasons themselves stand where they are made.
_PASSED_ON = {
    "reason", "code", "error.reason", "error.get('reason', 'UNKNOWN')", "f'CLONE_JOB_{job.state}'",
    "'INVALID_RESOURCE_NAME' if resource else 'REQUIRED_FIELD'",
}  # fmt: skip
_SPEAKING = ("api", "services", "models")
_LIKE_A_REASON = re.compile(r"[A-Z][A-Z0-9_]{2,62}")


def test_the_page_is_generated():
    assert (ROOT / "docs" / "contract.md").read_text() == coverage.document(), "run: make docs-generated"


def reasons_in_the_code():
    for package in ("api", "tasks", "models"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                values = []
                if isinstance(node, ast.keyword) and node.arg == "reason":
                    values = [node.value]
                elif isinstance(node, ast.Assign) and any(ast.unparse(each) == "reason" for each in node.targets):
                    values = [node.value]
                elif isinstance(node, ast.Dict):
                    pairs = zip(node.keys, node.values, strict=True)
                    values = [value for key, value in pairs if key is not None and ast.unparse(key) == "'reason'"]
                yield from ((path, value) for value in values)


def test_every_reason_in_the_code_is_in_the_table_and_none_else():
    found = {"CLONE_JOB_SUCCEEDED", "CLONE_JOB_FAILED", "REQUIRED_FIELD", "INVALID_RESOURCE_NAME"}
    found |= {"CLONE_ERROR", "OS_ADAPTATION_ERROR", "SOURCE_REPLICATION_ERROR", "UNKNOWN_ERROR"}
    for path, value in reasons_in_the_code():
        if isinstance(value, ast.Constant) and _LIKE_A_REASON.fullmatch(str(value.value)):
            found.add(value.value)
        elif not isinstance(value, ast.Constant) and path.name != "openapi_schemas.py" and path.parts[-2] in _SPEAKING:
            assert ast.unparse(value) in _PASSED_ON, f"{path}: {ast.unparse(value)}"
    assert found == set(reasons.REASONS)


def test_reasons_are_legal_and_told_in_words():
    from google.rpc import code_pb2

    for name, each in reasons.REASONS.items():
        assert _LIKE_A_REASON.fullmatch(name)
        assert all(code in code_pb2.Code.keys() for code in each.codes.split(", ")), name
        assert each.meaning.endswith(".") and each.action.endswith((".", "ACTIVE or PAUSED."))
        assert f'id="{name}"' in reasons.page()


def test_the_discovery_document_has_no_difference_that_is_not_explained():
    document = importlib.resources.files("googleapiclient.discovery_cache.documents") / "vmmigration.v1.json"
    assert differences(json.loads(document.read_text())) == sorted(EXPLAINED)


def test_a_difference_is_found():
    document = json.loads(
        (importlib.resources.files("googleapiclient.discovery_cache.documents") / "vmmigration.v1.json").read_text()
    )
    jobs = document["resources"]["projects"]["resources"]["locations"]["resources"]["sources"]["resources"]
    jobs = jobs["migratingVms"]["resources"]["cloneJobs"]["methods"]
    jobs["create"]["parameters"]["requestId2"] = {"location": "query"}
    jobs["get"]["flatPath"] += "s"
    document["schemas"]["CloneJob"]["properties"]["name"]["type"] = "integer"
    document["schemas"]["Source"]["properties"].pop("labels")
    found = set(differences(document)) - EXPLAINED.keys()
    jobs_path = "/v1/projects/*/locations/*/sources/*/migratingVms/*/cloneJobs/*"
    assert found == {
        "CreateCloneJob: query parameter requestId2 is only in the document", "CloneJob.name is integer in the document, "
        "string here", "Source.labels is only here", f"GET {jobs_path}s is only in the document", f"GET {jobs_path} is only here",
    }  # fmt: skip


def test_every_method_is_in_the_page_once():
    page = coverage.document().partition("## Where the contract is silent")[0]
    for method in (*METHODS, *UNCOVERED):
        assert page.count(f"\n| {method.rpc} |") == 1
