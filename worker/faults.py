"""Faults at named I/O points, for tests with real processes; active only with ``CLONEJOB_FAULT_PLAN``.

The plan is a JSON file: ``[{"point": "target.create.disk", "phase": "before", "action": "kill", "times": 1}]``.
``point`` may hold wildcards, as may ``role``, the kind of process (``api``, ``steps``, ``steps-main``, ``control``);
``phase`` is before or after the real call. ``times`` is counted across processes, by files beside the plan:
``PLAN.N.K`` for the K-th firing of entry N, holding the pid. A plan that is replaced by another file is read again, so
that one running service serves many cases. Actions:

``kill``        SIGKILL of the process
``error``       raise; in phase after: the call returned, and then its caller gets an error
``lose_reply``  the call takes effect, and what makes it gets an error instead of the reply: the commit lands and the
                commit raises, the message is in its queue and the publish raises, the target has acted and the target
                raises (``script``: the root of a simulated target, which loses the reply itself)
``refuse``      a target's permanent error
``hang``        sleep ``seconds``
``note``        append a line to ``PLAN.passed`` for every passage, and one to ``PLAN.outside`` for every statement
                or message that is sent while no point is open
"""

from __future__ import annotations

import fnmatch
import json
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import billiard
import kombu
from celery.signals import before_task_publish
from kombu.exceptions import OperationalError as BrokerError
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import Pool

from models import io_points
from targets.errors import RefusedError, TransientError
from targets.simulated_faults import Fault, FaultScript


class FaultPlan:
    """A hook for ``models.io_points``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read: tuple[tuple[int, int], list[dict[str, Any]]] = ((0, 0), [])
        self._losing = threading.local()
        self._entries()
        _Below.plan = self
        _Below.install()

    def __call__(self, point: str, phase: str) -> None:
        """Fire what the plan says for this point and phase."""
        lost = getattr(self._losing, "point", None)
        if phase == "after" and lost == point:
            self._losing.point = None  # nothing was committed or published: the reply of a read is lost
            raise _error(point)
        for number, entry in enumerate(self._entries()):
            if not fnmatch.fnmatchcase(point, entry["point"]) or not fnmatch.fnmatchcase(
                role(), entry.get("role", "*")
            ):
                continue
            if entry["action"] == "note":
                self._note("passed", [time.time(), os.getpid(), role(), point, phase, io_points.open_points()[:-1]])
            elif entry.get("phase", "before") == phase and self._take(number, entry.get("times", 1)):
                self._fire(point, entry)

    def outside(self, what: str) -> None:
        """Something was sent; a plan that notes wants to know of it if no point is open."""
        if not io_points.open_points() and any(entry["action"] == "note" for entry in self._entries()):
            stack = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_stack()[-40:]]
            self._note("outside", [role(), what, [line for line in stack if "site-packages" not in line]])

    def loses(self, kind: str) -> OperationalError | BrokerError | TransientError | None:
        """The error that this thread gets instead of a reply, if its plan says so; once."""
        lost: str | None = getattr(self._losing, "point", None)
        if lost is None or lost.startswith("broker.") != (kind == "broker"):
            return None
        self._losing.point = None
        return _error(lost)

    def _entries(self) -> list[dict[str, Any]]:
        found = self._path.stat()
        version = (found.st_mtime_ns, found.st_ino)
        if self._read[0] != version:
            self._read = (version, json.loads(self._path.read_text()))
        return self._read[1]

    def _take(self, number: int, times: int) -> bool:
        for count in range(times):
            try:
                with self._path.with_name(f"{self._path.name}.{number}.{count}").open("x") as mark:
                    mark.write(str(os.getpid()))
            except FileExistsError:
                continue
            return True
        return False

    def _note(self, name: str, line: list[Any]) -> None:
        fd = os.open(f"{self._path}.{name}", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.write(fd, json.dumps(line).encode() + b"\n")
        finally:
            os.close(fd)

    def _fire(self, point: str, entry: dict[str, Any]) -> None:
        match entry["action"]:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                time.sleep(entry.get("seconds", 3600))
            case "error":
                raise _error(point)
            case "refuse":
                raise RefusedError(f"refused at {point}")
            case "lose_reply" if "script" in entry and point.startswith("target."):
                _, call, kind = point.split(".")
                FaultScript(Path(entry["script"])).add(Fault(call, "lose_reply", None if kind == "job" else kind))
            case "lose_reply":
                self._losing.point = point
            case unknown:
                raise ValueError(f"fault plan: unknown action {unknown!r}")


class _Below:
    """What lies below the points: database drivers and the broker's client, of which every process has one."""

    plan: FaultPlan | None = None
    _installed = False

    @classmethod
    def install(cls) -> None:
        if cls._installed:
            return
        cls._installed = True
        event.listen(Engine, "before_cursor_execute", cls._statement)
        event.listen(Engine, "commit", cls._commit)
        event.listen(
            Pool, "checkout", cls._checkout
        )  # models.prepared runs on the driver's cursor, which no event tells of
        before_task_publish.connect(cls._message, weak=False)
        publish = kombu.Producer._publish  # noqa: SLF001 - below it there is only the socket

        def losing(self: kombu.Producer, *args: Any, **options: Any) -> Any:
            sent = publish(self, *args, **options)
            if cls.plan is not None and (error := cls.plan.loses("broker")):
                raise ConnectionError(str(error))  # what kombu meets, and tries again by itself: a duplicate
            return sent

        kombu.Producer._publish = losing  # type: ignore[method-assign]  # noqa: SLF001

    @classmethod
    def _statement(cls, _connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if cls.plan is not None:
            cls.plan.outside(statement)

    @classmethod
    def _checkout(cls, *_: Any) -> None:
        if cls.plan is not None:
            cls.plan.outside("a connection is taken")

    @classmethod
    def _commit(cls, connection: Connection) -> None:
        if cls.plan is not None and (error := cls.plan.loses("database")):
            connection.dialect.do_commit(connection.connection)
            raise error

    @classmethod
    def _message(cls, sender: str, **_: Any) -> None:
        if cls.plan is not None:
            cls.plan.outside(f"message {sender}")


def role() -> str:
    """The kind of this process: the first part of a worker's name, ``-main`` beside its pool children; ``api``."""
    if "-n" not in sys.argv:
        return sys.argv[1] if len(sys.argv) > 1 else "main"
    name = sys.argv[sys.argv.index("-n") + 1].partition("@")[0]
    forks = "prefork" in sys.argv
    return f"{name}-main" if forks and billiard.current_process().name == "MainProcess" else name


def _error(point: str) -> OperationalError | BrokerError | TransientError:
    """What the caller of a point would see of a fault below it."""
    if point.startswith("target."):
        return TransientError(f"injected at {point}")
    if point.startswith("broker."):
        return BrokerError(f"injected at {point}")
    return OperationalError(point, {}, Exception("injected"))
