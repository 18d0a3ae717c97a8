"""Virtual machines as processes: find them, start them, ask them, and make sure that they are gone.

A process counts as ours only by the label on its command line, never by a pid in a file: pids are used again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qemu.qmp import ExecuteError, QMPClient, QMPError

from targets.errors import RefusedError, TargetError, TransientError, UnsupportedError
from targets.qemu_machine import FIRMWARE_LOG, PID_FILE, QMP_SOCKET, SERIAL_LOG, VmLabel
from targets.qemu_tools import CLEAN_ENVIRONMENT, find_tool, last_line, limited

QUIT_WAIT_S = 2.0
_BUSY_PAUSE_S = 0.05
_NO_ANSWER = (QMPError, EOFError, OSError, TimeoutError)
_STDERR_LOG = "stderr.log"
_DISK_IN_USE = 'Failed to get "write" lock'
_NOT_EXECUTED = re.compile("failed to execute|cannot execute|Exec format")
_START_LOOK_S = 0.01
_GONE = " (deleted)"  # how the kernel names a folder that is no more
_HEADROOM_BYTES = 8 * 2**30  # of QEMU's own address space, above all the memory of the host


@dataclass(frozen=True, slots=True)
class VmProcess:
    """One running QEMU process of ours. ``folder`` is where it works by now, None if that cannot be told."""

    pid: int
    label: VmLabel
    folder: str | None = field(default=None, compare=False)


def running(root_id: str, root: Path | None = None) -> list[VmProcess]:
    """All QEMU processes that belong to one target's root, as the kernel lists them: those that were started there, and
    with ``root`` those that work in it by now, for a data folder may be moved while its machines run."""
    return [each for each in _all() if _is_of(each, root_id, root)]


def of_uid(uid: str, root_id: str, root: Path) -> list[VmProcess]:
    """The processes of one instance, wherever its folder has been moved.

    A machine that works in a folder which exists elsewhere is that folder's: ours is a copy of it then.
    """
    mine = (each for each in _all() if each.label.uid == uid)
    return [each for each in mine if _is_of(each, root_id, root) or (each.folder or "").endswith(_GONE)]


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
    """Start QEMU in ``folder`` in a session of its own; returns when its monitor answers.

    It outlives this process and its group, and is nobody's child: QEMU's own ``-daemonize`` would not stand its whole
    sandbox. Raises: RefusedError with QEMU's reason; TransientError on a time-out or while another process has a disk
    open; UnsupportedError if QEMU cannot be executed.
    """
    for stale in (PID_FILE, QMP_SOCKET, SERIAL_LOG, FIRMWARE_LOG, _STDERR_LOG):
        (folder / stale).unlink(missing_ok=True)
    deadline = time.monotonic() + timeout_s
    # Where the host overcommits without bound, any amount of memory would be granted and the host killed later.
    limits = {"as": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") + _HEADROOM_BYTES, "core": 0}
    # The shell tells its process id, which QEMU then has.
    shell = [find_tool("setsid"), "--fork", "/bin/sh", "-c", 'echo $$; unset PWD; exec "$@" >&2', "sh"]
    log = folder / _STDERR_LOG
    try:
        with log.open("ab") as output:
            said = subprocess.run(
                [*shell, *limited(command, **limits)], cwd=folder, env=CLEAN_ENVIRONMENT, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=output, check=True,
            ).stdout  # fmt: skip
        pidfd = os.pidfd_open(int(said))
    except (subprocess.CalledProcessError, ValueError, OSError):
        raise _refused(log, command[0]) from None
    try:
        _await_answer(pidfd, folder, deadline)
    except ProcessLookupError:
        raise _refused(log, command[0]) from None
    except TimeoutError:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        raise TransientError(f"QEMU did not start within {timeout_s:g} s.") from None
    finally:
        os.close(pidfd)


def _await_answer(pidfd: int, folder: Path, deadline: float) -> None:
    """Wait until the monitor answers, which it does when all is set up. Raises: ProcessLookupError, TimeoutError."""
    while not ((folder / QMP_SOCKET).exists() and is_answering(folder)):
        if select.select([pidfd], [], [], _START_LOOK_S)[0]:
            raise ProcessLookupError
        if time.monotonic() >= deadline:
            raise TimeoutError


def _refused(log: Path, program: str) -> TargetError:
    reason = last_line(log.read_bytes(), program)
    if _NOT_EXECUTED.search(reason):
        return UnsupportedError(f"QEMU could not be executed: {reason}.")
    return TransientError(f"QEMU: {reason}") if _DISK_IN_USE in reason else RefusedError(reason)


def is_answering(folder: Path) -> bool:
    """Whether the machine's monitor answers and the machine is not shut down."""
    return _qmp(folder, "query-status")


