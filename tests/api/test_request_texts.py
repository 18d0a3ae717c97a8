"""What strangers send: fields of the wrong kind, NUL characters, two lengths of one body, lists too large for a client."""

from __future__ import annotations

import socket
import time

import grpc
import pytest
from google.api_core import exceptions
from google.cloud import vmmigration_v1 as v1
from google.cloud.vmmigration_v1.services.vm_migration.transports import VmMigrationGrpcTransport
from google.longrunning import operations_pb2

from api import transcode
from api.handlers.common import MOST_ANSWER_BYTES, page_of
from models.schema import Source
from tasks.errors import InvalidArgument
from tasks.services import Request
from tasks.services.common import Page

LOCATION = "projects/p/locations/l"
SOURCES = f"/v1/{LOCATION}/sources"
HEAD = f"POST {SOURCES}?sourceId=s HTTP/1.1\r\nHost: localhost\r\n".encode()


@pytest.mark.parametrize(("body", "field", "message"), [
    ('{"computeEngineTargetDefaults": {"diskType": "X"}}', "computeEngineTargetDefaults.diskType", "Invalid enum value X"),
    ('{"computeEngineTargetDefaults": {"diskType": {}}}', "computeEngineTargetDefaults.diskType", "wrong JSON type"),
    ('{"computeEngineTargetDefaults": {"computeScheduling": {"nodeAffinities": [{"operator": "z"}]}}}',
     "computeEngineTargetDefaults.computeScheduling.nodeAffinities.operator", "Invalid enum value z"),
    ('{"computeEngineTargetDefaults": {"networkInterfaces": [{"network": 3}]}}',
     "computeEngineTargetDefaults.networkInterfaces.network", "must be a string"),
    ('{"computeEngineTargetDefaults": {"networkInterfaces": {}}}', "computeEngineTargetDefaults.networkInterfaces",
     "must be a list"),
    ('{"computeEngineTargetDefaults": 5}', "computeEngineTargetDefaults", "wrong JSON type"),
    ('{"displayName": 5}', "displayName", "must be a string"),
    ('{"labels": {"a": 5}}', "labels", "must be a string"),
    ('{"labels": 5}', "labels", "must be a JSON object"),
    ('{"policy": {"idleDuration": "zs"}}', "policy.idleDuration", "must be a duration"),
])  # fmt: skip
def test_a_field_of_the_wrong_kind_is_named_in_full_and_in_plain_words(body, field, message):
    with pytest.raises(InvalidArgument) as caught:
        transcode.parse_body(v1.MigratingVm.pb()(), body.encode(), "migrating_vm")
    assert caught.value.field == f"migrating_vm.{field}" and message in caught.value.description
    assert " at MigratingVm" not in caught.value.description


def test_a_number_in_the_query_in_plain_words(http):
    answer = http.get(SOURCES, params={"pageSize": "abc"})
    assert answer.status_code == 400 and "must be an integer" in answer.text and "int()" not in answer.text


def test_a_view_that_there_is_not(server, vm):
    channel = grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}")
    with v1.VmMigrationClient(transport=VmMigrationGrpcTransport(channel=channel)) as client:
        calls = (lambda: client.get_migrating_vm({"name": vm, "view": 99}),
                 lambda: client.list_migrating_vms({"parent": f"{LOCATION}/sources/src", "view": -1}))  # fmt: skip
        for call in calls:
            with pytest.raises(exceptions.InvalidArgument, match="view.*MIGRATING_VM_VIEW_FULL") as caught:
                call()
            (violation,) = caught.value.details[1].field_violations
            assert violation.field == "view"


@pytest.mark.parametrize("given", [
    {"description": "a\0b"}, {"labels": {"a": "\0"}}, {"labels": {"\0": "a"}}, {"vmware": {"username": "\0"}},
])  # fmt: skip
def test_nul_is_refused_by_name_on_both_front_ends(client, server, given):
    with pytest.raises(exceptions.BadRequest, match=f"source.{next(iter(given))}.*NUL"):
        client.create_source(parent=LOCATION, source_id="s", source=v1.Source(given))
    assert not server.fake.table(Source)


