"""How uploads end: by finish and abort, by time, and what becomes of parts; over the real services and store."""

from __future__ import annotations

import os
import socket

import pytest
from chunks import CONTENT, path_of, reason, send, until
from harness import VM


@pytest.fixture
def cycle(live):
    response = live.http.post(f"/clonejob/v1/{VM}/replicationCycles")
    return response.json()["name"]


def test_abort_and_finish_remove_parts(live, cycle):
    send(live, cycle, 0, 99)
    assert live.http.post(f"/clonejob/v1/{cycle}:abort").json()["state"] == "FAILED"
    assert not (live.world.snapshots.root / ".uploads").exists()
    assert reason(send(live, cycle, 100, 199)) == "CYCLE_CLOSED"
    second = live.http.post(f"/clonejob/v1/{VM}/replicationCycles").json()["name"]
    live.http.put(path_of(second), params={"format": "raw"}, content=CONTENT)
    assert live.http.post(f"/clonejob/v1/{second}:finish").json()["state"] == "SUCCEEDED"
    assert not (live.world.snapshots.root / ".uploads").exists()


def test_finish_refuses_while_disks_are_incomplete(live, cycle):
    live.http.put(path_of(cycle), params={"format": "raw"}, content=CONTENT)
    send(live, cycle, 0, 99, disk=1)
    send(live, cycle, 0, 9, disk=3, total=None)
    refused = live.http.post(f"/clonejob/v1/{cycle}:finish")
    assert (refused.status_code, reason(refused)) == (400, "DISKS_INCOMPLETE")
    message = refused.json()["error"]["message"]
    for part in (f"disk 1 (100 of {len(CONTENT)} bytes)", "disk 3 (10 bytes of an unknown total)", ":abort"):
        assert part in message
    assert "disk 0" not in message
    assert live.http.get(path_of(cycle, 1)).json()["receivedBytes"] == "100"
    assert live.http.get(f"/v1/{cycle}").json()["state"] == "RUNNING"
    send(live, cycle, 100, len(CONTENT) - 1, disk=1)
    send(live, cycle, 0, len(CONTENT) - 1, disk=2)
    send(live, cycle, 10, len(CONTENT) - 1, disk=3)
    assert live.http.post(f"/clonejob/v1/{cycle}:finish").json()["state"] == "SUCCEEDED"


def test_finish_refuses_while_a_whole_disk_arrives(live, cycle):
    live.http.put(path_of(cycle), params={"format": "raw"}, content=CONTENT)
    with socket.create_connection(("127.0.0.1", live.http.base_url.port)) as connection:
        head = (
            f"PUT {path_of(cycle, 1)}?format=raw HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(CONTENT)}\r\n\r\n"
        )
        connection.sendall(head.encode() + CONTENT[:100])
        until(lambda: live.http.get(path_of(cycle, 1)).status_code == 200)
        refused = live.http.post(f"/clonejob/v1/{cycle}:finish")
        assert reason(refused) == "DISKS_INCOMPLETE" and "disk 1 (" in refused.json()["error"]["message"]
        connection.sendall(CONTENT[100:])
        assert b" 200 " in connection.recv(4096).split(b"\r\n")[0]
    assert live.http.post(f"/clonejob/v1/{cycle}:finish").json()["state"] == "SUCCEEDED"


def test_ending_a_cycle_again_is_no_error(live, cycle):
    live.http.put(path_of(cycle), params={"format": "raw"}, content=CONTENT)
    finished = live.http.post(f"/clonejob/v1/{cycle}:finish").json()
    assert live.http.post(f"/clonejob/v1/{cycle}:finish").json() == finished
    refused = live.http.post(f"/clonejob/v1/{cycle}:abort")
    assert (refused.status_code, reason(refused)) == (400, "CYCLE_CLOSED")
    assert (
        "cannot be aborted" in refused.json()["error"]["message"] and "disks" not in refused.json()["error"]["message"]
    )
    second = live.http.post(f"/clonejob/v1/{VM}/replicationCycles").json()["name"]
    aborted = live.http.post(f"/clonejob/v1/{second}:abort", json={"message": "one"}).json()
    assert live.http.post(f"/clonejob/v1/{second}:abort", json={"message": "two"}).json() == aborted
    refused = live.http.post(f"/clonejob/v1/{second}:finish")
    assert (refused.status_code, reason(refused)) == (400, "CYCLE_CLOSED")
    assert "cannot be finished" in refused.json()["error"]["message"]


def test_a_running_cycle_says_how_to_go_on(live, cycle):
    response = live.http.post(f"/clonejob/v1/{VM}/replicationCycles")
    assert (response.status_code, reason(response)) == (409, "CYCLE_RUNNING")
    message = response.json()["error"]["message"]
    for part in (cycle, "--abort-running", ":abort", "24 h"):
        assert part in message


def test_an_idle_cycle_does_not_block_for_ever(live, cycle):
    send(live, cycle, 0, 99)
    (part,) = live.world.snapshots.root.glob(".uploads/*/disk0.part")
    moved = live.world.clock.timestamp() + 3600  # the file system's clock is the machine's own
    os.utime(part, (moved, moved))
    live.world.clock.advance(24 * 3600)
    assert reason(live.http.post(f"/clonejob/v1/{VM}/replicationCycles")) == "CYCLE_RUNNING"
    live.world.clock.advance(2 * 3600)
    begun = live.http.post(f"/clonejob/v1/{VM}/replicationCycles").json()
    assert begun["cycleNumber"] == 3
    old = live.http.get(f"/v1/{cycle}").json()
    assert old["state"] == "FAILED" and "nothing was uploaded for 25 h" in old["error"]["message"]
    assert not (live.world.snapshots.root / ".uploads").exists()


def test_abandoned_parts_are_swept_at_the_start(live, cycle):
    send(live, cycle, 0, 99)
    assert live.world.services.cycles.sweep() == 0
    (part,) = live.world.snapshots.root.glob(".uploads/*/disk0.part")
    os.utime(part, (0, 0))
    assert live.world.services.cycles.sweep() == 1
    assert live.http.get(path_of(cycle)).status_code == 404
