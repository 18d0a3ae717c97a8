"""The one narrow door into a guest's files: list, read, write, remove, symlink, below the guest's own root.

A guest is hostile. Its links are followed here, inside its own tree, and an implementation is only ever given paths
without links, dots or odd characters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import BinaryIO, Protocol

MAX_TEXT_BYTES = 1024 * 1024
_MOST_LINKS = 40
_SAFE = re.compile(r"(/[A-Za-z0-9_@.+=:-]{1,255})+|/")


class GuestFileError(Exception):
    """What is in the guest is not what can be worked with; the message says what."""


@dataclass(frozen=True, slots=True)
class Entry:
    """``kind``: "file", "folder", "link" or "other". ``mode``: permission bits."""

    kind: str
    size_bytes: int
    mode: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Write:
    """A regular file with this content; missing folders above it are made, what stands there is replaced."""

    path: str
    data: bytes
    mode: int = 0o644
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True)
class Remove:
    """No such file or link; folders are not removed."""

    path: str


@dataclass(frozen=True, slots=True)
class Symlink:
    """A symbolic link; missing folders above it are made, a file or link that stands there is replaced."""

    path: str
    target: str


Change = Write | Remove | Symlink


class GuestFiles(Protocol):
    """A guest's file system. Paths are absolute and canonical. Every call may raise GuestFileError or TransientError."""

    def list(self, path: str) -> Mapping[str, Entry]:
        """The entries of a folder, without the dots; names that are not safe to pass on are left out."""

    def open(self, path: str, max_bytes: int) -> AbstractContextManager[BinaryIO]:
        """A regular file's content; GuestFileError if it is longer."""

    def readlink(self, path: str) -> str:
        """A symbolic link's target."""

    def apply(self, changes: Sequence[Change]) -> None:
        """Carry out all of them, in order. What really happened is for the caller to read back."""


def is_safe(path: str) -> bool:
    """Whether ``path`` may be handed to an implementation."""
    return _SAFE.fullmatch(path) is not None and not any(part in (".", "..") for part in path.split("/"))


def check_safe(path: str) -> str:
    """``path`` if it is safe. Raises: GuestFileError."""
    if not is_safe(path):
        raise GuestFileError(f"the path {path!r} has characters that are not passed on")
    return path


def split(path: str) -> tuple[str, str]:
    """Folder and name of a canonical path."""
    folder, _, name = path.rpartition("/")
    return folder or "/", name


def lookup(files: GuestFiles, path: str) -> Entry | None:
    """What stands at a canonical path, not followed."""
    if path == "/":
        return Entry("folder", 0, 0o755, 0, 0)
    folder, name = split(path)
    return files.list(folder).get(name)


def resolve(files: GuestFiles, path: str) -> str:
    """``path`` without links and dots, inside the guest whatever they say; the end, or more, need not exist.

    Raises: GuestFileError for a loop, for a file where a folder must be, for characters that are not passed on.
    """
    left, done, links = path.split("/")[::-1], "/", 0
    while left:
        part = left.pop()
        if part in ("", "."):
            continue
        if part == "..":
            done = split(done)[0]
            continue
        here = check_safe(f"{done.rstrip('/')}/{part}")
        entry = lookup(files, here)
        if entry is not None and entry.kind == "link":
            links += 1
            if links > _MOST_LINKS:
                raise GuestFileError(f"{path} is a loop of symbolic links")
            target = files.readlink(here)
            done = "/" if target.startswith("/") else done
            left += target.split("/")[::-1]
        elif entry is None:  # nothing below it can be a link
            return check_safe("/".join([here, *(each for each in left[::-1] if each not in ("", "."))]))
        elif entry.kind != "folder" and any(each not in ("", ".") for each in left):
            raise GuestFileError(f"{here} is no folder")
        else:
            done = here
    return done