def screenshot(folder: Path, runs: Callable[[], bool], *, timeout_s: float) -> bytes | None:
    """What the machine's screen shows, as PNG; None if it does not run any more.

    The monitor serves one client at a time; another one is waited for. Raises: TransientError with QEMU's reason, or
    when the monitor has not answered within ``timeout_s``.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        wait_s = max(0.1, min(QUIT_WAIT_S, deadline - time.monotonic()))
        try:
            return _screendump(folder, wait_s)
        except ExecuteError as error:
            raise TransientError(f"QEMU could not take a screenshot: {error}.") from error
        except _NO_ANSWER:
            if not runs():
                return None
            if time.monotonic() >= deadline:
                raise TransientError("The machine's monitor is busy and gave no screenshot in time.") from None
            time.sleep(_BUSY_PAUSE_S)


def _screendump(folder: Path, wait_s: float) -> bytes:
    """The screen, which QEMU writes into memory that we hand over: so it needs no folder that it may write to."""
    with os.fdopen(os.memfd_create("screen", os.MFD_CLOEXEC), "rb") as memory:
        # QEMU takes a descriptor only for what it was opened for.
        writable = os.open(f"/proc/self/fd/{memory.fileno()}", os.O_WRONLY | os.O_CLOEXEC)

        async def dump(client: QMPClient) -> None:
            client.send_fd_scm(writable)
            handed = await client.execute("add-fd")
            assert isinstance(handed, dict)
            name = f"/dev/fdset/{handed['fdset-id']}"
            try:
                await client.execute("screendump", {"filename": name, "format": "png"})
            finally:
                await client.execute("remove-fd", {"fdset-id": handed["fdset-id"]})

        try:
            _talk(folder, dump, wait_s)
        finally:
            os.close(writable)
        return memory.read()


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
    if label is None:
        return None
    try:
        return VmProcess(pid, label, str(Path(f"/proc/{pid}/cwd").readlink()))
    except OSError:  # another user's, or it has just ended
        return VmProcess(pid, label)


def _all() -> Iterator[VmProcess]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (process := _process(int(entry.name))) is not None:
            yield process


def _is_of(process: VmProcess, root_id: str, root: Path | None) -> bool:
    if process.label.root_id == root_id:
        return True
    return root is not None and process.folder is not None and Path(process.folder).is_relative_to(root)


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
    try:
        _talk(folder, lambda client: client.execute(command), QUIT_WAIT_S)
    except _NO_ANSWER:
        return False
    return True


def _talk(folder: Path, talk: Callable[[QMPClient], Awaitable[object]], wait_s: float) -> None:
    """Talk to the monitor. Raises: ExecuteError with the monitor's reason; one of ``_NO_ANSWER``."""

    async def connected(path: str) -> None:
        client = QMPClient("clonejob")
        async with asyncio.timeout(wait_s):
            await client.connect(path)
            try:
                await talk(client)
            finally:
                with contextlib.suppress(QMPError, EOFError, OSError):  # after quit the other side is gone
                    await client.disconnect()

    with _socket_path(folder) as path:
        asyncio.run(connected(path))
