"""``clonejob vmhost``: has the machines of all targets with the option ``vmhost``, so that workers may come and go.

Two processes. The keeper holds each target's lock, starts the server again when it dies, and takes away what the kernel
hands to the first process of a container: machines that have ended. The server does the work. Whatever becomes of either,
machines go on; as the keeper is the container's first process, they end with the container, as they end with a host.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from targets.qemu_options import QemuOptions
from targets.qemu_vmhost import VmHost
from targets.qemu_vmhost_server import Host, VmHostInUse, serving, sole_vmhost
from worker.settings import Settings, child_command, child_environment, load_settings
from worker.supervisor import ChildSpec, Supervisor, die_with_parent

log = logging.getLogger("clonejob.vmhost")

_NAME = "server"
_LOOK_S = 0.1
_READY_TIMEOUT_S = 60.0
_TAKE_OVER_S = 10.0  # how long the vmhost before us may take to end


class VmHostError(Exception):
    """The vmhost cannot run; the message says why and what to do."""


def hosted(settings: Settings) -> dict[str, tuple[Path, QemuOptions]]:
    """Folder and options of each target whose machines a vmhost has, by the target's name."""
    options = {name: each.options for name, each in settings.targets.items()}
    return {
        name: (settings.data_dir / "targets" / name, each)
        for name, each in options.items()
        if isinstance(each, QemuOptions) and each.vmhost
    }


def client_of(settings: Settings, name: str) -> VmHost:
    """How the vmhost of a target is asked."""
    return VmHost(hosted(settings)[name][0], call_timeout_s=settings.provider_call_limit_s)


def keep(settings: Settings, announce: Callable[[str], None]) -> None:
    """Run until SIGTERM or SIGINT. Raises: VmHostError."""
    found = hosted(settings)
    if not found:
        raise VmHostError(
            "no target has the option vmhost; set it, for example: "
            'CLONEJOB_TARGETS=\'{"local": {"type": "qemu", "vmhost": true}}\'.'
        )
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: asked.append(received))
    supervisor = Supervisor(spawner=_spawn)
    with contextlib.ExitStack() as held:
        for root, _ in found.values():
            _take(root, held, asked)
        if asked:
            return
        command = child_command("worker.vmhost")
        spec = ChildSpec(_NAME, command, settings.data_dir / "logs" / "vmhost.log", child_environment(settings))
        supervisor.start(spec)
        supervisor.mark_ready()
        ready, started_at = False, time.monotonic()
        try:
            while not asked:
                if not ready and (ready := all(_answers(settings, name) for name in found)):
                    announce(f"ready vmhost={','.join(found)} data={settings.data_dir}")
                if not ready and time.monotonic() - started_at > _READY_TIMEOUT_S:
                    raise VmHostError(
                        f"the server did not answer within {_READY_TIMEOUT_S:.0f} s; see what it said above."
                    )
                supervisor.tend()
                reap(supervisor.pids().values())
                time.sleep(_LOOK_S)
        finally:
            supervisor.stop([_NAME])


def reap(children: Collection[int]) -> None:
    """Take away processes that have ended and were handed to us, who may be the first of a container; ``children`` are
    somebody else's to wait for."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if ended.si_pid in children:
                return  # its own waiter comes first; the next look takes the others
            os.waitpid(ended.si_pid, os.WNOHANG)


def serve(settings: Settings) -> None:
    """The server itself, until SIGTERM; its parent holds the locks."""
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):  # handled, not blocked: a machine would inherit that
        signal.signal(number, lambda *_: stopped.set())
    limit_s = settings.provider_call_limit_s
    hosts = [Host(root, options.machines(), call_timeout_s=limit_s) for root, options in hosted(settings).values()]
    with serving(hosts):
        stopped.wait()


def _take(root: Path, held: contextlib.ExitStack, asked: list[int]) -> None:
    deadline = time.monotonic() + _TAKE_OVER_S
    while not asked:
        try:
            held.enter_context(sole_vmhost(root))
        except VmHostInUse as error:
            if time.monotonic() >= deadline:
                raise VmHostError(str(error)) from None
            time.sleep(_LOOK_S)
        else:
            return


def _answers(settings: Settings, name: str) -> bool:
    from targets.errors import TransientError

    try:
        client_of(settings, name).ping()
    except TransientError:
        return False
    return True


def _spawn(spec: ChildSpec) -> subprocess.Popen[bytes]:
    """Its output is ours: a container's log."""
    parent = os.getpid()
    return subprocess.Popen(
        list(spec.argv), stdin=subprocess.DEVNULL, env=dict(spec.env or {}), start_new_session=True,
        preexec_fn=lambda: die_with_parent(parent, signal.SIGKILL),  # noqa: PLW1509 - as in worker/supervisor.py
    )  # fmt: skip


def log_to_stderr(level: str) -> None:
    """What it started and ended, with the container's name."""
    shape = f"%(asctime)s {socket.gethostname()} %(name)s %(message)s"
    logging.basicConfig(stream=sys.stderr, level=level, format=shape, datefmt="%H:%M:%S")


def main(**overrides: Any) -> None:
    """Load the settings and run the keeper; what the command line calls."""
    settings = load_settings(**overrides)
    log_to_stderr(settings.log_level)
    keep(settings, lambda line: print(line, flush=True))  # noqa: T201


if __name__ == "__main__":
    _settings = load_settings()
    log_to_stderr(_settings.log_level)
    serve(_settings)
