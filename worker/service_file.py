"""What a running ``up`` leaves in its data folder for others: a lock, and a file that says where the service is."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from worker.broker import write_private
from worker.settings import Settings

_LOCK = "lock"
_FILE = "service.json"


class DataDirInUse(Exception):
    """Another service has the data folder."""


@contextlib.contextmanager
def lock_data_dir(data_dir: Path) -> Iterator[None]:
    """Have the data folder alone. The kernel lets go of the lock when the process ends, in whatever way.

    Raises: DataDirInUse, which names the process that has it.
    """
    descriptor = os.open(data_dir / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = file.read().strip() or "unknown"
            raise DataDirInUse(
                f"data folder {data_dir} is in use by another clonejob (pid {holder}); "
                "stop it or choose another --data-dir."
            ) from None
        file.seek(0)
        file.truncate()
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


class ServiceFile:
    """The file of a running service, kept current by its supervisor; its owner alone may read it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.ready = False
        self._path = settings.data_dir / _FILE

    def write(self, children: Mapping[str, int]) -> None:
        """Write what is true now."""
        s = self.settings
        body = {
            "pid": os.getpid(),
            "ready": self.ready,
            "rest_url": s.rest_url,
            "grpc_address": s.grpc_address,
            "rest_host": s.rest_host,
            "rest_port": s.rest_port,
            "grpc_host": s.grpc_host,
            "grpc_port": s.grpc_port,
            "broker_url": s.broker_url,
            "database_url": s.database_url,
            "data_dir": str(s.data_dir),
            "project": s.project,
            "children": dict(children),
        }
        write_private(self._path, json.dumps(body, indent=2) + "\n")

    def remove(self) -> None:
        """The service has stopped."""
        self._path.unlink(missing_ok=True)


def read_service(data_dir: Path) -> dict[str, Any] | None:
    """What the service of this folder says of itself, or None when none runs there."""
    try:
        body: dict[str, Any] = json.loads((data_dir / _FILE).read_text())
        os.kill(body["pid"], 0)
    except (FileNotFoundError, NotADirectoryError, ProcessLookupError, ValueError, KeyError, TypeError):
        return None
    except PermissionError:  # another user's service: ours to reach only by its address
        return None
    return body
