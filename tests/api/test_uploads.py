"""Uploads: streamed in small chunks, nothing kept of what did not arrive in full."""

from __future__ import annotations

import hashlib
import resource
import socket
import threading
import time

import pytest

MIB = 1 << 20


@pytest.fixture
def cycle(http, server, vm):
    return http.post(f"/clonejob/v1/{vm}/replicationCycles").json()["name"]


def path_of(cycle, disk="0", query="?format=raw"):
    return f"/clonejob/v1/{cycle}/disks/{disk}{query}"


def test_a_hundred_megabytes_in_constant_memory(http, server, cycle):
    block, digest = b"\x5a" * MIB, hashlib.sha256()
    for _ in range(100):
        digest.update(block)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    response = http.put(
        path_of(cycle), content=(block for _ in range(100)), headers={"X-Clonejob-Sha256": digest.hexdigest().upper()}
    )
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    snapshot = response.json()
    assert (snapshot["virtualSizeBytes"], snapshot["diskNumber"], snapshot["format"]) == (str(100 * MIB), 0, "raw")
    assert snapshot["sha256"] == digest.hexdigest() and "store" not in response.text.replace("storedSize", "")
    assert server.fake.uploads.largest <= MIB
    assert grown_kib < 30 * 1024  # client and server share this process
    finished = http.post(f"/clonejob/v1/{cycle}:finish").json()
    assert (finished["state"], finished["progressPercent"]) == ("SUCCEEDED", 100)
    assert finished["steps"][0]["replicating"]["totalBytes"] == str(100 * MIB)


def test_a_client_that_goes_away_leaves_nothing(server, cycle):
    with socket.create_connection(("127.0.0.1", server.rest_port)) as connection:
        head = f"PUT {path_of(cycle)} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {10 * MIB}\r\n\r\n"
        connection.sendall(head.encode() + b"x" * MIB)
        time.sleep(0.2)
    assert server.fake.uploads.failed.wait(5)
    assert "closed the connection" in str(server.fake.uploads.error)
    assert server.fake.uploads.kept == {} and server.fake.cycles.get(cycle).snapshots == []


def test_a_silent_client_is_given_up(server, cycle, monkeypatch):
    monkeypatch.setattr("api.body.IDLE_SECONDS", 0.3)
    with socket.create_connection(("127.0.0.1", server.rest_port), timeout=5) as connection:
        connection.sendall(
            f"PUT {path_of(cycle)} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nabc".encode()
        )
        answer = connection.recv(4096)
    assert b" 408 " in answer.split(b"\r\n")[0]
    assert server.fake.uploads.failed.is_set() and server.fake.uploads.kept == {}


@pytest.mark.parametrize(
    ("disk", "query", "headers", "field"),
    [
        ("0", "", {}, "format"),
        ("0", "?format=vmdk", {}, "format"),
        ("-1", "?format=raw", {}, "disk"),
        ("x", "?format=raw", {}, "disk"),
        ("٣", "?format=raw", {}, "disk"),
        ("0", "?format=raw", {"X-Clonejob-Sha256": "xyz"}, "X-Clonejob-Sha256"),
    ],
)
def test_bad_arguments(http, server, cycle, disk, query, headers, field):
    response = http.put(path_of(cycle, disk, query), content=b"x" * MIB, headers=headers)
    assert response.status_code == 400
    assert response.json()["error"]["details"][1]["fieldViolations"][0]["field"] == field
    assert server.fake.uploads.kept == {}


@pytest.mark.parametrize(
    ("query", "header", "field"),
    [
        ("?format=raw%00", "", "format"),
        ("?format=raw&note=a%01b", "", "note"),
        ("?format=raw&note=%7f", "", "note"),
        ("?format=raw&no%00te=x", "", "query"),
        ("?format=raw", "X-Note: a\x01b", "x-note"),
        ("?format=raw", "Content-Type: a\x1fb", "content-type"),
    ],
)
@pytest.mark.parametrize("verb", ["PUT", "GET"])
def test_control_characters_are_refused(server, cycle, verb, query, header, field):
    with socket.create_connection(("127.0.0.1", server.rest_port), timeout=20) as connection:
        head = f"{verb} {path_of(cycle, '0', query)} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 512\r\n"
        last = f"{header}\r\n\r\n" if header else "\r\n"
        connection.sendall(f"{head}{last}".encode("latin-1") + b"\0" * 512)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 400 ") and f'"field":"{field}"'.encode() in answer.replace(b" ", b"")
    assert b"control characters" in answer and b"INVALID_ENCODING" in answer
    assert server.fake.uploads.kept == {} and server.fake.uploads.largest == 0


def test_nul_in_a_header_is_no_http(server, cycle):
    with socket.create_connection(("127.0.0.1", server.rest_port), timeout=20) as connection:
        head = f"PUT {path_of(cycle)} HTTP/1.1\r\nHost: localhost\r\nX-Note: a\0b\r\nContent-Length: 512\r\n\r\n"
        connection.sendall(head.encode())
        assert b"MALFORMED_HTTP" in b"".join(iter(lambda: connection.recv(65536), b""))
    assert server.fake.uploads.kept == {}


def test_errors_arrive_although_the_client_is_still_sending(http, server, cycle):
    missing = cycle.replace("cycle-1", "cycle-9")
    response = http.put(path_of(missing), content=(b"x" * MIB for _ in range(20)))
    assert response.status_code == 404
    wrong = http.put(path_of(cycle), content=b"abc", headers={"X-Clonejob-Sha256": "0" * 64})
    assert wrong.json()["error"]["details"][0]["reason"] == "CHECKSUM_MISMATCH"


def test_slow_uploads_do_not_starve_calls(http, server, cycle):
    head = f"PUT {path_of(cycle)} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nabc".encode()
    connections = [socket.create_connection(("127.0.0.1", server.rest_port)) for _ in range(20)]
    try:
        for connection in connections:
            connection.sendall(head)
        time.sleep(0.2)
        started = time.monotonic()
        assert http.get(f"/v1/{cycle}").status_code == 200
        assert time.monotonic() - started < 1
    finally:
        for connection in connections:
            connection.close()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and any(t.name.startswith("waiting") for t in threading.enumerate()):
        time.sleep(0.05)
