"""Virtual machines as processes: find them, start them, ask them, and make sure that they are gone.

A process counts as ours only by the label on its command line, never by a pid in a file: pids are used again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from qemu.qmp import QMPClient, QMPError

from targets.errors import RefusedError, TransientError, UnsupportedError
from targets.qemu_machine import PID_FILE, QMP_SOCKET, VmLabel
from targets.qemu_tools import CLEAN_ENVIRONMENT, last_line, limited

QUIT_WAIT_S = 2.0
_STDERR_LOG = "stderr.log"
_DISK_IN_USE = 'Failed to get "write" lock'
_HEADROOM_BYTES = 8 * 2**30  # of QEMU's own address space, above all the memory of the host


@dataclass(frozen=True, slots=True)
class VmProcess:
    """One running QEMU process of ours."""

    pid: int
    label: VmLabel


def running(root_id: str) -> list[VmProcess]:
    """All QEMU processes that belong to one target's root, as the kernel lists them."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            process = _process(int(entry.name))
            if process is not None and process.label.root_id == root_id:
                found.append(process)
    return found


def of_instance(folder: Path, root_id: str, uid: str) -> list[VmProcess]:
    """The processes of one instance: two for a moment while it starts, else one or none."""
    try:
        process = _process(int((folder / PID_FILE).read_text()))
    except (OSError, ValueError):
        process = None
    if process is not None and process.label.uid == uid:
        return [process]
    return [process for process in running(root_id) if process.label.uid == uid]


def start(command: Sequence[str], folder: Path, *, timeout_s: float) -> None:
    """Start QEMU in ``folder`` in a session of its own; returns when its monitor listens.

    It outlives this process and its group. Raises: RefusedError with QEMU's reason; TransientError on a time-out or
    while another process has a disk open; UnsupportedError if QEMU cannot be executed.
    """
    for stale in (PID_FILE, QMP_SOCKET):
        (folder / stale).unlink(missing_ok=True)
    log = folder / _STDERR_LOG
    # Where the host overcommits without bound, any amount of memory would be granted and the host killed later.
    limits = {"as": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") + _HEADROOM_BYTES, "core": 0}
    try:
        with log.open("wb") as output:
            process = subprocess.Popen(
                limited(command, **limits),
                cwd=folder,
                env=CLEAN_ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
    except OSError as error:
        raise UnsupportedError(f"QEMU could not be executed: {error.strerror}.") from error
    try:
        status = process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise TransientError(f"QEMU did not start within {timeout_s:g} s.") from None
    if status:
        reason = last_line(log.read_bytes(), command[0])
        raise TransientError(f"QEMU: {reason}") if _DISK_IN_USE in reason else RefusedError(reason)


def is_answering(folder: Path) -> bool:
    """Whether the machine's monitor answers and the machine is not shut down."""
    return _qmp(folder, "query-status")


def stop(processes: Sequence[VmProcess], folder: Path, *, timeout_s: float) -> None:
    """End the machine: ask it, then kill it, and return only when its processes are gone.

    Raises: TransientError if one is still there after ``timeout_s``.
    """
    with contextlib.ExitStack() as stack:
        poller, open_fds = select.poll(), set()
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                pidfd = os.pidfd_open(process.pid)
                stack.callback(os.close, pidfd)
                # Looked at again now that the descriptor holds the process: the pid may have been given to another.
                if _process(process.pid) == process:
                    poller.register(pidfd, select.POLLIN)
                    open_fds.add(pidfd)
        if not open_fds:
            return
        _qmp(folder, "quit")
        _await_exit(poller, open_fds, QUIT_WAIT_S)
        for pidfd in open_fds:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        _await_exit(poller, open_fds, timeout_s)
        if open_fds:
            raise TransientError("The virtual machine's process does not end although it was killed; try again.")


def _await_exit(poller: select.poll, open_fds: set[int], wait_s: float) -> None:
    """Wait until the processes ended; takes those that did out of ``open_fds``."""
    deadline = time.monotonic() + wait_s
    while open_fds and (left_s := deadline - time.monotonic()) > 0:
        for pidfd, _ in poller.poll(left_s * 1000):
            poller.unregister(pidfd)
            open_fds.discard(pidfd)


def _process(pid: int) -> VmProcess | None:
    """The process with that pid if it is one of ours and not a zombie, which has no command line."""
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return None
    label = VmLabel.of(arguments)
    return None if label is None else VmProcess(pid, label)


@contextlib.contextmanager
def _socket_path(folder: Path) -> Iterator[str]:
    """A path of the monitor that is short enough: a socket's path may have 107 bytes, a folder's may have more."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{QMP_SOCKET}"
    finally:
        os.close(fd)


def _qmp(folder: Path, command: str) -> bool:
    """Whether the machine's monitor carried out ``command``; no monitor and no answer are a no."""

    async def execute(path: str) -> None:
        client = QMPClient("clonejob")
        async with asyncio.timeout(QUIT_WAIT_S):
            await client.connect(path)
            try:
                await client.execute(command)
            finally:
                with contextlib.suppress(QMPError, EOFError, OSError):  # after quit the other side is gone
                    await client.disconnect()

    try:
        with _socket_path(folder) as path:
            asyncio.run(execute(path))
    except (QMPError, EOFError, OSError, TimeoutError):
        return False
    return True
