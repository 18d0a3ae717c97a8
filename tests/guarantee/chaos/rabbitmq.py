"""A RabbitMQ node of our own: free ports, a folder of its own, an Erlang port mapper of its own."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
from pathlib import Path

import kombu

from tasks.chain import QUEUES
from worker.broker import free_port
from worker.supervisor import ChildSpec

# Debian's program on the PATH becomes another user first, who may not write here.
_PLACES = f"/usr/lib/rabbitmq/bin:{os.environ.get('PATH', '')}:/usr/sbin"


def why_not() -> str:
    """What is missing for a node of our own; "" if nothing is."""
    missing = [name for name in ("rabbitmq-server", "epmd") if shutil.which(name, path=_PLACES) is None]
    return f"{' and '.join(missing)} not installed (Debian: apt-get install rabbitmq-server)" if missing else ""


class RabbitMq:
    """The node's folder, address and command lines."""

    def __init__(self, folder: Path) -> None:
        """Raises: RuntimeError if it cannot be run here."""
        if reason := why_not():
            raise RuntimeError(reason)
        self.port, self._epmd_port, self._dist_port = free_port(), free_port(), free_port()
        self._folder = folder / "rabbitmq"
        self._password = secrets.token_hex(8)

    @property
    def url(self) -> str:
        """Its address."""
        return f"amqp://clonejob:{self._password}@127.0.0.1:{self.port}/clonejob"

    def make(self) -> None:
        """Write its configuration."""
        self._folder.mkdir(mode=0o700)
        (self._folder / "enabled_plugins").write_text("[].\n")
        (self._folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\ndefault_user = clonejob\ndefault_pass = {self._password}\n"
            "default_vhost = clonejob\ndefault_permissions.configure = .*\ndefault_permissions.read = .*\n"
            "default_permissions.write = .*\nlog.console = true\nlog.file = false\ndisk_free_limit.absolute = 50MB\n"
        )

    def specs(self, logs: Path) -> list[ChildSpec]:
        """How to run the port mapper, then the node. A node starts the port mapper as a daemon that outlives it, unless
        there is one."""
        which = lambda name: shutil.which(name, path=_PLACES) or name  # noqa: E731
        mapper = [which("epmd"), "-address", "127.0.0.1", "-port", str(self._epmd_port)]
        environment = {
            "PATH": _PLACES, "HOME": str(self._folder), "LANG": "C.UTF-8", "ERL_EPMD_PORT": str(self._epmd_port),
            "RABBITMQ_NODENAME": f"clonejob-{self.port}@localhost", "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._dist_port), "RABBITMQ_MNESIA_BASE": str(self._folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self._folder / "log"), "RABBITMQ_PID_FILE": str(self._folder / "pid"),
            "RABBITMQ_CONFIG_FILE": str(self._folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._folder / "enabled_plugins"),
        }  # fmt: skip
        return [
            ChildSpec("epmd", mapper, logs / "epmd.log", environment, signal.SIGKILL),
            ChildSpec("broker", [which("rabbitmq-server")], logs / "broker.log", environment, signal.SIGKILL, 20.0),
        ]

    def answers(self) -> bool:
        """Whether it takes connections."""
        with contextlib.closing(kombu.Connection(self.url, connect_timeout=2)) as connection:
            connection.ensure_connection(max_retries=1, timeout=2)
        return True

    def purge(self) -> bool:
        """Lose every message that waits. Raises: OSError, kombu.exceptions.OperationalError."""
        with contextlib.closing(kombu.Connection(self.url, connect_timeout=2)) as connection:
            channel = connection.channel()
            for queue in QUEUES:
                channel.queue_purge(queue)
        return True
