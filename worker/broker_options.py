"""What differs between brokers: Redis and Valkey on the one hand, RabbitMQ on the other."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

_SOON_S = 5.0  # a publisher does not wait longer for a broker that does not answer


def is_rabbitmq(url: str) -> bool:
    """Whether the URL names a RabbitMQ."""
    return urlsplit(url).scheme in ("amqp", "amqps", "pyamqp")


def broker_options(url: str) -> dict[str, Any]:
    """Celery's settings for this broker.

    RabbitMQ confirms each message once a majority has it on disk; its queues are quorum queues (``tasks/chain.py``), and
    a message with a countdown waits there and not in a worker's memory, where it would take a place of the prefetch.
    """
    if is_rabbitmq(url):
        return {
            "broker_transport_options": {"confirm_publish": True, "read_timeout": 30.0, "write_timeout": 30.0},
            "broker_connection_timeout": _SOON_S,
            "broker_heartbeat": 20,
            "broker_native_delayed_delivery_queue_type": "quorum",
            "clonejob_whole_countdowns": True,  # kombu refuses those below a second, and with them the message
        }
    return {
        "broker_transport_options": {
            "socket_connect_timeout": _SOON_S, "socket_timeout": 30.0, "socket_keepalive": True,
            "health_check_interval": 25, "visibility_timeout": 3600,
        },
    }  # fmt: skip
