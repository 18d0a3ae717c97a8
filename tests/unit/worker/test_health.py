from __future__ import annotations

import dataclasses

import fakeredis
import pytest
import redis

from worker.broker import running_broker
from worker.health import QUEUES, ping_workers, queue_depths, read_broker_health, redis_client


class Answers:
    """A fake that answers INFO and CONFIG as told; everything else is fakeredis."""

    def __init__(self, info, policy):
        self.server = fakeredis.FakeRedis()
        self._info, self._policy = info, policy

    def info(self):
        return self._info

    def config_get(self, pattern):
        if self._policy is None:
            raise redis.ResponseError("unknown command 'CONFIG'")
        return {b"maxmemory-policy": self._policy}

    def __getattr__(self, name):
        return getattr(self.server, name)


GOOD = {"redis_version": "7.0.15", "used_memory": 1024, "aof_enabled": 1, "aof_last_write_status": "ok"}


def test_depths_count_every_priority_of_a_queue():
    server = fakeredis.FakeRedis()
    server.rpush("disks", "a", "b")
    server.rpush("disks\x06\x166", "c")
    server.rpush("cleanup", "d")
    assert queue_depths(server) == {"control": 0, "disks": 3, "adapt": 0, "instances": 0, "cleanup": 1}


def test_a_healthy_broker_has_no_problems():
    server = Answers(GOOD, b"noeviction")
    server.hset("unacked", mapping={"t1": "x", "t2": "y"})
    health = read_broker_health(server)
    assert dataclasses.asdict(health) == {
        "version": "7.0.15",
        "used_memory_bytes": 1024,
        "maxmemory_policy": "noeviction",
        "aof_enabled": True,
        "aof_ok": True,
        "queue_depths": dict.fromkeys(QUEUES, 0),
        "unacked": 2,
        "problems": (),
    }


@pytest.mark.parametrize(
    ("info", "policy", "part"),
    [
        (GOOD, b"allkeys-lru", "messages may be evicted"),
        (GOOD | {"aof_enabled": 0}, b"noeviction", "append-only file is off"),
        (GOOD | {"aof_last_write_status": "err"}, b"noeviction", "last write of the append-only file failed"),
    ],
)
def test_problems_are_named(info, policy, part):
    (problem,) = read_broker_health(Answers(info, policy)).problems
    assert part in problem


def test_a_server_that_forbids_config_tells_its_policy_in_info():
    health = read_broker_health(Answers(GOOD | {"maxmemory_policy": "noeviction"}, None))
    assert health.maxmemory_policy == "noeviction"


def test_a_broker_that_does_not_answer_raises():
    server = fakeredis.FakeServer()
    server.connected = False
    with pytest.raises(redis.ConnectionError):
        read_broker_health(fakeredis.FakeRedis(server=server))


def test_for_real(tmp_path):
    with running_broker(tmp_path) as url:
        client = redis_client(url)
        client.rpush("control", "message")
        health = read_broker_health(client)
        client.close()
        assert (health.aof_enabled, health.aof_ok, health.maxmemory_policy) == (True, True, "noeviction")
        assert health.queue_depths["control"] == 1
        assert health.used_memory_bytes > 0
        assert health.problems == ()
        assert ping_workers(url, timeout_s=0.1) == []


def test_no_maintenance_notifications_are_asked_for(tmp_path, caplog):
    caplog.set_level("DEBUG")
    with running_broker(tmp_path) as url:
        client = redis_client(url)
        client.ping()
        client.close()
    assert "maintenance" not in caplog.text
