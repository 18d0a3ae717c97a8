"""``up`` with a PostgreSQL database and a Redis broker of the user's own."""

from __future__ import annotations

import contextlib
import shutil
import subprocess

import pytest
import redis
from conftest import missing, postgres_database
from live_service import running_service, until

from worker.broker import free_port


@pytest.fixture(scope="module")
def database():
    yield from postgres_database()


@pytest.fixture(scope="module")
def broker(folder):
    """A redis-server on a free port, for this module alone."""
    if shutil.which("redis-server") is None:
        missing("redis-server is not installed")
    port, home = free_port(), folder / "redis"
    home.mkdir()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(home)]
    with (home / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        client = redis.Redis(port=port)
        with contextlib.closing(client):
            until("redis answers", lambda: pings(client), 10)
            yield f"redis://127.0.0.1:{port}/0"
        server.terminate()


def pings(client):
    try:
        return client.ping()
    except redis.ConnectionError:
        return False


@pytest.fixture(scope="module")
def service(folder, database, broker):
    with running_service(folder / "s", DATABASE_URL=database, BROKER_URL=broker) as service:
        yield service


def test_one_job_succeeds_and_one_is_cancelled(service, broker):
    good = service.submit(service.import_vm("good"), "clone")
    bad = service.submit(service.import_vm("bad", boot_delay_s=900), "clone", client="rest")
    service.wait_booting(bad)
    service.grpc.cancel_clone_job(name=bad).result(timeout=30)
    service.assert_nothing_left(bad, "bad-")
    assert service.wait_ended([good]) == ["SUCCEEDED"]
    service.assert_one_clone(good, "good-")
    assert service.broker_url == broker
    assert not service.child("broker")
    assert not list(service.data_dir.glob("*.sqlite3*")) and not (service.data_dir / "broker").exists()


def test_a_killed_worker_is_repaired(service):
    service.arm(("target.create.instance", "after"))
    job = service.submit(service.import_vm("again"), "clone")
    service.wait_fired()
    service.kill_child("steps")
    assert service.wait_ended([job]) == ["SUCCEEDED"]
    service.assert_one_clone(job, "again-")
