"""Live progress by server-sent events."""

from __future__ import annotations

import json
import socket
import threading
import time

import pytest
from harness import VM

import api.events_stream as events_stream

SSE = {"Accept": "text/event-stream"}


@pytest.fixture
def job(live, monkeypatch):
    monkeypatch.setattr(events_stream, "POLL_SECONDS", 0.05)
    return live.world.create()


def parse(lines):
    """(event, id, data) of each event; comments as ("", None, text)."""
    event = {}
    for line in lines:
        if line.startswith(":"):
            yield "", None, line[1:].strip()
        elif line:
            name, _, value = line.partition(": ")
            event[name] = value
        elif "event" in event:
            number = event.get("id")
            yield event["event"], None if number is None else int(number), json.loads(event["data"])
            event = {}


def path_of(job):
    return f"/clonejob/v1/{job.name}/progress"


def read(live, job, **headers):
    with live.http.stream("GET", path_of(job), headers=SSE | headers) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        return list(parse(response.iter_lines()))


def until(check, seconds=10):
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_from_the_first_state_to_the_end(live, job):
    runner = threading.Timer(0.3, live.world.run)
    runner.start()
    seen = read(live, job)
    runner.join()
    kinds = [kind for kind, _, _ in seen]
    assert (kinds[0], seen[0][2]["state"]) == ("snapshot", "PENDING")
    assert (kinds[-1], seen[-1][2]) == ("end", {"name": job.name, "state": "SUCCEEDED"})
    assert kinds[-2] == "progress" and seen[-2][2]["endTime"] is not None
    events = live.http.get(f"/clonejob/v1/{job.name}/events").json()["events"]
    changes = [data for kind, _, data in seen if kind == "change"]
    assert changes == events[1:]  # the first one had happened before
    ids = [number for kind, number, _ in seen if kind == "change"]
    assert ids == sorted(set(ids)) and seen[0][1] == int(events[0]["id"])


def test_resume_after_the_last_id(live, job):
    live.world.run()
    events = live.http.get(f"/clonejob/v1/{job.name}/events").json()["events"]
    seen = read(live, job, **{"Last-Event-ID": events[3]["id"]})
    assert seen[0][0] == "snapshot" and seen[0][1] == int(events[3]["id"])  # coming back again loses nothing
    assert [data for kind, _, data in seen if kind == "change"] == events[4:]
    fresh = read(live, job)
    assert [kind for kind, _, _ in fresh] == ["snapshot", "end"]
    for odd in ("x", "-1", "9" * 30, "٣"):
        assert read(live, job, **{"Last-Event-ID": odd.encode()})[-1][0] == "end"


def test_events_that_are_not_kept_are_read_again(live, job, monkeypatch):
    monkeypatch.setattr(events_stream, "_KEPT_EVENTS", 3)
    live.world.run()
    events = live.http.get(f"/clonejob/v1/{job.name}/events").json()["events"]
    seen = read(live, job, **{"Last-Event-ID": "0"})
    assert [data for kind, _, data in seen if kind == "change"] == events


def test_heartbeats(live, job, monkeypatch):
    monkeypatch.setattr(events_stream, "HEARTBEAT_SECONDS", 0.1)
    with live.http.stream("GET", path_of(job), headers=SSE) as response:
        stream = parse(response.iter_lines())
        assert next(stream)[0] == "snapshot"
        assert [next(stream) for _ in range(2)] == [("", None, "keep-alive")] * 2


def test_a_stream_that_is_old_ends_so_that_credentials_are_asked_for_again(live, job, monkeypatch):
    monkeypatch.setattr(events_stream, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(events_stream, "LONGEST_SECONDS", 0.1)
    assert "end" not in [kind for kind, _, _ in read(live, job)]


def test_many_streams_share_one_poller_and_hold_no_thread(live, job, monkeypatch):
    looks = []
    get = live.world.services.clone_jobs.get
    monkeypatch.setattr(
        live.world.services.clone_jobs, "get", lambda name, **options: looks.append(name) or get(name, **options)
    )
    head = f"GET {path_of(job)} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n".encode()
    connections = [socket.create_connection(("127.0.0.1", live.http.base_url.port)) for _ in range(40)]
    try:
        for connection in connections:
            connection.sendall(head)
            assert b"200 OK" in connection.recv(1000)
        looks.clear()
        time.sleep(0.6)
        assert len(looks) <= 26  # two for each look, 20 looks a second at most
        started = time.monotonic()
        assert live.http.get(f"/v1/{job.name}").status_code == 200
        assert time.monotonic() - started < 1
    finally:
        for connection in connections:
            connection.close()
    time.sleep(0.3)
    looks.clear()
    time.sleep(0.3)
    assert looks == []  # they went away, and nobody looks any more


def test_streams_are_bounded(live, job, monkeypatch):
    monkeypatch.setattr(events_stream, "MOST_STREAMS", 1)
    with live.http.stream("GET", path_of(job), headers=SSE) as response:
        lines = response.iter_lines()  # kept: when it is collected, the connection is closed
        assert next(lines)
        refused = live.http.get(path_of(job), headers=SSE)
        assert (refused.status_code, refused.json()["error"]["details"][0]["reason"]) == (429, "TOO_MANY_STREAMS")
        assert live.http.get(path_of(job)).json()["state"] == "PENDING"

    def served():
        with live.http.stream("GET", path_of(job), headers=SSE) as response:
            return response.status_code == 200

    until(served)


def test_only_who_asks_gets_a_stream(live, job):
    for accept in ("*/*", "application/json", "text/*"):
        assert live.http.get(path_of(job), headers={"Accept": accept}).json()["name"] == job.name
    missing = live.http.get(path_of(job).replace("clone-1", "none"), headers=SSE)
    assert (missing.status_code, missing.json()["error"]["status"]) == (404, "NOT_FOUND")


def test_a_database_that_stumbles_ends_no_stream(live, job, monkeypatch):
    get, broken = live.world.services.clone_jobs.get, threading.Event()

    def flaky(name):
        if broken.is_set():
            raise RuntimeError("no answer")
        return get(name)

    monkeypatch.setattr(live.world.services.clone_jobs, "get", flaky)
    with live.http.stream("GET", path_of(job), headers=SSE) as response:
        stream = parse(response.iter_lines())
        next(stream)
        broken.set()
        time.sleep(0.3)
        broken.clear()
        live.world.services.clone_jobs.cancel(job.name)
        assert [kind for kind, _, _ in stream][-1] == "end"


def test_the_command_line_follows_the_stream(live, job, monkeypatch):
    from worker.cli import progress
    from worker.cli.client import Client

    monkeypatch.setattr(progress, "_SILENT_LOOK_S", 30.0)
    client = Client(live.url)
    looks = []
    get = client.get
    monkeypatch.setattr(client, "get", lambda path, **params: looks.append(path) or get(path, **params))
    quiet = []

    def run():
        quiet.append(len(looks))
        live.world.run()

    runner = threading.Timer(1.5, run)
    runner.start()
    ended = progress.wait_for(client, job.name, quiet=True)
    runner.join()
    assert ended["state"] == "SUCCEEDED"
    until(lambda: not any(thread.name.startswith("watch ") for thread in threading.enumerate()))
    client._http.close()
    assert quiet[0] <= 6  # without a stream it looks every 0.3 s
