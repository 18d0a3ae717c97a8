"""What one client may take: sizes, depths, times, connections. A clear error, nothing written, no traceback."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import time

import grpc
import httpx
import pytest
from google.cloud import vmmigration_v1 as v1
from serving import serving

from api.limits import MAX_HEAD_BYTES, MAX_JSON_DEPTH, Limits, check_depth
from models.schema import MigratingVm, Source
from tasks.errors import InvalidArgument

SOURCES = "/v1/projects/p/locations/l/sources"
HOST = b"Host: localhost\r\n"


@pytest.fixture(autouse=True)
def no_traceback(caplog):
    """Whatever is sent, the log has no traceback and no error of ours."""
    with caplog.at_level(logging.INFO):
        yield
    bad = [r for r in caplog.records if r.exc_info or (r.levelno >= logging.ERROR and r.name != "grpc._cython.cygrpc")]
    assert not bad, [r.getMessage() for r in bad]


@pytest.fixture(scope="module")
def tight(running):
    """A server with short times and few connections."""
    limits = Limits(max_connections=8, head_seconds=0.5, body_seconds=1.0, request_seconds=1.0)
    fake = type(running[1])()
    with serving(fake, limits=limits) as found:
        found.fake = fake
        yield found


@contextlib.contextmanager
def connected(found):
    with socket.create_connection(("127.0.0.1", found.rest_port), timeout=10) as connection:
        yield connection


def read_all(connection):
    """Everything until the server hangs up."""
    parts = []
    connection.settimeout(10)
    with contextlib.suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            parts.append(chunk)
    return b"".join(parts)


def parse(raw):
    """Status and error of one raw answer, in Google's shape."""
    head, _, body = raw.partition(b"\r\n\r\n")
    error = json.loads(body)["error"]
    reasons = [d["reason"] for d in error["details"] if d["@type"].endswith("ErrorInfo")]
    status = int(head.split(b" ")[1])
    assert error["code"] == status and b"application/json" in head.lower() and len(reasons) == 1
    return status, error["status"], reasons[0]


