"""Who may do what, over both front ends: credentials, roles, and that nothing of another project shows."""

from __future__ import annotations

import datetime as dt
import json
import logging
import re
import socket
import time

import grpc
import httpx
import pytest
from google.api_core import exceptions as gexc
from google.cloud import vmmigration_v1 as v1
from google.cloud.vmmigration_v1.services.vm_migration import transports
from google.longrunning import operations_pb2 as lro
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from serving import serving

from api.auth import Gate
from api.auth.cache import CACHE_SECONDS
from api.auth.permissions import resource_field
from api.methods import METHODS
from models import migrate
from models.access import AccessStore
from models.db import make_engine
from models.schema import CloneJob, Operation
from tasks.services import AccessService, Request

P, Q = "projects/p/locations/global", "projects/q/locations/global"
VM_P, VM_Q = (f"{each}/sources/s/migratingVms/vm" for each in (P, Q))


class Place:
    """A service that asks for credentials, with the same resources in the projects p and q."""

    def __init__(self, running, access, fake):
        self.running, self.access, self.fake = running, access, fake
        self.secrets = {}

    def token(self, name, project="", role="", **more):
        self.secrets[name] = self.access.create_token(name, project=project, role=role, **more).secret
        return self.secrets[name]

    def rest(self, verb, path, secret=None, **how):
        headers = {**({"Authorization": f"Bearer {secret}"} if secret else {}), **how.pop("headers", {})}
        return httpx.request(verb, f"{self.running.url}{path}", headers=headers, timeout=20, **how)

    def grpc(self, rpc, request, secret=None, service="google.cloud.vmmigration.v1.VmMigration"):
        with grpc.insecure_channel(f"127.0.0.1:{self.running.grpc_port}") as channel:
            call = channel.unary_unary(f"/{service}/{rpc}", request_serializer=lambda m: m.SerializeToString())
            return call(request, metadata=[("authorization", f"Bearer {secret}")] if secret else None, timeout=20)


@pytest.fixture
def fake_class(running):
    return type(running[1])


@pytest.fixture
def place(tmp_path, fake_class):
    engine = make_engine(f"sqlite:///{tmp_path}/db.sqlite3")
    migrate.upgrade(engine)
    access, fake = AccessService(AccessStore(engine)), fake_class()
    for parent in (P, Q):
        fake.sources.create(parent, "s", {}, Request())
        fake.migrating_vms.create(f"{parent}/sources/s", "vm", {}, Request())
        fake.target_projects.create(parent, "t", {"project": "local"}, Request())
        fake.clone_jobs.create(f"{parent}/sources/s/migratingVms/vm", "c1", Request())
    with serving(fake, gate=Gate(access)) as running:
        yield Place(running, access, fake)
    engine.dispose()


def info_of(answer):
    (info,) = [d for d in answer.json()["error"]["details"] if d["@type"].endswith("ErrorInfo")]
    return info


