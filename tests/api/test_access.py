"""Who may do what, over both front ends: credentials, roles, and that nothing of another project shows."""

from __future__ import annotations

import re
import time

import grpc
import httpx
import pytest
from google.api_core import exceptions as gexc
from google.cloud import vmmigration_v1 as v1
from google.cloud.vmmigration_v1.services.vm_migration import transports
from google.longrunning import operations_pb2 as lro
from guarded import P, Q, VM_P, VM_Q, info_of, refusal

from api.auth.cache import CACHE_SECONDS
from api.auth.permissions import resource_field
from api.methods import METHODS
from models.schema import Operation


@pytest.mark.parametrize(
    ("header", "challenge", "reason"),
    [
        (None, 'Bearer realm="clonejob"', "CREDENTIALS_MISSING"),
        ("Bearer cj_wrong", 'Bearer realm="clonejob", error="invalid_token"', "CREDENTIALS_INVALID"),
        ("Basic dTpw", 'Bearer realm="clonejob", error="invalid_token"', "CREDENTIALS_INVALID"),
        ("Bearer", 'Bearer realm="clonejob", error="invalid_token"', "CREDENTIALS_INVALID"),
        ("Bearer a b", 'Bearer realm="clonejob", error="invalid_token"', "CREDENTIALS_INVALID"),
        ("Bearer ey.ey.x", 'Bearer realm="clonejob", error="invalid_token"', "CREDENTIALS_INVALID"),
    ],
)
def test_without_credentials_there_is_401_with_a_challenge(place, header, challenge, reason):
    headers = {"Authorization": header} if header else {}
    for verb, path in [("GET", f"/v1/{VM_P}"), ("GET", f"/v1/{P}/sources/none"), ("DELETE", f"/v1/{P}/groups/g"),
                       ("PUT", f"/clonejob/v1/{VM_P}/replicationCycles/c/disks/0?format=raw"),
                       ("GET", f"/clonejob/v1/{VM_P}/cloneJobs/c1/events")]:  # fmt: skip
        answer = place.rest(verb, path, headers=headers)
        assert answer.status_code == 401, (verb, path)
        assert answer.headers["WWW-Authenticate"] == challenge
        assert (answer.json()["error"]["status"], info_of(answer)["reason"]) == ("UNAUTHENTICATED", reason)
    assert place.rest("GET", "/healthz").status_code == 200


def test_two_headers_are_one_too_many(place):
    secret = place.token("ci", "p", "viewer")
    answer = httpx.get(f"{place.running.url}/v1/{VM_P}", headers=[("Authorization", f"Bearer {secret}")] * 2)
    assert answer.status_code == 401
    assert place.rest("GET", f"/v1/{VM_P}", headers={"authorization": f"bearer {secret}"}).status_code == 200
    assert place.rest("GET", f"/v1/{VM_P}?access_token={secret}").status_code == 401