def test_nul_in_a_query_and_in_our_additions(http, vm):
    assert "NUL" in http.get(f"{SOURCES}?pageToken=%00").json()["error"]["message"]
    answer = http.post(f"/clonejob/v1/{vm}/replicationCycles", json={"adaptation": {"message": "\0"}})
    assert answer.status_code == 400 and "NUL" in answer.text


def _answer(server, raw):
    """What comes until the server hangs up, or for a second."""
    with socket.create_connection(("127.0.0.1", server.rest_port), timeout=10) as connection:
        connection.sendall(raw)
        started, parts = time.monotonic(), [connection.recv(65536)]
        connection.settimeout(1)
        try:
            while chunk := connection.recv(65536):
                parts.append(chunk)
        except TimeoutError:
            return b"".join(parts), False, time.monotonic() - started
        return b"".join(parts), True, time.monotonic() - started


def test_two_lengths_of_one_body_end_the_connection(server):
    raw = (
        HEAD
        + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    )
    answer, closed, _ = _answer(server, raw)
    assert answer.startswith(b"HTTP/1.1 400") and b"MALFORMED_HTTP" in answer and closed
    assert answer.count(b"HTTP/1.1 ") == 1 and not server.fake.table(Source)


@pytest.mark.parametrize("length", ["1048577", "100000000000", "9" * 19, "9" * 20])
def test_a_length_that_is_too_large_is_refused_at_once(server, length):
    answer, _, seconds = _answer(server, HEAD + f"Content-Length: {length}\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 400") and b"REQUEST_TOO_LARGE" in answer and seconds < 5


def test_a_large_body_that_is_sent_reads_its_error(http):
    answer = http.post(f"{SOURCES}?sourceId=s", content=b"{" + b" " * (8 << 20))
    assert answer.status_code == 400 and "REQUEST_TOO_LARGE" in answer.text


def test_a_page_ends_where_clients_stop_reading():
    items = [v1.Source.pb()(description="x" * 100_000) for _ in range(50)]
    page = Page(items, "end", lambda count: f"after {count}")
    response = page_of(v1.ListSourcesResponse.pb(), "sources", page, items)
    given = len(response.sources)
    assert 30 < given < 50 and response.next_page_token == f"after {given}"
    assert response.ByteSize() < MOST_ANSWER_BYTES + 1000
    small = page_of(v1.ListSourcesResponse.pb(), "sources", page, items[:3])
    assert (len(small.sources), small.next_page_token) == (3, "end")
    huge = [v1.Source.pb()(description="x" * (MOST_ANSWER_BYTES + 1))] * 2
    one = page_of(v1.ListSourcesResponse.pb(), "sources", Page(huge, "", page.token_after), huge)
    assert (len(one.sources), one.next_page_token) == (1, "after 1")


def test_the_official_client_lists_large_sources_and_their_operations(live):
    names = [f"big-{number}" for number in range(8)]
    for name in names:
        live.world.services.sources.create(LOCATION, name, {"description": "x" * 1_000_000}, Request())
    channel = grpc.insecure_channel(f"127.0.0.1:{live.ports[1]}")
    with v1.VmMigrationClient(transport=VmMigrationGrpcTransport(channel=channel)) as client:
        found = [source.name.rpartition("/")[2] for source in client.list_sources(parent=LOCATION)]
        assert sorted(found) == names
        seen, token = 0, ""
        call = channel.unary_unary(
            "/google.longrunning.Operations/ListOperations",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=operations_pb2.ListOperationsResponse.FromString,
        )
        while True:
            page = call(operations_pb2.ListOperationsRequest(name=LOCATION, page_token=token))
            seen, token = seen + len(page.operations), page.next_page_token
            if not token:
                break
        assert seen == len(names)
