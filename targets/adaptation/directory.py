"""A guest's files in a folder of this machine: for trying recipes without a disk.

Not for a tree that somebody else changes meanwhile; links in it are never followed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from targets.adaptation.files import Change, Entry, GuestFileError, Remove, Symlink, check_safe, is_safe, split


class DirectoryFiles:
    """See ``GuestFiles``."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def list(self, path: str) -> Mapping[str, Entry]:
        """See ``GuestFiles.list``."""
        place = self._place(path)
        if not place.is_dir():
            return {}
        return {each.name: _entry(each) for each in place.iterdir() if is_safe(f"/{each.name}")}

    def open(self, path: str, max_bytes: int) -> BinaryIO:
        """See ``GuestFiles.open``."""
        place = self._place(path)
        try:
            file = os.fdopen(os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
        except OSError as error:
            raise GuestFileError(f"{path} cannot be read: {error.strerror}") from None
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > max_bytes:
            file.close()
            raise GuestFileError(f"{path} is no regular file of at most {max_bytes} bytes")
        return file

    def readlink(self, path: str) -> str:
        """See ``GuestFiles.readlink``."""
        return str(self._place(path).readlink())

    def apply(self, changes: Sequence[Change]) -> None:
        """See ``GuestFiles.apply``."""
        for change in changes:
            place = self._place(change.path)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.unlink(missing_ok=True)
            if isinstance(change, Remove):
                continue
            if isinstance(change, Symlink):
                place.symlink_to(change.target)
            else:
                place.write_bytes(change.data)
                place.chmod(change.mode)

    def _place(self, path: str) -> Path:
        """The path on this machine, after seeing that no link leads there."""
        check_safe(path)
        folder = split(path)[0]
        while folder != "/":
            if (self._root / folder.lstrip("/")).is_symlink():
                raise GuestFileError(f"{folder} is a symbolic link")
            folder = split(folder)[0]
        return self._root / path.lstrip("/")


def _entry(path: Path) -> Entry:
    status = path.lstat()
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link"}
    kind = kinds.get(stat.S_IFMT(status.st_mode), "other")
    return Entry(kind, status.st_size, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)