@pytest.mark.parametrize(
    "raw",
    [
        b"this is no HTTP\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200) + b"\r\n\r\n",  # a TLS handshake
        b"GET / HTTP/1.1\r\n" + HOST + b"Bad Header: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",  # no Host
        b"GET /\xff HTTP/1.1\r\n" + HOST + b"\r\n",
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip\r\n\r\n",
        b"POST " + SOURCES.encode() + b" HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_malformed_http_gets_an_error_in_googles_shape(server, raw):
    with connected(server) as connection:
        connection.sendall(raw)
        status, code, reason = parse(read_all(connection))
    assert (status, code, reason) in (
        (400, "INVALID_ARGUMENT", "MALFORMED_HTTP"),
        (501, "INVALID_ARGUMENT", "MALFORMED_HTTP"),
    )
    assert not server.fake.table(Source)


def test_large_headers_in_pieces_and_in_one(server, http):
    with connected(server) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n" + HOST)
        with contextlib.suppress(OSError):
            for _ in range(100):
                connection.sendall(b"X: " + b"x" * 1000 + b"\r\n")
                time.sleep(0.001)
        assert parse(read_all(connection)) == (431, "INVALID_ARGUMENT", "REQUEST_HEADERS_TOO_LARGE")
    answer = http.get(SOURCES, headers={"X": "x" * MAX_HEAD_BYTES})
    assert answer.status_code == 431
    answer = http.get(f"{SOURCES}?pageToken={'x' * MAX_HEAD_BYTES}")
    assert answer.status_code == 431
    assert http.get(SOURCES, headers={"X": "x" * 20_000}).status_code == 200


@pytest.mark.parametrize("start", [b"", b"GET /healthz HT", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: y\r\n"])
def test_slow_headers_are_not_waited_for(tight, start):
    with connected(tight) as connection:
        started = time.monotonic()
        connection.sendall(start)
        raw = b""
        with contextlib.suppress(OSError):  # one byte now and then does not buy more time
            while time.monotonic() - started < 5:
                connection.settimeout(0.1)
                with contextlib.suppress(TimeoutError):
                    chunk = connection.recv(65536)
                    raw += chunk
                    if not chunk:
                        break
                if start:
                    connection.sendall(b"x")
        raw += read_all(connection)
        assert time.monotonic() - started < 3
        if start and raw:
            assert parse(raw) == (408, "DEADLINE_EXCEEDED", "REQUEST_TIMEOUT")


def test_slow_headers_on_a_connection_that_is_kept(tight):
    with connected(tight) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET /heal")
        started = time.monotonic()
        assert parse(read_all(connection))[0] == 408
        assert time.monotonic() - started < 3


def test_a_body_that_trickles(tight):
    head = f"POST {SOURCES}?sourceId=s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n".encode()
    with connected(tight) as connection:
        connection.sendall(head)
        started = time.monotonic()
        connection.settimeout(0.2)
        raw = b""
        with contextlib.suppress(OSError):
            while time.monotonic() - started < 8 and b'"error"' not in raw:
                connection.sendall(b" ")
                with contextlib.suppress(TimeoutError):
                    raw += connection.recv(65536)
        raw += read_all(connection)  # a send that met the closed connection does not mean that there was no answer
        assert parse(raw) == (408, "DEADLINE_EXCEEDED", "REQUEST_TIMEOUT")
    assert not tight.fake.table(Source)


def test_a_body_that_stops_after_the_answer_holds_no_connection(tight):
    with connected(tight) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\n" + HOST + b"Content-Length: 1000000000\r\n\r\n")
        assert read_all(connection).startswith(b"HTTP/1.1 200")  # and then it hangs up


def test_a_body_that_goes_on_after_the_answer_holds_no_connection(tight):
    with connected(tight) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\n" + HOST + b"Content-Length: 1000000000\r\n\r\n")
        started = time.monotonic()
        connection.settimeout(0.1)
        with contextlib.suppress(OSError):
            while time.monotonic() - started < 8:
                connection.sendall(b"x")
                with contextlib.suppress(TimeoutError):
                    if not connection.recv(65536):
                        break
        assert time.monotonic() - started < 4


def test_a_body_that_never_comes_holds_no_connection_after_the_answer(tight):
    with connected(tight) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\n" + HOST + b"Content-Length: 100\r\n\r\n")
        assert read_all(connection).startswith(b"HTTP/1.1 200")  # and the server hangs up, though nothing follows


def test_an_upload_that_trickles_for_ever_loses_its_place(monkeypatch):
    import asyncio

    from api import body as module
    from api.errors import RequestTimeout

    monkeypatch.setattr(module, "_TOTAL_SECONDS", 0.2)

    async def receive():
        await asyncio.sleep(0.05)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def scenario():
        body = module.Body(receive)
        while await body.next():
            pass

    started = time.monotonic()
    with pytest.raises(RequestTimeout, match="less than 1024 bytes/s"):
        asyncio.run(scenario())
    assert time.monotonic() - started < 2


def test_a_call_that_takes_too_long(tight, monkeypatch):
    monkeypatch.setattr(tight.fake.sources, "list", lambda *_, **__: time.sleep(2))
    answer = httpx.get(f"{tight.url}{SOURCES}", timeout=10)
    assert answer.status_code == 504 and "CALL_TIMEOUT" in answer.text
    with grpc.insecure_channel(f"127.0.0.1:{tight.grpc_port}") as channel:
        call = channel.unary_unary(
            "/google.cloud.vmmigration.v1.VmMigration/ListSources", request_serializer=lambda m: m.SerializeToString()
        )
        with pytest.raises(grpc.RpcError) as caught:
            call(v1.ListSourcesRequest.pb()(parent="projects/p/locations/l"), timeout=10)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    time.sleep(1.2)  # let the threads end


def test_more_connections_than_allowed(tight):
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(connected(tight))
        time.sleep(0.1)
        with connected(tight) as one_more:
            assert parse(read_all(one_more)) == (503, "UNAVAILABLE", "TOO_MANY_CONNECTIONS")
    deadline = time.monotonic() + 5
    while True:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{tight.url}/healthz").status_code == 200:
                return
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("chunked", [False, True])
def test_ten_megabytes_of_json(server, http, chunked):
    raw = b'{"description": "' + b"x" * 10_000_000 + b'"}'
    answer = http.post(f"{SOURCES}?sourceId=s", content=iter([raw]) if chunked else raw)
    assert answer.status_code == 400 and "REQUEST_TOO_LARGE" in answer.text
    assert not server.fake.table(Source)


BODIES = {
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"labels":' * 50_000 + b"1" + b"}" * 50_000,
    "deep in a field": b'{"labels": ' + b"[" * 5_000 + b"]" * 5_000 + b"}",
    "bad UTF-8": b'{"description": "\xff\xfe"}',
    "a lone surrogate": b'{"description": "\\ud800"}',
    "a NUL": b'{"labels": {"a": {"b": "\\u0000"}}}',
    "a huge number": b'{"description": ' + b"9" * 100_000 + b"}",
    "a huge exponent": b'{"createTime": 1e999999999}',
    "infinity": b'{"labels": Infinity}',
    "a wrong type": b'{"labels": "x"}',
    "two documents": b"{}{}",
    "not JSON": b"<xml/>",
    "an unknown field": b'{"no_such_field": 1}',
    "UTF-16": '{"description": "x"}'.encode("utf-16"),
}


@pytest.mark.parametrize("what", BODIES)
def test_bodies_that_are_wrong(server, http, what):
    answer = http.post(f"{SOURCES}?sourceId=s", content=BODIES[what])
    error = answer.json()["error"]
    assert (answer.status_code, error["status"]) == (400, "INVALID_ARGUMENT"), answer.text
    assert len(answer.content) < 5000
    assert not server.fake.table(Source)


@pytest.mark.parametrize("what", ["deep lists", "bad UTF-8", "a huge number", "not JSON"])
def test_bodies_of_our_additions(server, http, vm, what):
    answer = http.post(f"/clonejob/v1/{vm}/replicationCycles", content=BODIES[what])
    assert (answer.status_code, answer.json()["error"]["status"]) == (400, "INVALID_ARGUMENT"), answer.text


NAMES = ["..", ".", "%2e%2e", "%2E%2E%2Fetc", "a%2Fb", "%00", "%ff", "a%0ab", "A", "-a", "x" * 64, "x" * 5000, "a b".replace(" ", "%20"),
         "%F0%9F%98%80", "$(id)", "'--"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_that_lead_elsewhere(server, vm, name):
    for path in (f"/v1/projects/p/locations/l/sources/{name}", f"/v1/projects/{name}/locations/l/sources/s",
                 f"/v1/{vm}/cloneJobs/{name}", f"/clonejob/v1/{vm}/replicationCycles/{name}/disks/0?format=raw"):  # fmt: skip
        verb = "PUT" if "disks" in path else "GET"
        with connected(server) as connection:  # raw: httpx would tidy the path up
            connection.sendall(f"{verb} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            status, code, _ = parse(read_all(connection))
        assert (status, code) in ((400, "INVALID_ARGUMENT"), (404, "NOT_FOUND")), path
    for parameter in ("sourceId", "requestId"):
        query = {"sourceId": "s", parameter: name}
        answer = httpx.post(f"{server.url}{SOURCES}", params=query)
        assert answer.status_code == 400, parameter
    assert len(server.fake.table(Source)) == 1 and len(server.fake.table(MigratingVm)) == 1  # those of the fixture


@pytest.mark.parametrize("size", ["99999999999999999999", "-1", "1e3", "0x10", "NaN", "", "1" * 5000])
def test_numbers_in_the_query(http, size):
    answer = http.get(SOURCES, params={"pageSize": size})
    assert answer.status_code == (200 if size == "" or size == "1e3" else 400), answer.text


def unary(channel, rpc):
    return channel.unary_unary(f"/google.cloud.vmmigration.v1.VmMigration/{rpc}")


def test_grpc_messages_and_metadata_are_bounded(server):
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        for raw, code in [
            (b"x" * 10_000_000, grpc.StatusCode.RESOURCE_EXHAUSTED),
            (b"x" * 2_000_000, grpc.StatusCode.INVALID_ARGUMENT),
            (b"\xff" * 100, grpc.StatusCode.INVALID_ARGUMENT),
            (b"\x0a\x02\xff\xfe", grpc.StatusCode.INVALID_ARGUMENT),  # a string that is not UTF-8
        ]:
            with pytest.raises(grpc.RpcError) as caught:
                unary(channel, "ListSources")(raw, timeout=20)
            assert caught.value.code() == code
        with pytest.raises(grpc.RpcError) as caught:
            unary(channel, "ListSources")(b"", metadata=[("x", "y" * 2 * MAX_HEAD_BYTES)], timeout=20)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert unary(channel, "ListSources")(
            v1.ListSourcesRequest.pb()(parent="projects/p/locations/l").SerializeToString(),
            metadata=[("x", "y" * 12_000)], timeout=20,
        ) == b""  # fmt: skip


def test_depth_counts_nesting_and_not_brackets_in_strings():
    check_depth(b"[" * MAX_JSON_DEPTH + b"]" * MAX_JSON_DEPTH)
    check_depth(b'{"a": "' + b"[{" * 10_000 + b'\\"[["}')
    check_depth(b"[" + b"[]," * 10_000 + b"[]]")
    with pytest.raises(InvalidArgument, match="nested more than 100 deep"):
        check_depth(b"[" * (MAX_JSON_DEPTH + 1))
    for hostile in (b'"' + b'\\"' * 500_000 + b"[" * 101, b'"' * 999_999, b'\\"' * 500_000, b"[]" * 500_000):
        started = time.monotonic()
        check_depth(hostile)  # whatever it is: in one pass
        assert time.monotonic() - started < 3
