"""A service that asks for credentials, and how its answers are read."""

from __future__ import annotations

import grpc
import httpx
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

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
