"""Find the guest's system on a disk: partitions, file systems, the one that holds /etc, and who it says it is."""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO

from targets.adaptation.debugfs import DebugfsFiles, repair
from targets.adaptation.export import exported
from targets.adaptation.files import Change, Entry, GuestFileError, GuestFiles, lookup, resolve
from targets.adaptation.filesystems import FileSystem, detect
from targets.adaptation.partitions import (
    SECTOR_BYTES,
    Partition,
    PartitionTable,
    PartitionTableError,
    read_partitions,
)
from targets.adaptation.programs import Deadline
from targets.errors import TransientError
from targets.guest import describe_boot_sector

_MOST_FILE_SYSTEMS = 8
_MOST_RELEASE_BYTES = 64 * 1024
_RELEASES = ("/etc/os-release", "/usr/lib/os-release")
_OLDER = {"/etc/debian_version": "Debian", "/etc/redhat-release": "Red Hat", "/etc/alpine-release": "Alpine",
          "/etc/SuSE-release": "SuSE"}  # fmt: skip


class UnknownGuest(Exception):
    """There is no system here that can be adapted; the message says what was found instead."""


@dataclasses.dataclass(frozen=True, slots=True)
class Inspected:
    """What lies on the disk. ``found`` says it in words."""

    found: str
    candidates: tuple[tuple[Partition, FileSystem], ...]
    uuids: Mapping[int, str]


def inspect_disk(image: Path, place: Path, deadline: Deadline) -> Inspected:
    """Read the partition table and every partition's magic. Raises: UnknownGuest, TransientError, RefusedError."""
    with exported(image, place, deadline, writable=False) as file, file.open("rb", 0) as disk:
        size = os.fstat(disk.fileno()).st_size

        def read(offset: int, length: int) -> bytes:
            deadline.left_s()
            try:
                data = os.pread(disk.fileno(), length, offset)
            except OSError as error:
                raise TransientError(f"The disk cannot be read: {error.strerror}.") from error
            return data.ljust(length, b"\0")

        try:
            table = read_partitions(read, size)
        except PartitionTableError as error:
            head = describe_boot_sector(read(0, SECTOR_BYTES))
            raise UnknownGuest(f"{head}, which cannot be believed: {error}") from None
        seen = [(partition, detect(read, partition)) for partition in table.partitions]
    candidates = tuple((partition, system) for partition, system in seen if system.kind == "ext")
    found = _found(table, seen)
    if not candidates:
        raise UnknownGuest(f"{found}: only ext2, ext3 and ext4 can be adapted here")
    uuids = {partition.number: system.uuid for partition, system in seen if system.uuid}
    return Inspected(found, candidates[:_MOST_FILE_SYSTEMS], uuids)


def _found(table: PartitionTable, seen: Sequence[tuple[Partition, FileSystem]]) -> str:
    if table.scheme == "none":
        return f"no partition table, {seen[0][1].kind} on the disk itself"
    parts = ", ".join(f"{partition.number} {system.kind}" for partition, system in seen[:16])
    return f"{table.scheme.upper()} partitions {parts or 'none'}"


@contextmanager
def open_guest(
    image: Path, inspected: Inspected, place: Path, deadline: Deadline
) -> Iterator[tuple[GuestFiles, int, int]]:
    """The guest's files, the number of its root's partition and its first byte, once they are known to be sound.

    /boot in a file system of its own is shown in its place. Raises: UnknownGuest, TransientError, RefusedError.
    """
    with exported(image, place, deadline, writable=True) as disk:
        opened: dict[int, DebugfsFiles] = {}
        for partition, system in inspected.candidates:
            scratch = place / f"work{partition.number}"
            files = DebugfsFiles(disk, partition.start_bytes, scratch, deadline)
            if system.needs_recovery or not system.is_clean:
                _make_sound(disk, scratch, partition, system, deadline)
            opened[partition.number] = files
        root = next((number for number, files in opened.items() if _release(files) is not None), None)
        if root is None:
            raise UnknownGuest(f"{inspected.found}, and in none of them a Linux that says who it is (/etc/os-release)")
        starts = {partition.number: partition.start_bytes for partition, _ in inspected.candidates}
        yield _with_boot(opened, root, inspected), root, starts[root]


