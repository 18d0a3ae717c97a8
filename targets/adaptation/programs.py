"""Programs that look into a guest's disk, under limits: time, processor, memory, size of what they write."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from targets.errors import TransientError
from targets.qemu_tools import CLEAN_ENVIRONMENT, limited

INSTALL_COMMAND = "apt-get install -y --no-install-recommends qemu-system-x86 e2fsprogs util-linux"
NEEDED = ("qemu-storage-daemon", "debugfs", "e2fsck", "setpriv", "prlimit")
_MEMORY_BYTES = 2 * 2**30
_CPU_S = 60
# What debugfs writes to a terminal must not go through a pager, and its times and words must not depend on the user.
_ENVIRONMENT = {**CLEAN_ENVIRONMENT, "DEBUGFS_PAGER": "__none__", "HOME": "/nonexistent"}


class Deadline:
    """When an adaptation must have ended, as a moment of the monotonic clock."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    def left_s(self) -> float:
        """Seconds that are left. Raises: TransientError if there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TransientError(f"The adaptation of the guest did not end within {self._seconds:g} s.")
        return left


def find(name: str) -> str | None:
    """Absolute path of an installed program, looked for in the system's own folders, whatever PATH is."""
    return shutil.which(name, path=CLEAN_ENVIRONMENT["PATH"])


def missing() -> str:
    """What the FUSE export needs and is not here, in words with the remedy; empty if nothing."""
    gone = [name for name in NEEDED if find(name) is None]
    if gone:
        return f"{', '.join(gone)} not installed on this machine; as root, run: {INSTALL_COMMAND}"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse cannot be opened on this machine; load the module fuse, or give the container the device"
    if os.geteuid() != 0 and find("fusermount3") is None:
        return "fusermount3 is not installed on this machine; as root, run: apt-get install -y fuse3"
    return ""


def confined(command: Sequence[str], *, fsize: int | None = None) -> list[str]:
    """``command`` under resource limits, and killed when the thread that starts it ends, also by SIGKILL.

    ``fsize``: the longest file that it may write, in bytes.
    """
    program = find(command[0]) or command[0]
    limits = {"as": _MEMORY_BYTES, "cpu": _CPU_S, "core": 0, "nofile": 256}
    if fsize is not None:
        limits["fsize"] = fsize
    return limited([find("setpriv") or "setpriv", "--pdeathsig", "KILL", "--", program, *command[1:]], **limits)


def run(command: Sequence[str], folder: Path, deadline: Deadline, *, output: Path, fsize: int | None = None) -> int:
    """Run a program in ``folder``, what it says goes to ``output``; returns its exit status. Raises: TransientError."""
    try:
        with output.open("wb") as said:
            done = subprocess.run(
                confined(command, fsize=fsize),
                cwd=folder,
                env=_ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                timeout=deadline.left_s(),
                check=False,
            )
    except subprocess.TimeoutExpired:
        raise TransientError(f"{command[0]} did not end within the time that the adaptation has.") from None
    return done.returncode


def start(command: Sequence[str], folder: Path, *, output: Path) -> subprocess.Popen[bytes]:
    """Start a program that is to run beside this one."""
    with output.open("wb") as said:
        return subprocess.Popen(
            confined(command), cwd=folder, env=_ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=said,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
