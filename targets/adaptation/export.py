"""The disk in a qcow2 as a file that programs can read and write: a FUSE export by qemu-storage-daemon.

The host's kernel sees bytes, never the guest's file system. The daemon dies with the worker; the mount that it leaves
then is found, and removed, by whoever adapts next under the same folder.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from targets.adaptation import programs
from targets.adaptation.programs import Deadline
from targets.errors import RefusedError, TransientError
from targets.local_files import locked
from targets.qemu_tools import last_line

_STOP_WAIT_S = 10.0
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.002, 0.02
_OCTAL = re.compile(r"\\([0-7]{3})")


@contextlib.contextmanager
def workplace(root: Path, name: str) -> Iterator[Path]:
    """A folder below ``root`` for one adaptation; what killed ones left there is removed, before and after."""
    root.mkdir(exist_ok=True)
    sweep(root)
    with locked(root / f".{name}.lock", timeout_s=1.0):
        folder = root / name
        _discard(folder)
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            _discard(folder)


def sweep(root: Path) -> None:
    """Remove what adaptations left that were killed; whoever still works is left alone."""
    for folder in [each for each in root.glob("[!.]*") if each.is_dir()]:
        with contextlib.suppress(TransientError):  # somebody works there
            release(root, folder.name)


def release(root: Path, name: str) -> None:
    """Remove what a killed adaptation left, if there is anything. Raises: TransientError if somebody works there."""
    folder = root / name
    if folder.is_dir() or _mounts_below(folder):
        with locked(root / f".{name}.lock", timeout_s=0.0):
            _discard(folder)


@contextlib.contextmanager
def exported(image: Path, place: Path, deadline: Deadline, *, writable: bool) -> Iterator[Path]:
    """A file in ``place`` that shows the disk in the qcow2 ``image``. One export of the whole disk: QEMU gives no two
    writers of one image, and /boot may be a partition of its own.

    Raises: TransientError, RefusedError with the daemon's words.
    """
    folder = place / "exports"
    folder.mkdir()
    file = folder / "disk"
    file.touch(mode=0o600)
    said, ready = place / "export.log", place / "export.pid"
    read_only, write = ("off", "on") if writable else ("on", "off")
    command = ["qemu-storage-daemon", "--pidfile", str(ready)]
    command += ["--blockdev", f"driver=file,node-name=file,filename={image.name},read-only={read_only}"]
    command += ["--blockdev", f"driver=qcow2,node-name=disk,file=file,read-only={read_only}"]
    export = f"type=fuse,id=export,node-name=disk,allow-other=off,writable={write},mountpoint={_escaped(file)}"
    command += ["--export", export]
    daemon = programs.start(command, image.parent, output=said)
    try:
        _await_ready(daemon, ready, said, deadline)
        yield file
        _stop(daemon, min(_STOP_WAIT_S, deadline.left_s()))
        if daemon.returncode:
            raise TransientError(f"The export of the disk ended with status {daemon.returncode}; try again.")
    finally:
        _stop(daemon, 0.0)  # after an error there is nothing in it that is needed
        _discard(folder)
        ready.unlink(missing_ok=True)


def _await_ready(daemon: subprocess.Popen[bytes], ready: Path, said: Path, deadline: Deadline) -> None:
    wait_s = _FIRST_WAIT_S
    while not ready.exists():
        if daemon.poll() is not None:
            reason = last_line(said.read_bytes()[-4096:], "qemu-storage-daemon")
            raise RefusedError(f"The disk could not be exported: {reason}")
        time.sleep(min(wait_s, deadline.left_s()))
        wait_s = min(2 * wait_s, _LONGEST_WAIT_S)


def _stop(daemon: subprocess.Popen[bytes], wait_s: float) -> None:
    """End the daemon, which writes what it holds and takes its mount away; kill it if it has not after ``wait_s``."""
    if daemon.poll() is None:
        daemon.terminate()
        try:
            daemon.wait(wait_s)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


def _discard(folder: Path) -> None:
    """Unmount whatever is mounted below ``folder``, and remove it. Raises: TransientError if a mount does not go."""
    for mount in _mounts_below(folder):
        _unmount(mount)
    if left := _mounts_below(folder):
        raise TransientError(f"{left[0].name} of an adaptation is still mounted; try again.")
    shutil.rmtree(folder, ignore_errors=True)


def _unmount(mount: Path) -> None:
    for command in (["umount", "--lazy", str(mount)], ["fusermount3", "-u", "-z", str(mount)]):
        program = programs.find(command[0])
        if program is not None:
            done = subprocess.run([program, *command[1:]], capture_output=True, timeout=_STOP_WAIT_S, check=False)
            if done.returncode == 0:
                return


def _mounts_below(folder: Path) -> list[Path]:
    """Mount points in this process's mount namespace that lie below ``folder``, the innermost first."""
    prefix, found = f"{folder}/", []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = _OCTAL.sub(lambda match: chr(int(match[1], 8)), line.split(" ")[4])
        if point.startswith(prefix):
            found.append(Path(point))
    return found[::-1]


def _escaped(path: Path) -> str:
    return str(path).replace(",", ",,")