def test_over_grpc_it_is_unauthenticated(place):
    code, _, info = refusal(lambda: place.grpc("GetMigratingVm", v1.GetMigratingVmRequest.pb()(name=VM_P)))
    assert (code, info.reason, info.domain) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_MISSING", "clonejob")
    code, _, info = refusal(lambda: place.grpc("GetMigratingVm", v1.GetMigratingVmRequest.pb()(name=VM_P), "cj_no"))
    assert (code, info.reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID")
    code, _, info = refusal(lambda: place.grpc("CreateGroup", v1.CreateGroupRequest.pb()(parent=P)))
    assert code == grpc.StatusCode.UNAUTHENTICATED


def test_the_official_client_sends_its_token(place):
    secret = place.token("ci", "p", "cloner")
    channel = grpc.insecure_channel(f"127.0.0.1:{place.running.grpc_port}")
    client = v1.VmMigrationClient(transport=transports.VmMigrationGrpcTransport(channel=channel))
    with client:
        sent = {"metadata": [("authorization", f"Bearer {secret}")]}
        assert client.get_migrating_vm(name=VM_P, **sent).name == VM_P
        with pytest.raises(gexc.PermissionDenied) as caught:
            client.get_migrating_vm(name=VM_Q, **sent)
        assert (caught.value.reason, caught.value.metadata["resource"]) == ("PERMISSION_DENIED", VM_Q)
        with pytest.raises(gexc.Unauthenticated):
            client.get_migrating_vm(name=VM_P)


def test_roles(place):
    viewer, cloner = place.token("viewer", "p", "viewer"), place.token("cloner", "p", "cloner")
    editor, none = place.token("editor", "p", "editor"), place.token("none")
    job = f"/v1/{VM_P}/cloneJobs/c1"
    begin = f"/clonejob/v1/{VM_P}/replicationCycles"
    expected = {
        ("GET", f"/v1/{VM_P}"): (403, 200, 200, 200),
        ("GET", f"/v1/{P}/sources"): (403, 200, 200, 200),
        ("GET", f"/clonejob/v1/{VM_P}/cloneJobs/c1/events"): (403, 200, 200, 200),
        ("POST", f"{job}:cancel"): (403, 403, 200, 200),
        ("POST", f"/v1/{P}/sources?sourceId=s2"): (403, 403, 403, 200),
        ("POST", begin): (403, 403, 403, 200),
    }
    for (verb, path), codes in expected.items():
        found = tuple(place.rest(verb, path, secret).status_code for secret in (none, viewer, cloner, editor))
        assert found == codes, (verb, path)


@pytest.mark.parametrize("thing", ["vm", "no-such-vm"])
def test_a_refusal_is_the_same_whether_or_not_it_exists(place, thing):
    secret = place.token("ci", "p", "editor")
    name = f"{Q}/sources/s/migratingVms/{thing}"
    answer = place.rest("GET", f"/v1/{name}", secret)
    assert answer.status_code == 403
    message = f"Permission 'vmmigration.migratingVms.get' denied on resource '{name}' (or it might not exist)."
    assert answer.json()["error"]["message"] == message
    assert info_of(answer)["metadata"] == {"permission": "vmmigration.migratingVms.get", "resource": name}
    code, said, info = refusal(lambda: place.grpc("GetMigratingVm", v1.GetMigratingVmRequest.pb()(name=name), secret))
    assert (code, said, info.reason) == (grpc.StatusCode.PERMISSION_DENIED, message, "PERMISSION_DENIED")
    assert len(answer.json()["error"]["details"]) == 1  # no ResourceInfo, nothing that was looked up


def test_every_method_refuses_another_project_before_it_looks(place):
    """Both front ends, every method of the table; the fake services are broken, so that any look would show."""
    secret = place.token("ci", "p", "admin")
    place.fake.must_get = place.fake.page = place.fake.insert = _must_not_be_called
    for method in METHODS:
        request = method.request()
        *heads, last = resource_field(method).split(".")
        target = request
        for part in heads:
            target = getattr(target, part)
        setattr(target, last, f"{VM_Q}/cloneJobs/c1")  # whatever the shape: the project alone decides
        code, said, info = refusal(lambda m=method, r=request: place.grpc(m.rpc, r, secret, m.service))
        assert (code, info.metadata["permission"]) == (grpc.StatusCode.PERMISSION_DENIED, method.permission), method.rpc
        if method.verb:
            path = _concrete(method.path)
            answer = place.rest(method.verb, path, secret, content=b"this is no JSON")
            assert answer.status_code == 403, (method.rpc, answer.text)
            assert info_of(answer)["metadata"]["permission"] == method.permission


def _must_not_be_called(*_):
    raise AssertionError("looked before it asked for permission")


def _concrete(template):
    """``/v1/{name=projects/*/…}:cancel`` with ids of project q."""

    def fill(match):
        parts = match[1].split("=", 1)[-1].split("/")
        return "/".join("q" if (p == "*" and i == 1) else "x" if p == "*" else p for i, p in enumerate(parts))

    return re.sub(r"\{([^}]+)\}", fill, template)


def test_lists_wildcards_and_operations_stay_in_their_project(place):
    secret = place.token("ci", "p", "editor")
    operation_q = next(name for name in place.fake.table(Operation) if name.startswith("projects/q/"))
    for path in (f"/v1/{Q}/sources", "/v1/projects/q/locations/-/sources", f"/v1/{Q}/sources/-/migratingVms",
                 f"/v1/{Q}/operations", f"/v1/{operation_q}", f"/v1/{VM_Q}/cloneJobs?pageToken=x&pageSize=1"):  # fmt: skip
        answer = place.rest("GET", path, secret)
        assert answer.status_code == 403, path
    for path in ("/v1/projects/-/locations/global/sources", "/v1/projects/-/locations/-/sources",
                 "/v1/projects/p%2Flocations%2Fglobal/locations/global/sources", "/v1/projects/P/locations/global/sources",
                 "/v1/projects/../locations/global/sources", "/v1/projects/%00/locations/global/sources"):  # fmt: skip
        answer = place.rest("GET", path, secret)
        assert answer.status_code in (400, 403, 404), path
        assert "projects/q" not in answer.text
    mine = place.rest("GET", f"/v1/{P}/operations", secret)
    assert mine.status_code == 200 and "projects/q" not in mine.text
    assert place.rest("DELETE", f"/v1/{operation_q}", secret).status_code == 403
    assert operation_q in place.fake.table(Operation)
    wait = lro.WaitOperationRequest(name=operation_q)
    code, *_ = refusal(lambda: place.grpc("WaitOperation", wait, secret, "google.longrunning.Operations"))
    assert code == grpc.StatusCode.PERMISSION_DENIED


def test_a_body_may_refer_only_to_targets_that_may_be_used(place):
    secret = place.token("ci", "p", "editor")
    create = f"/v1/{P}/sources/s/migratingVms?migratingVmId=vm2"
    body = {"computeEngineTargetDefaults": {"targetProject": f"{Q}/targetProjects/t"}}
    answer = place.rest("POST", create, secret, json=body)
    assert answer.status_code == 403
    assert info_of(answer)["metadata"] == {
        "permission": "clonejob.targetProjects.use",
        "resource": f"{Q}/targetProjects/t",
    }
    vm = v1.MigratingVm.pb()(compute_engine_target_defaults={"target_project": f"{Q}/targetProjects/t"})
    request = v1.CreateMigratingVmRequest.pb()(parent=f"{P}/sources/s", migrating_vm_id="vm2", migrating_vm=vm)
    code, _, info = refusal(lambda: place.grpc("CreateMigratingVm", request, secret))
    assert (code, info.metadata["permission"]) == (grpc.StatusCode.PERMISSION_DENIED, "clonejob.targetProjects.use")
    assert place.rest("GET", f"/v1/{P}/sources/s/migratingVms/vm2", secret).status_code == 404
    nowhere = {"computeEngineTargetDefaults": {"targetProject": "not-a-name"}}
    assert place.rest("POST", create, secret, json=nowhere).status_code == 400
    place.access.grant("token:ci", "q", "cloner")
    _forget(place)
    assert place.rest("POST", create, secret, json=body).status_code == 200
    # A change that leaves the defaults alone is none of the target's business.
    place.access.revoke_role("token:ci", "q", "cloner")
    _forget(place)
    whole = {**body, "displayName": "web"}
    change = f"/v1/{P}/sources/s/migratingVms/vm2"
    assert place.rest("PATCH", f"{change}?updateMask=displayName", secret, json=whole).status_code == 200
    for mask in ("", "?updateMask=*", "?updateMask=computeEngineTargetDefaults.targetProject"):
        assert place.rest("PATCH", f"{change}{mask}", secret, json=whole).status_code == 403, mask


def _forget(place):
    time.sleep(CACHE_SECONDS + 0.1)
