"""The service that the demo drives: ``clonejob up`` in a process of its own, and commands as a user would type them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 40.0


class DemoError(Exception):
    """Something that the demo claims did not happen."""


@dataclass(frozen=True)
class Service:
    """Where the running service is."""

    rest_url: str
    grpc_address: str
    data_dir: Path

    def command(self, *arguments: str) -> str:
        """Run ``clonejob …`` against this service; what it printed. Raises: DemoError with what it printed on error."""
        done = subprocess.run(
            _clonejob("--data-dir", str(self.data_dir), *arguments),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode != 0:
            raise DemoError(f"clonejob {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout.strip()


def _clonejob(*arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", "worker.cli", *arguments]


@contextlib.contextmanager
def running_service(data_dir: Path, *, keep: bool) -> Iterator[Service]:
    """Start ``clonejob up`` on free ports and wait for its ``ready`` line; stop it at the end unless ``keep``.

    Raises: DemoError with what it printed if it does not come up.
    """
    log_path = data_dir / "up.log"
    with log_path.open("w") as log:
        process = subprocess.Popen(
            _clonejob("--data-dir", str(data_dir), "up", "--rest-port", "0", "--grpc-port", "0"),
            stdout=log, stderr=subprocess.STDOUT, start_new_session=True, env=_environment(),
        )  # fmt: skip
    kept = False
    try:
        yield _wait_until_ready(process, log_path, data_dir)
        kept = keep
    finally:
        if not kept:
            _stop(process)


def _environment() -> dict[str, str]:
    """Nothing of the user's own settings reaches the demo's service, and a cancel is noticed quickly."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CLONEJOB_")}
    return clean | {"CLONEJOB_INLINE_WAIT_S": "0.5", "CLONEJOB_POLL_S": "0.5"}


def _wait_until_ready(process: subprocess.Popen[bytes], log_path: Path, data_dir: Path) -> Service:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        lines = log_path.read_text().splitlines()
        for line in lines:
            if line.startswith("ready "):
                found = dict(part.split("=", 1) for part in line.split()[1:])
                return Service(found["rest"], found["grpc"], data_dir)
        if process.poll() is not None:
            raise DemoError("the service did not start:\n" + "\n".join(lines[-20:]))
        time.sleep(0.1)
    raise DemoError(f"the service was not ready after {_START_TIMEOUT_S:.0f} s; its log is {log_path}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
