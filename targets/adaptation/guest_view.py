"""The guest as a recipe sees it: links followed, what is planned already shown as if it were done, nothing written yet."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import BinaryIO

from targets.adaptation.files import (
    MAX_TEXT_BYTES,
    Change,
    GuestFileError,
    GuestFiles,
    Remove,
    Symlink,
    Write,
    check_safe,
    lookup,
    resolve,
    split,
)

_MOST_NAMES = 200
_NOT_ON_DISK = ("/dev", "/proc", "/sys", "/run")  # other file systems, once the guest runs


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known besides the guest's files.

    ``uuids``: partition number of the boot disk to the UUID of the file system in it.
    """

    hostname: str
    uuids: Mapping[int, str] = field(default_factory=dict)
    system: Mapping[str, str] = field(default_factory=dict)  # os-release


class Guest:
    """One recipe's view. ``planned`` holds the changes of the recipes before; ``changes`` those of this one."""

    def __init__(self, files: GuestFiles, facts: Facts, planned: Mapping[str, Change]) -> None:
        self.facts = facts
        self._files = files
        self._planned = planned
        self.changes: dict[str, Change] = {}

    def exists(self, path: str) -> bool:
        """Whether a file, folder or link stands there, links followed. A link to nothing does not count."""
        here = resolve(self._files, path)
        change = self._change(here)
        return lookup(self._files, here) is not None if change is None else not isinstance(change, Remove)

    def is_file(self, path: str) -> bool:
        """Whether a regular file stands there, links followed."""
        here = resolve(self._files, path)
        change = self._change(here)
        if change is not None:
            return isinstance(change, Write)
        entry = lookup(self._files, here)
        return entry is not None and entry.kind == "file"

    def is_link(self, path: str) -> bool:
        """Whether a symbolic link stands there."""
        entry = lookup(self._files, self._own(path))
        return entry is not None and entry.kind == "link"

    def text(self, path: str) -> str:
        """A regular file's text, byte for byte. Raises: GuestFileError if it is none, or is longer than 1 MiB."""
        here = resolve(self._files, path)
        change = self._change(here)
        if isinstance(change, Write):
            return change.data.decode(errors="surrogateescape")
        with self._files.open(here, MAX_TEXT_BYTES) as file:
            return file.read().decode(errors="surrogateescape")

    def open(self, path: str, max_bytes: int) -> AbstractContextManager[BinaryIO]:
        """A regular file's content as it was before any recipe."""
        return self._files.open(resolve(self._files, path), max_bytes)

    def names(self, folder: str, pattern: str) -> list[str]:
        """Paths of the files and links in ``folder`` that match and are not planned to go. Raises: GuestFileError."""
        here = resolve(self._files, folder)
        found = [
            f"{here.rstrip('/')}/{name}"
            for name, entry in self._files.list(here).items()
            if fnmatch.fnmatchcase(name, pattern) and entry.kind in ("file", "link")
        ]
        if len(found) > _MOST_NAMES:
            raise GuestFileError(f"{folder} has more than {_MOST_NAMES} files {pattern}")
        return sorted(path for path in found if not isinstance(self._change(path), Remove))

    def put(self, path: str, text: str) -> None:
        """Plan a file's content; owner and mode stay, or are root's and 0644. A link is followed."""
        here = resolve(self._files, path)
        entry = lookup(self._files, here)
        if entry is not None and entry.kind != "file":
            raise GuestFileError(f"{path} leads to {here}, which is no regular file")
        if here.startswith(tuple(f"{folder}/" for folder in _NOT_ON_DISK)):
            raise GuestFileError(f"{path} leads to {here}, which is not on the disk")
        data = text.encode(errors="surrogateescape")
        if self.is_file(here) and self.text(here) == text:
            return
        kept = (entry.mode, entry.uid, entry.gid) if entry is not None else (0o644, 0, 0)
        self.changes[here] = Write(here, data, *kept)

    def drop(self, path: str) -> None:
        """Plan that a file or link, itself, is gone."""
        here = self._own(path)
        entry = lookup(self._files, here)
        if entry is not None and entry.kind == "folder":
            raise GuestFileError(f"{path} is a folder")
        if entry is not None and not isinstance(self._change(here), Remove):
            self.changes[here] = Remove(here)

    def link(self, path: str, target: str) -> None:
        """Plan a symbolic link."""
        here = self._own(path)
        entry = lookup(self._files, here)
        if entry is not None and entry.kind == "link" and self._files.readlink(here) == target:
            return
        if entry is not None and entry.kind not in ("file", "link"):
            raise GuestFileError(f"{path} is neither a file nor a link")
        self.changes[here] = Symlink(here, check_safe(target))

    def _change(self, here: str) -> Change | None:
        return self.changes.get(here) or self._planned.get(here)

    def _own(self, path: str) -> str:
        """The path with the links above it followed, itself not."""
        folder, name = split(path)
        return check_safe(f"{resolve(self._files, folder).rstrip('/')}/{name}")