def refusal(call):
    """Code, message and ErrorInfo of a gRPC call that fails."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    status = rpc_status.from_call(caught.value)
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return caught.value.code(), status.message, info


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


def test_revoked_and_expired_within_the_stated_time(place):
    gone, brief = (
        place.token("gone", "p", "viewer"),
        place.token("brief", "p", "viewer", lifetime=dt.timedelta(seconds=2)),
    )
    for secret in (gone, brief):
        assert place.rest("GET", f"/v1/{VM_P}", secret).status_code == 200
    place.access.revoke_token("gone")
    deadline = time.monotonic() + 5.5
    while {place.rest("GET", f"/v1/{VM_P}", secret).status_code for secret in (gone, brief)} != {401}:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_waiting_for_an_operation_ends_with_the_right_to_it(place):
    secret = place.token("ci", "p", "viewer")
    operation = place.fake.operation("create", "CreateCloneJob", f"{VM_P}/cloneJobs/c1", Request(), done=False)
    request = lro.WaitOperationRequest(name=operation.name, timeout={"seconds": 15})
    with grpc.insecure_channel(f"127.0.0.1:{place.running.grpc_port}") as channel:
        call = channel.unary_unary(
            "/google.longrunning.Operations/WaitOperation", request_serializer=lambda m: m.SerializeToString()
        )
        waiting = call.future(request, metadata=[("authorization", f"Bearer {secret}")], timeout=20)
        time.sleep(0.5)
        place.access.revoke_token("ci")
        started = time.monotonic()
        assert waiting.code() == grpc.StatusCode.UNAUTHENTICATED
        assert time.monotonic() - started < 5.5


def test_a_stream_ends_with_the_right_to_it(place):
    secret = place.token("ci", "p", "viewer")
    path = f"/clonejob/v1/{VM_P}/cloneJobs/c1/progress"
    job = next(job for job in place.fake.table(CloneJob).values() if job.parent == VM_P)
    headers = {"Authorization": f"Bearer {secret}", "Accept": "text/event-stream"}
    with httpx.stream("GET", f"{place.running.url}{path}", headers=headers, timeout=20) as stream:
        lines = stream.iter_lines()
        assert next(line for line in lines if line.startswith("event:")) == "event: snapshot"
        place.access.revoke_token("ci")
        time.sleep(CACHE_SECONDS + 0.2)
        job.cleanup_detail = "changed, and no business of a revoked token"
        assert not [line for line in lines if "no business" in line]
    assert place.rest("GET", path, secret).status_code == 401


def test_the_log_has_a_line_per_call_and_no_secret(place, caplog):
    secret = place.token("ci", "p", "viewer")
    with caplog.at_level(logging.INFO):
        place.rest("GET", f"/v1/{VM_P}?access_token={secret}", secret)
        place.rest("GET", f"/v1/{VM_Q}", secret)
        place.rest("GET", f"/v1/{VM_P}", "cj_wrong-but-a-secret-all-the-same")
        place.rest("GET", "/v1/projects/p%0Acode=OK/locations/l/sources", secret)
        refusal(lambda: place.grpc("GetMigratingVm", v1.GetMigratingVmRequest.pb()(name=VM_Q), secret))
    lines = [record.getMessage() for record in caplog.records if record.name == "clonejob.request"]
    assert [line.rpartition(" ms=")[0] for line in lines] == [
        f"request method=GetMigratingVm principal=token:ci resource={VM_P} code=OK",
        f"request method=GetMigratingVm principal=token:ci resource={VM_Q} code=PERMISSION_DENIED",
        f'request method=GetMigratingVm principal=- resource="GET /v1/{VM_P}" code=UNAUTHENTICATED',
        'request method=ListSources principal=token:ci resource="projects/p\\ncode=OK/locations/l"'
        " code=INVALID_ARGUMENT",
        f"request method=GetMigratingVm principal=token:ci resource={VM_Q} code=PERMISSION_DENIED",
    ]
    logged = "".join(record.getMessage() for record in caplog.records if record.name != "httpx")
    assert secret not in logged and "cj_wrong" not in logged


# Without credentials configured: loopback alone, and browsers are not to be misled.


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8080", "[::1]:8080", "LOCALHOST:1", "127.3.2.1"])
def test_names_of_loopback_are_served(http, host):
    assert http.get("/v1/projects/p/locations/l/sources", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example.com", "localhost.evil.example.com", "169.254.169.254", "[::2]", "a:b:c"]
)
def test_a_rebound_name_is_refused(http, host):
    for verb, path in (("GET", "/v1/projects/p/locations/l/sources"), ("GET", "/healthz"), ("POST", "/nowhere")):
        answer = http.request(verb, path, headers={"Host": host})
        assert answer.status_code == 403
        assert info_of(answer)["reason"] == "FOREIGN_REQUEST"


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://evil.example.com"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:1"},
     {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
     {"Origin": "https://evil.example.com", "Sec-Fetch-Site": "same-origin"}],
)  # fmt: skip
def test_a_page_of_another_site_may_not_write(server, http, headers):
    url = "/v1/projects/p/locations/l/sources?sourceId=s"
    answer = http.post(url, headers={**headers, "Content-Type": "text/plain"}, content=b"")
    assert answer.status_code == 403 and info_of(answer)["reason"] == "FOREIGN_REQUEST"
    assert http.get("/v1/projects/p/locations/l/sources").json() == {}
    own = {"Origin": server.url, "Sec-Fetch-Site": "same-origin"}
    assert http.post(url, headers=own).status_code == 200


def test_a_request_of_http_1_0_without_a_host_is_a_program(server):
    with socket.create_connection(("127.0.0.1", server.rest_port), timeout=5) as connection:
        connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert b"200" in connection.recv(100)


def test_with_credentials_any_host_is_served(place):
    secret = place.token("ci", "p", "viewer")
    answer = place.rest("GET", f"/v1/{VM_P}", secret, headers={"Host": "clonejob.example.com"})
    assert answer.status_code == 200 and json.loads(answer.text)["name"] == VM_P
