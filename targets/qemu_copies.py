"""Full copies of snapshots: started as processes that outlive the call and the worker, found again, ended for good.

A copy holds the lock file in the disk's folder for as long as any process of it lives; the kernel lets it go whatever ends
them. Whether a process is a copy of ours is told by the label in its order.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from targets import disk_copy
from targets.base import Observed, Status
from targets.clone_modes import FULL
from targets.disk_copy import STATE_FILE
from targets.errors import RefusedError, TransientError
from targets.local_files import is_locked, read_json
from targets.qemu_folders import MAKING, Meta, disk_file
from targets.qemu_tools import CLEAN_ENVIRONMENT, cache_modes, find_tool, limited

MODE = "clone_mode"  # its name in a note
_LOCK = "copy.lock"
_MEMORY_BYTES = 2 * 2**30  # of address space; what it uses is bounded by its buffers
_LOOK_S = 0.005
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def start(
    folder: Path, *, label: str, verify: Path, sha256: str, convert: Path | None, target: str, total_bytes: int,
    qemu_img: str,
) -> None:  # fmt: skip
    """Start the copy, or take up the one that died; returns at once. Raises: UnsupportedError, OSError."""
    for program in ("setsid", "prlimit", qemu_img):
        find_tool(program)
    lock_fd = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # it runs
        state = (state_of(folder) or {}) if (folder / f"{target}.tmp").exists() else {}
        order = {
            "label": label, "verify": str(verify), "sha256": sha256, "convert": str(convert or ""), "target": target,
            "durable_bytes": int(state.get("durable_bytes", 0)), "verified_bytes": int(state.get("verified_bytes", 0)),
            "total_bytes": total_bytes, "qemu_img": find_tool(qemu_img), "options": cache_modes(folder), "lock_fd": lock_fd,
        }  # fmt: skip
        script = [sys.executable, "-I", "-S", str(Path(disk_copy.__file__).absolute()), json.dumps(order)]
        command = limited([find_tool("setsid"), "--fork", *script], core=0, **{"as": _MEMORY_BYTES})
        with (folder / "copy.log").open("wb") as log:
            subprocess.run(
                command, cwd=folder, env=CLEAN_ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                pass_fds=(lock_fd,), check=True,
            )  # fmt: skip
    except subprocess.CalledProcessError as error:
        raise RefusedError(f"The copy could not be started: {error}.") from error
    finally:
        os.close(lock_fd)


def is_copy(meta: Meta) -> bool:
    """Whether a process of its own makes it, or has made it; nobody writes READY into its note."""
    return meta.state == MAKING and meta.facts.get(MODE) == FULL


def as_seen(seen: Observed, folder: Path) -> Observed:
    """A full copy as its lock, its file and its state tell, in this order: it ends only after it has its name."""
    running, state = is_running(folder), state_of(folder)
    if running and state is not None:
        percent, detail = percent_of(state), detail_of(state)
        return replace(seen, status=Status.CREATING, progress_percent=percent, detail=detail)
    if running or disk_file(folder).is_file():
        return replace(seen, status=Status.CREATING if running else Status.READY, detail="")
    if seen.status is Status.CREATING:
        return seen  # somebody is about to start it, or to give it up
    return replace(seen, status=Status.FAILED, detail=(state or {}).get("error") or "the process that copied it died")


def is_running(folder: Path) -> bool:
    """Whether a process copies into the folder."""
    return is_locked(folder / _LOCK)


def state_of(folder: Path) -> dict[str, Any] | None:
    """What the copy said last; None if it has said nothing that can be read."""
    with contextlib.suppress(ValueError):
        return read_json(folder / STATE_FILE)
    return None


def percent_of(state: dict[str, Any]) -> int:
    """How much of it is done; 100 only when all is."""
    return min(99, 100 * int(state["bytes"]) // (int(state["total_bytes"]) or 1))


def detail_of(state: dict[str, Any]) -> str:
    """The same for people, such as "copying: 1.2 GiB of 8.0 GiB, 412.0 MiB/s"."""
    done, total, rate = (_sized(int(state[key])) for key in ("bytes", "total_bytes", "bytes_per_s"))
    return f"{state['phase']}: {done} of {total}, {rate}/s"


def stop(folder: Path, label: str, *, timeout_s: float) -> None:
    """End the copy and see that it is gone. Raises: TransientError."""
    deadline = time.monotonic() + timeout_s
    while is_running(folder):
        for pid in _processes(label):
            _kill(pid, label)
        if time.monotonic() >= deadline:
            raise TransientError("The process that copies the disk does not end although it was killed; try again.")
        time.sleep(_LOOK_S)


def _processes(label: str) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _is_copy(int(entry.name), label):
            yield int(entry.name)


def _is_copy(pid: int, label: str) -> bool:
    """A copy's last argument is its order, whose first key is the label."""
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return False
    return arguments[-1].startswith(f'{{"label": {json.dumps(label)},')


def _kill(pid: int, label: str) -> None:
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            if _is_copy(pid, label):  # the pid may have been given to another before it was held
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                select.select([pidfd], [], [], 1)
        finally:
            os.close(pidfd)


def _sized(count: float) -> str:
    for unit in _UNITS:
        if count < 1024 or unit == _UNITS[-1]:
            return f"{count:.1f} {unit}" if unit != "B" else f"{count:.0f} B"
        count /= 1024
    raise AssertionError
