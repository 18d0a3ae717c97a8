"""A guest's ext2, ext3 or ext4 through e2fsprogs' ``debugfs``: a program, not the host's kernel, reads the hostile bytes.

debugfs can also write files of this machine (``dump``). So only inode numbers and checked paths are put into its
commands, and it only ever dumps into a file of ours that it finds under a fixed name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from targets.adaptation import programs
from targets.adaptation.files import (
    Change,
    Entry,
    GuestFileError,
    Symlink,
    Write,
    check_safe,
    is_safe,
    lookup,
    split,
)
from targets.adaptation.programs import Deadline

_LINE = re.compile(rb"/(\d{1,10})/([0-7]{6})/(\d{1,10})/(\d{1,10})/([^/\n]{1,255})/(\d{0,19})/")
_FAST_LINK = re.compile(rb'^Fast link dest: "([^"\n]{1,60})"$', re.MULTILINE)
_MOST_LISTING_BYTES = 16 * 2**20
_MOST_LINK_BYTES = 4096
_MOST_SAID_BYTES = 64 * 1024
_KINDS = {0o10: "file", 0o04: "folder", 0o12: "link"}
_ROOT_INODE = 2


@dataclass(frozen=True, slots=True)
class _Node:
    inode: int
    entry: Entry


class DebugfsFiles:
    """See ``GuestFiles``. ``disk``: a file that holds the file system ``start_bytes`` behind its beginning; ``scratch``: a
    folder of ours."""

    def __init__(self, disk: Path, start_bytes: int, scratch: Path, deadline: Deadline) -> None:
        self._image = _located(disk, start_bytes, scratch)
        self._scratch = scratch
        self._deadline = deadline
        self._cache: dict[str, dict[str, _Node]] = {}
        self._links: dict[int, str] = {}
        scratch.mkdir(mode=0o700, exist_ok=True)

    def list(self, path: str) -> Mapping[str, Entry]:
        """See ``GuestFiles.list``."""
        return {name: node.entry for name, node in self._nodes(path).items()}

    @contextmanager
    def open(self, path: str, max_bytes: int) -> Iterator[BinaryIO]:
        """See ``GuestFiles.open``."""
        node = self._node(path)
        if node is None or node.entry.kind != "file":
            raise GuestFileError(f"{path} is no regular file")
        if node.entry.size_bytes > max_bytes:
            raise GuestFileError(f"{path} has {node.entry.size_bytes} bytes, more than the {max_bytes} that are read")
        with self._dumped(path, node, max_bytes).open("rb") as file:
            yield file

    def readlink(self, path: str) -> str:
        """See ``GuestFiles.readlink``."""
        node = self._node(path)
        if node is None or node.entry.kind != "link" or node.entry.size_bytes >= _MOST_LINK_BYTES:
            raise GuestFileError(f"{path} is no symbolic link that can be followed")
        if node.inode not in self._links:
            match = _FAST_LINK.search(self._ask(f"stat <{node.inode}>"))
            target = match[1] if match else self._dumped(path, node, _MOST_LINK_BYTES).read_bytes()
            self._links[node.inode] = target.decode(errors="replace")
        return self._links[node.inode]

    def apply(self, changes: Sequence[Change]) -> None:
        """See ``GuestFiles.apply``. One run of debugfs for all: its exit status says nothing, so nobody looks at it."""
        commands: list[str] = []
        made: set[str] = set()
        for number, change in enumerate(changes):
            folder, name = split(check_safe(change.path))
            commands += [*self._folders(folder, made), f"cd {folder}"]
            old = lookup(self, change.path)
            if old is not None and old.kind == "folder":
                raise GuestFileError(f"{change.path} is a folder")
            commands += [f"rm {name}"] if old is not None else []
            if isinstance(change, Symlink):
                commands.append(f"symlink {name} {check_safe(change.target)}")
            elif isinstance(change, Write):
                (self._scratch / f"new{number}").write_bytes(change.data)
                commands.append(f"write new{number} {name}")
                wanted = {"mode": f"0100{change.mode:03o}", "uid": str(change.uid), "gid": str(change.gid)}
                commands += [f"set_inode_field {name} {field} {value}" for field, value in wanted.items()]
        script = self._scratch / "commands"
        script.write_text("\n".join([*commands, ""]))
        self._run("-w", "-f", script.name, self._image)
        self._cache.clear()
        self._links.clear()
        for left in self._scratch.glob("new*"):
            left.unlink()

    def _folders(self, folder: str, made: set[str]) -> Iterator[str]:
        """Commands that make the folders that are not there yet."""
        if folder == "/" or folder in made or ((entry := lookup(self, folder)) is not None and entry.kind == "folder"):
            return
        if entry is not None:
            raise GuestFileError(f"{folder} is no folder")
        parent, name = split(folder)
        yield from self._folders(parent, made)
        yield f"cd {parent}"
        yield f"mkdir {name}"
        made.add(folder)

    def _node(self, path: str) -> _Node | None:
        folder, name = split(check_safe(path))
        return self._nodes(folder).get(name)

    def _nodes(self, path: str) -> dict[str, _Node]:
        if path not in self._cache:
            if path == "/":
                self._cache[path] = self._listing(_ROOT_INODE)
            else:
                node = self._node(path)
                is_folder = node is not None and node.entry.kind == "folder"
                self._cache[path] = self._listing(node.inode) if node is not None and is_folder else {}
        return self._cache[path]

    def _listing(self, inode: int) -> dict[str, _Node]:
        found = {}
        for line in self._ask(f"ls -p <{inode}>").splitlines():
            if match := _LINE.fullmatch(line):
                name = match[5].decode(errors="replace")
                if name not in (".", "..") and is_safe(f"/{name}"):
                    mode, uid, gid = int(match[2], 8), int(match[3]), int(match[4])
                    entry = Entry(_KINDS.get(mode >> 12, "other"), int(match[6] or 0), mode & 0o7777, uid, gid)
                    found[name] = _Node(int(match[1]), entry)
        return found

    def _dumped(self, path: str, node: _Node, max_bytes: int) -> Path:
        """The content in a file of ours; what the guest says of its length is not believed."""
        file = self._scratch / "content"
        file.unlink(missing_ok=True)
        self._run("-R", f"dump <{node.inode}> {file.name}", self._image, fsize=max_bytes + _MOST_SAID_BYTES)
        if not file.is_file() or file.stat().st_size > max_bytes:
            raise GuestFileError(f"{path} cannot be read, or has more than the {max_bytes} bytes that are read")
        return file

    def _ask(self, request: str) -> bytes:
        return self._run("-R", request, self._image, fsize=_MOST_LISTING_BYTES)

    def _run(self, *arguments: str, fsize: int | None = None) -> bytes:
        said = self._scratch / "said"
        programs.run(["debugfs", *arguments], self._scratch, self._deadline, output=said, fsize=fsize)
        if said.stat().st_size >= _MOST_LISTING_BYTES:
            raise GuestFileError("a folder of the guest is too large to be read")
        return said.read_bytes()


def repair(disk: Path, start_bytes: int, scratch: Path, deadline: Deadline, *, journal_only: bool) -> str:
    """Have e2fsck replay the journal, or repair what it does without asking; returns why it did not, empty if it did."""
    said = scratch / "e2fsck.log"
    scope = ["-E", "journal_only"] if journal_only else []
    status = programs.run(
        ["e2fsck", "-p", *scope, _located(disk, start_bytes, scratch)], scratch, deadline, output=said
    )
    if status in (0, 1):  # clean, or errors corrected
        return ""
    with said.open("rb") as file:
        return (
            f"e2fsck ended with status {status}: {file.read(_MOST_SAID_BYTES).decode(errors='replace').strip()[-200:]}"
        )


def _located(disk: Path, start_bytes: int, scratch: Path) -> str:
    """A part of a file, as e2fsprogs names it; relative, for what comes before the question mark may hold none."""
    return f"{os.path.relpath(disk, scratch)}?offset={start_bytes}"
