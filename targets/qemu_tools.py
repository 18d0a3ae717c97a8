"""QEMU's command line tools, run on disk images under limits: images are hostile input."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from targets.errors import RefusedError, TransientError, UnsupportedError
from targets.snapshot_links import link_base

INSTALL_COMMAND = "apt-get install -y --no-install-recommends qemu-system-x86 qemu-utils"
CLEAN_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
_TOOL_MEMORY_BYTES = 2 * 2**30
_TOOL_CPU_S = 60
_SECTOR_BYTES = 512


def find_tool(name: str) -> str:
    """Absolute path of an installed program. Raises: UnsupportedError with the command that installs it."""
    path = shutil.which(name)
    if path is None:
        raise UnsupportedError(f"{name} is not installed on this machine; as root, run: {INSTALL_COMMAND}")
    return str(Path(path).absolute())


def limited(command: Sequence[str], **limits: int) -> list[str]:
    """``command`` under resource limits (names as of prlimit). Through a program: a fork hook is unsafe with threads."""
    options = [f"--{name}={_allowed(name, value)}" for name, value in limits.items()]
    return [find_tool("prlimit"), *options, "--", *command]


def _allowed(name: str, value: int) -> int:
    """``value``, or the limit that this process already has if that is lower: only root may raise it again."""
    hard = resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}"))[1]
    return value if hard == resource.RLIM_INFINITY else min(value, hard)


def last_line(text: bytes, program: str) -> str:
    """The last line that a program said, without its own name in front."""
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[-1].removeprefix(f"{Path(program).name}: ") if lines else "no message"


class DiskTools:
    """The few operations on qcow2 files that are needed here. Formats are always named, never probed.

    Every call may raise TransientError (time-out), RefusedError (with the tool's own words) and UnsupportedError (the
    tool is not installed).
    """

    def __init__(self, qemu_img: str, qemu_io: str, *, timeout_s: float) -> None:
        self._qemu_img = qemu_img
        self._qemu_io = qemu_io
        self._timeout_s = timeout_s

    def create_overlay(self, overlay: Path, backing: Path, backing_format: str) -> None:
        """Make ``overlay``, a qcow2 that shows ``backing`` and keeps what is written to it; costs 200 KiB.

        It names ``base.<format>`` in its own folder, a hard link to ``backing``, which it so holds for as long as it is.
        """
        self.lay_over(overlay, link_base(backing, overlay.parent, backing_format), backing_format)

    def lay_over(self, overlay: Path, base: str, backing_format: str) -> None:
        """The same over a file that stands beside it."""
        create = [self._qemu_img, "create", "-q", "-f", "qcow2", "-F", backing_format, "-b", base, overlay.name]
        self._run(create, overlay.parent)

    def read_first_sectors(self, image: Path) -> tuple[bytes, bytes]:
        """Sectors 0 and 1 as the guest sees them in a qcow2 that we made."""
        part = image.with_name("sectors.tmp")
        command = [self._qemu_img, "dd", "-f", "qcow2", "-O", "raw", "bs=512", "count=2"]
        try:
            self._run([*command, f"if={image.name}", f"of={part.name}"], image.parent)
            data = part.read_bytes().ljust(2 * _SECTOR_BYTES, b"\0")
        finally:
            part.unlink(missing_ok=True)
        return data[:_SECTOR_BYTES], data[_SECTOR_BYTES : 2 * _SECTOR_BYTES]

    def write_sector(self, image: Path, lba: int, data: bytes) -> None:
        """Write one sector of a qcow2 that we made."""
        part = image.with_name("sector.tmp")
        start = lba * _SECTOR_BYTES
        try:
            part.write_bytes(data)
            write = f"write -q -s {part.name} {start} {len(data)}"
            self._run([self._qemu_io, "-f", "qcow2", "-c", write, "-c", "flush", image.name], image.parent)
        finally:
            part.unlink(missing_ok=True)

    def _run(self, command: Sequence[str], folder: Path) -> None:
        tool = find_tool(command[0])
        whole = limited([tool, *command[1:]], cpu=_TOOL_CPU_S, core=0, nofile=256, **{"as": _TOOL_MEMORY_BYTES})
        try:
            done = subprocess.run(
                whole,
                cwd=folder,
                env=CLEAN_ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=self._timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise TransientError(f"{Path(tool).name} did not end within {self._timeout_s:g} s.") from None
        if done.returncode:
            raise RefusedError(f"{Path(tool).name} failed: {last_line(done.stderr, tool)}")


def cache_modes(folder: Path) -> list[str]:
    """Options of ``qemu-img convert`` for a copy that leaves the page cache alone, where the file system knows that: at
    8 GiB it took an eighth of the processor time. tmpfs does not."""
    probe = folder / ".direct.tmp"
    try:
        os.close(os.open(probe, os.O_RDWR | os.O_CREAT | os.O_DIRECT | os.O_CLOEXEC, 0o600))
    except OSError:
        return ["-t", "writeback"]
    finally:
        probe.unlink(missing_ok=True)
    return ["-t", "none", "-T", "none"]


def sparse_copy(source: Path, target: Path) -> None:
    """Copy a file with its holes, durably; costs what its data costs. Raises: OSError."""
    with source.open("rb") as reading, target.open("wb") as writing:
        size = os.fstat(reading.fileno()).st_size
        start = 0
        while start < size:
            try:
                start = os.lseek(reading.fileno(), start, os.SEEK_DATA)
            except OSError:  # ENXIO: nothing but a hole from here on
                break
            end = os.lseek(reading.fileno(), start, os.SEEK_HOLE)
            os.lseek(writing.fileno(), start, os.SEEK_SET)
            while start < end:
                copied = os.sendfile(writing.fileno(), reading.fileno(), start, end - start)
                if copied == 0:
                    raise OSError("the file became shorter while it was copied")
                start += copied
        writing.truncate(size)
        os.fsync(writing.fileno())


def sync_file(path: Path) -> None:
    """Make a file's content durable."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