@contextmanager
def open_root(image: Path, start_bytes: int, place: Path, deadline: Deadline) -> Iterator[GuestFiles]:
    """The files of a guest that was found sound, and written, before. Raises: TransientError, RefusedError."""
    with exported(image, place, deadline, writable=True) as disk:
        yield DebugfsFiles(disk, start_bytes, place / "work", deadline)


def read_system(files: GuestFiles) -> dict[str, str]:
    """os-release's fields, or what older files say. Raises: GuestFileError."""
    return _release(files) or {}


def _make_sound(disk: Path, scratch: Path, partition: Partition, system: FileSystem, deadline: Deadline) -> None:
    """A journal that was not replayed would undo what is written; debugfs does not replay it, e2fsck does."""
    why = repair(disk, partition.start_bytes, scratch, deadline, journal_only=system.needs_recovery and system.is_clean)
    with disk.open("rb") as file:
        after = detect(lambda offset, length: os.pread(file.fileno(), length, offset), partition)
    if why or after.needs_recovery:
        raise UnknownGuest(
            f"a damaged file system in partition {partition.number}: {why or 'its journal was not replayed'}"
        )


def _release(files: GuestFiles) -> dict[str, str] | None:
    for path in _RELEASES:
        text = _small_text(files, path)
        if text is not None:
            return _fields(text)
    for path, name in _OLDER.items():
        text = _small_text(files, path)
        if text is not None:
            return {"ID": name.split(" ", maxsplit=1)[0].lower(), "PRETTY_NAME": f"{name} {text.strip()[:80]}"}
    return None


def _small_text(files: GuestFiles, path: str) -> str | None:
    try:
        here = resolve(files, path)
        if lookup(files, here) is None:
            return None
        with files.open(here, _MOST_RELEASE_BYTES) as file:
            return file.read().decode(errors="replace")
    except GuestFileError:
        return None


def _fields(text: str) -> dict[str, str]:
    fields = {}
    for line in text.splitlines():
        name, mark, value = line.partition("=")
        if mark and name.isidentifier():
            try:
                fields[name] = " ".join(shlex.split(value))[:200]
            except ValueError:
                fields[name] = value[:200]
    return fields


def _with_boot(opened: Mapping[int, DebugfsFiles], root: int, inspected: Inspected) -> GuestFiles:
    text = _small_text(opened[root], "/etc/fstab") or ""
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[1] == "/boot":
            for number, files in opened.items():
                names = (
                    f"UUID={inspected.uuids.get(number)}",
                    *(f"/dev/{disk}{number}" for disk in ("sda", "vda", "xvda", "hda")),
                )
                if number != root and words[0].strip('"') in names:
                    return WithBoot(opened[root], files)
    return opened[root]


class WithBoot:
    """See ``GuestFiles``: a root with another file system at /boot."""

    def __init__(self, root: GuestFiles, boot: GuestFiles) -> None:
        self._root = root
        self._boot = boot

    def list(self, path: str) -> Mapping[str, Entry]:
        """See ``GuestFiles.list``."""
        files, here = self._of(path)
        return files.list(here)

    def open(self, path: str, max_bytes: int) -> AbstractContextManager[BinaryIO]:
        """See ``GuestFiles.open``."""
        files, here = self._of(path)
        return files.open(here, max_bytes)

    def readlink(self, path: str) -> str:
        """See ``GuestFiles.readlink``."""
        files, here = self._of(path)
        return files.readlink(here)

    def apply(self, changes: Sequence[Change]) -> None:
        """See ``GuestFiles.apply``."""
        for files in (self._root, self._boot):
            mine = [
                dataclasses.replace(change, path=self._of(change.path)[1])
                for change in changes
                if self._of(change.path)[0] is files
            ]
            if mine:
                files.apply(mine)

    def _of(self, path: str) -> tuple[GuestFiles, str]:
        if path == "/boot" or path.startswith("/boot/"):
            return self._boot, path.removeprefix("/boot") or "/"
        return self._root, path
