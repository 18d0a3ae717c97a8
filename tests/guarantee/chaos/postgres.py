"""A PostgreSQL cluster of our own, made from the installed binaries; as another user where we are root."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path

import psycopg

from worker.broker import free_port
from worker.supervisor import ChildSpec

_USER = "postgres"


def binaries() -> Path | None:
    """The folder of ``initdb`` and ``postgres``, the newest version's if there are several."""
    installed = sorted(
        (path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")),
        key=lambda path: int(path.parent.name.split(".")[0]),
    )
    on_path = shutil.which("initdb")
    found = [Path(on_path).resolve().parent] if on_path else installed
    return found[-1] if found else None


def why_not() -> str:
    """What is missing for a cluster of our own; "" if nothing is."""
    if binaries() is None:
        return "PostgreSQL's initdb is neither on the PATH nor below /usr/lib/postgresql"
    if os.geteuid() == 0:
        try:
            pwd.getpwnam(_USER)
        except KeyError:
            return f"root cannot run PostgreSQL, and there is no user {_USER}"
        if shutil.which("setpriv") is None:
            return "root cannot run PostgreSQL, and there is no setpriv to become another user"
    return ""


class Postgres:
    """The cluster's folder, address and command lines."""

    def __init__(self, folder: Path) -> None:
        """Raises: RuntimeError if it cannot be run here."""
        bin_folder = binaries()
        if (reason := why_not()) or bin_folder is None:
            raise RuntimeError(reason)
        self.port = free_port()
        self._folder = folder / "postgresql"
        self._bin = bin_folder
        self._as: list[str] = []
        if os.geteuid() == 0:
            self._as = ["setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--init-groups"]

    def make(self) -> None:
        """Make the cluster."""
        self._folder.mkdir(mode=0o700)
        if self._as:
            shutil.chown(self._folder, _USER, _USER)
        command = [f"{self._bin}/initdb", "-D", str(self._folder), "-A", "trust", "-U", _USER, "-E", "UTF8"]
        done = subprocess.run(
            [*self._as, *command, "--locale=C", "--no-sync"], capture_output=True, text=True, cwd="/", check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"initdb failed: {done.stderr}")

    def spec(self, log_path: Path) -> ChildSpec:
        """How to run it. It loses its parent-death signal with its user, unless setpriv keeps it."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "max_connections": 250,
            "shared_buffers": "32MB",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        keep = ["--pdeathsig=SIGQUIT"] if self._as else []
        command = [*self._as, *keep, f"{self._bin}/postgres", "-D", str(self._folder), *options]
        return ChildSpec("database", command, log_path, orphan_signal=signal.SIGQUIT, stop_grace_s=15.0)

    def url(self, port: int) -> str:
        """Its address behind a port."""
        return f"postgresql://{_USER}@127.0.0.1:{port}/postgres"

    def answers(self) -> bool:
        """Whether it takes connections."""
        with psycopg.connect(self.url(self.port), connect_timeout=2) as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)
