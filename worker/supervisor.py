"""Child processes that are kept alive: started in their own session, restarted when they die, stopped in order.

Each child leads its own process group, so that Ctrl-C reaches only the supervisor, and a child that died is cleared
away with all that it had started before it is started again. On Linux the kernel signals every child when the
supervisor dies in whatever way. Start children from the main thread: the kernel's signal follows the thread.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

BACKOFF_FIRST_S = 0.2
BACKOFF_MAX_S = 10.0
HEALTHY_AFTER_S = 30.0
QUICK_DEATHS = 5
_LOG_BYTES_MAX = 20 * 2**20
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """How to run one child. ``orphan_signal`` is what it gets when the supervisor itself dies."""

    name: str
    argv: Sequence[str]
    log_path: Path
    env: Mapping[str, str] | None = None
    orphan_signal: int = signal.SIGTERM
    stop_grace_s: float = 10.0


class ChildFailed(Exception):
    """A child died again and again before the service was ready; the message holds the end of its log."""


def spawn(spec: ChildSpec) -> subprocess.Popen[bytes]:
    """Start the child as leader of a new session, with its output appended to its log."""
    _rotate(spec.log_path)
    parent = os.getpid()
    with os.fdopen(os.open(spec.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as output:
        return subprocess.Popen(
            list(spec.argv),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(spec.env) if spec.env is not None else None,
            start_new_session=True,
            # One prctl and one getppid between fork and exec; the supervisor has one thread, so no lock is held.
            preexec_fn=lambda: die_with_parent(parent, spec.orphan_signal),  # noqa: PLW1509
        )


def log_tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 16_384))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])


class Child:
    """One child over all its lives."""

    def __init__(
        self, spec: ChildSpec, *, clock: Callable[[], float], spawner: Callable[[ChildSpec], subprocess.Popen[bytes]]
    ) -> None:
        self.spec = spec
        self.restarts = 0
        self.deaths = 0
        self._clock = clock
        self._spawner = spawner
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._start_at: float | None = None
        self._backoff_s = BACKOFF_FIRST_S

    @property
    def pid(self) -> int | None:
        """Process id while it lives."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start it now. Raises: OSError when it cannot be started, for want of disk space for its log for example."""
        self._process = self._spawner(self.spec)
        self._started_at = self._clock()
        self._start_at = None

    def tend(self) -> bool:
        """Notice its death, or start it again when the pause is over; returns whether its pid changed."""
        if self._process is not None:
            status = self.reap()
            if status is None:
                return False
            self._plan_restart(status)
            return True
        if self._start_at is None or self._clock() < self._start_at:
            return False
        self.restarts += 1
        try:
            self.start()
        except OSError as error:
            log.warning("%s cannot be started (%s); trying again", self.spec.name, error.strerror or error)
            self._start_at = self._clock() + self._backoff_s
            self._backoff_s = min(self._backoff_s * 2, BACKOFF_MAX_S)
            return False
        return True

    def signal(self, number: int) -> None:
        """Send a signal to the child itself, not to its group: a Celery worker stops its own pool.

        Not by ``Popen.send_signal``: it would reap a child that has just died, before ``reap`` clears its group away.
        """
        if self._process is not None and self._process.returncode is None:
            os.kill(self._process.pid, number)  # at worst a zombie of ours: the pid cannot be another's yet

    def kill(self) -> None:
        """End the child and all that it started, at once."""
        if self._process is not None:
            _kill_group(self._process.pid)

    def reap(self) -> int | None:
        """Exit status once it has ended, with nothing left of its process group; None while it lives."""
        if self._process is None:
            return 0
        # Look first without reaping: while the dead leader is a zombie, its group id cannot belong to anyone else.
        # What has been reaped already (Popen does so when a signal is sent) has left no group that we may still name.
        if self._process.returncode is None:
            if os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return None
            _kill_group(self._process.pid)
        status = self._process.wait()
        self._process = None
        return status

    def forget(self) -> None:
        """Do not start it again."""
        self._start_at = None

    def _plan_restart(self, status: int) -> None:
        self.deaths += 1
        now = self._clock()
        if now - self._started_at >= HEALTHY_AFTER_S:
            self._backoff_s = BACKOFF_FIRST_S
        self._start_at = now + self._backoff_s
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        log.warning("%s ended (%s); starting it again in %.1f s", self.spec.name, how, self._backoff_s)
        self._backoff_s = min(self._backoff_s * 2, BACKOFF_MAX_S)


class Supervisor:
    """Keeps children alive until it is told to stop them. Clock, sleep and spawn are arguments for tests."""

    def __init__(
        self,
        *,
        on_change: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        spawner: Callable[[ChildSpec], subprocess.Popen[bytes]] = spawn,
    ) -> None:
        self.children: dict[str, Child] = {}
        self._ready = False
        self._on_change = on_change
        self._clock = clock
        self._sleep = sleep
        self._spawner = spawner

    def start(self, spec: ChildSpec) -> Child:
        """Start a child and keep it alive from now on."""
        child = Child(spec, clock=self._clock, spawner=self._spawner)
        self.children[spec.name] = child
        child.start()
        self._tell()
        return child

    def pids(self) -> dict[str, int]:
        """Process ids of the children that live."""
        return {name: child.pid for name, child in self.children.items() if child.pid is not None}

    def mark_ready(self) -> None:
        """From now on a child that dies is started again for ever."""
        self._ready = True

    def tend(self) -> None:
        """One look at every child. Raises: ChildFailed before ``mark_ready`` when a child cannot start at all."""
        changed = [child for child in self.children.values() if child.tend()]
        if changed:
            self._tell()
        failed = next((c for c in self.children.values() if c.deaths >= QUICK_DEATHS), None)
        if failed and not self._ready:
            raise ChildFailed(
                f"{failed.spec.name} ended {failed.deaths} times before the service was ready; "
                f"the end of {failed.spec.log_path}:\n{log_tail(failed.spec.log_path)}"
            )

    def stop(self, *groups: Sequence[str], hurry: Callable[[], bool] = lambda: False) -> None:
        """Stop the groups one after the other: SIGTERM, the children's grace, then SIGKILL for what is left of them.

        ``hurry`` may turn true while waiting: then the grace is over at once. Names that were never started are fine.
        """
        for group in groups:
            self._stop_group([self.children[name] for name in group if name in self.children], hurry)
            self._tell()

    def _tell(self) -> None:
        """What others are told of the children is a convenience: a full disk must not bring the children down."""
        try:
            self._on_change()
        except OSError as error:
            log.warning("the service file was not written (%s); free some space", error.strerror or error)

    def _stop_group(self, children: list[Child], hurry: Callable[[], bool]) -> None:
        for child in children:
            child.forget()
            child.signal(signal.SIGTERM)
        started_at = self._clock()
        while alive := [child for child in children if child.reap() is None]:
            waited_s = self._clock() - started_at
            for child in alive:
                if hurry() or waited_s >= child.spec.stop_grace_s:
                    log.warning("%s did not stop within %.1f s; killing it", child.spec.name, waited_s)
                    child.kill()
            self._sleep(0.05)


def die_with_parent(parent: int, number: int) -> None:
    """Have the kernel send this process ``number`` when its parent dies; for use right after a fork. Linux only."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:  # it died before the kernel was told
        os._exit(1)


def _kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # macOS says EPERM for a group of zombies
        log.debug("process group %d is gone already", group)


def _rotate(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > _LOG_BYTES_MAX:
        path.replace(path.with_name(path.name + ".1"))
