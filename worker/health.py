"""Health of the broker and of the workers, read from outside: the doctor, `up` and the metrics use it.

Queue depths are the lengths of kombu's own lists: one list per queue and priority, and one hash with what was
delivered and not acknowledged.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

QUEUES = ("control", "disks", "adapt", "instances", "cleanup")
_PRIORITY_SUFFIXES = ("", "\x06\x163", "\x06\x166", "\x06\x169")  # kombu's default priority steps
_UNACKED = "unacked"


class RedisLike(Protocol):
    """The calls of ``redis.Redis`` that are made here."""

    def ping(self) -> Any: ...
    def info(self) -> Any: ...
    def config_get(self, pattern: str) -> Any: ...
    def llen(self, name: str) -> Any: ...
    def hlen(self, name: str) -> Any: ...


@dataclass(frozen=True, slots=True)
class BrokerHealth:
    """What a Redis-compatible broker says of itself. ``problems`` is empty when all is well."""

    version: str
    used_memory_bytes: int
    maxmemory_policy: str
    aof_enabled: bool
    aof_ok: bool
    queue_depths: Mapping[str, int]
    unacked: int
    problems: tuple[str, ...]


def read_broker_health(client: RedisLike, queues: Sequence[str] = QUEUES) -> BrokerHealth:
    """Ask the broker how it is. Raises: redis.RedisError when it does not answer."""
    import redis

    client.ping()
    info = _text_keys(client.info())
    try:
        policy = _text(_text_keys(client.config_get("maxmemory-policy")).get("maxmemory-policy", ""))
    except redis.ResponseError:  # managed servers forbid CONFIG; INFO carries the policy as well
        policy = _text(info.get("maxmemory_policy", ""))
    aof_enabled = str(_text(info.get("aof_enabled", 0))) == "1"
    aof_ok = _text(info.get("aof_last_write_status", "ok")) == "ok"
    return BrokerHealth(
        version=str(_text(info.get("valkey_version") or info.get("redis_version") or "unknown")),
        used_memory_bytes=int(info.get("used_memory", 0)),
        maxmemory_policy=policy,
        aof_enabled=aof_enabled,
        aof_ok=aof_ok,
        queue_depths=queue_depths(client, queues),
        unacked=int(client.hlen(_UNACKED)),
        problems=_problems(policy, aof_enabled, aof_ok),
    )


def queue_depths(client: RedisLike, queues: Sequence[str] = QUEUES) -> dict[str, int]:
    """Messages that wait in each queue, over all priorities."""
    return {queue: sum(int(client.llen(queue + suffix)) for suffix in _PRIORITY_SUFFIXES) for queue in queues}


def redis_client(url: str, timeout_s: float = 2.0) -> Any:
    """A client of a Redis-compatible broker that gives up after ``timeout_s``. It opens its connection when used."""
    import redis

    how: dict[str, Any] = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s, "decode_responses": True}
    with contextlib.suppress(ImportError):  # redis-py before 6.4 asks for no notifications
        from redis.maint_notifications import MaintNotificationsConfig

        how["maint_notifications_config"] = MaintNotificationsConfig(enabled=False)  # a managed Redis's; ours has none
    return redis.Redis.from_url(url, **how)


def ping_workers(broker_url: str, timeout_s: float = 1.0, names: Sequence[str] = ()) -> list[str]:
    """Names of the Celery workers that answer a ping sent through the broker, sorted; only those of ``names`` are asked,
    if there are any, and then this does not wait longer than they do.

    Raises: OSError or kombu.exceptions.OperationalError when the broker does not answer.
    """
    import celery

    app = celery.Celery("clonejob-ping", broker=broker_url, set_as_current=False)
    app.conf.update(
        broker_connection_retry=False,
        broker_transport_options={"socket_timeout": 2.0, "socket_connect_timeout": 2.0, "max_retries": 0},
    )
    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=2)
            asked = {"destination": list(names)} if names else {}
            replies = app.control.ping(timeout=timeout_s, connection=connection, **asked) or []
    finally:
        app.close()
    return sorted(name for reply in replies for name in reply)


def _problems(policy: str, aof_enabled: bool, aof_ok: bool) -> tuple[str, ...]:
    problems = []
    if policy != "noeviction":
        problems.append(f"maxmemory-policy is {policy or 'unknown'}: messages may be evicted; set noeviction")
    if not aof_enabled:
        problems.append("the append-only file is off: a restart of the broker loses what waits; set appendonly yes")
    if not aof_ok:
        problems.append("the last write of the append-only file failed; look at the broker's disk")
    return tuple(problems)


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _text_keys(mapping: Any) -> dict[str, Any]:
    return {str(_text(key)): _text(value) for key, value in dict(mapping).items()}
