"""When a right ends: at once for calls, within the stated time for what goes on; and what the log says of it all."""

from __future__ import annotations

import datetime as dt
import logging
import time

import grpc
import httpx
from google.cloud import vmmigration_v1 as v1
from google.longrunning import operations_pb2 as lro
from guarded import VM_P, VM_Q, refusal

from api.auth.cache import CACHE_SECONDS
from models.schema import CloneJob
from tasks.services import Request


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
