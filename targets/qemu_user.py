"""Whom QEMU runs as, and in which cgroup: another user than a worker that is root, and not the worker's own service."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator, Sequence
from pathlib import Path

from targets.errors import UnsupportedError
from targets.qemu_tools import find_tool
from targets.registry import Finding

_SYSTEMD = Path("/run/systemd/system")  # there if and only if systemd is the init system


def check_user(name: str) -> None:
    """Whether QEMU can run as that user; empty: as who we are. Raises: UnsupportedError."""
    if not name:
        return
    user = _user(name)
    if os.geteuid() not in (0, user.pw_uid):
        raise UnsupportedError(f"Only a worker that is root can run QEMU as {name!r}; leave run_as empty.")
    find_tool("setpriv")


def user_findings(name: str) -> Iterator[Finding]:
    """Why QEMU cannot run as that user; whoever looks may be another user than the worker."""
    if not name:
        return
    try:
        user = _user(name)
    except UnsupportedError:
        yield Finding(
            f"run_as: there is no user {name!r} on this machine",
            f"make it (useradd --system {name}), or name another one in run_as",
        )
        return
    if os.geteuid() not in (0, user.pw_uid):
        yield Finding(
            f"run_as {name!r} needs a worker that is root, and this is run by another user",
            "run the workers as root, or leave run_as empty",
            is_certain=False,
        )
    try:
        find_tool("setpriv")
    except UnsupportedError as error:
        yield Finding(f"run_as: {error}".rstrip("."), "install util-linux, or leave run_as empty")


def as_user(name: str) -> list[str]:
    """What goes before a command to run it as that user, for good: it can never get rights back."""
    if not name or os.geteuid() != 0:
        return []
    user = _user(name)
    ids = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    return [find_tool("setpriv"), *ids, "--no-new-privs", "--"]


def give_to(name: str, folder: Path, disks: Sequence[Path]) -> None:
    """Give the user the instance's folder and its disks; snapshots stay ours and are only read."""
    if not name or os.geteuid() != 0:
        return
    user = _user(name)
    for path in (folder, *folder.iterdir(), *disks):
        os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)


def scope_of(option: str, name: str) -> list[str]:
    """What goes before a command to give it a systemd scope of its own, so that it outlives the worker's service."""
    if option == "off" or not _SYSTEMD.is_dir() or os.geteuid() != 0:
        return []
    return [find_tool("systemd-run"), "--scope", "--quiet", "--collect", f"--unit={name}", "--"]


def _user(name: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise UnsupportedError(f"There is no user {name!r} on this machine; see the target's option run_as.") from None
