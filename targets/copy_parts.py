"""What the ways to copy a snapshot share: what others see of it, and how its file is opened and looked through."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

STATE_FILE = "copy.json"  # the values of State
ALIGNMENT = 4096
CHECKPOINT_BYTES = 512 * 2**20
_SHOWN_EVERY_S = 0.25


class CopyError(Exception):
    """The copy cannot succeed, however often it is begun."""


class State:
    """What others see of the copy; replaced in one step, at most every quarter of a second.

    ``durable_bytes``: so much was written and synced. ``verified_bytes``: the same, and each chunk of it was compared
    before it was written, so nobody has to read it again. ``began_at``: of the bytes, where this process took it up.
    """

    def __init__(self, folder: Path, total_bytes: int) -> None:
        self._path = folder / STATE_FILE
        self._began = self._shown = time.monotonic()
        self.began_at = 0
        self.values: dict[str, Any] = {
            "bytes": 0, "total_bytes": total_bytes, "durable_bytes": 0, "verified_bytes": 0, "bytes_per_s": 0,
            "phase": "copying", "error": "", "permanent": False,
        }  # fmt: skip

    def advanced(self, done: int, *, at_once: bool = False) -> None:
        """``done`` bytes of the whole are through."""
        self.values["bytes"] = done
        now = time.monotonic()
        if at_once or now - self._shown >= _SHOWN_EVERY_S:
            self._shown = now
            self.values["bytes_per_s"] = int(max(0, done - self.began_at) / max(now - self._began, 0.001))
            self.write()

    def write(self) -> None:
        """Replace the file."""
        temporary = self._path.with_name(f".{self._path.name}.tmp")
        temporary.write_text(json.dumps(self.values))
        temporary.replace(self._path)


def open_direct(path: Path, flags: int) -> int | None:
    """A descriptor past the page cache; None where the file system knows no such thing."""
    try:
        return os.open(path, flags | os.O_DIRECT, 0o600)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return None


def data_ranges(fd: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Where there is data between the two offsets: first and end of each range, at multiples of a page or at ``end``.

    Whatever it leaves out is a hole.
    """
    at = start
    while at < end:
        try:
            data = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return
        data = max(at, data // ALIGNMENT * ALIGNMENT)
        if data >= end:
            return
        at = min(end, -(-os.lseek(fd, data, os.SEEK_HOLE) // ALIGNMENT) * ALIGNMENT)
        yield data, at
