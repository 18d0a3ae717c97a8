"""How a disk holds its snapshot: by a hard link in its own folder, so that the inode's link count is the reference count.

The file system keeps that count through any crash, removing the store's name cannot harm a clone, and an overlay that
names ``base.<format>`` beside it goes on working when the whole data folder is moved.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from targets.errors import RefusedError, SourceGoneError, UnsupportedError
from targets.local_files import fsync_folder

_STEM = "base"
ADAPTED_FILE = "adapted.qcow2"  # between the snapshot and the disk: what is adapted for every clone of it
_ADVICE = "keep the snapshots and this target on one file system (one mount), or set the target's clone_mode to full"
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES}


def link_base(source: Path, folder: Path, image_format: str) -> str:
    """Make ``source`` the base of the disk in ``folder``; its name there. Again is fine.

    Raises: UnsupportedError, RefusedError, SourceGoneError; OSError for what else the file system says.
    """
    return link_as(source, folder, f"{_STEM}.{image_format}")


def link_as(source: Path, folder: Path, name: str) -> str:
    """The same under a name of its own."""
    (folder / name).unlink(missing_ok=True)
    try:
        os.link(source, folder / name, follow_symlinks=False)
    except FileNotFoundError:
        raise SourceGoneError(f"The snapshot {source.name} is gone.") from None
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise _elsewhere() from None
        if error.errno in _NO_LINKS:
            raise UnsupportedError(
                f"The snapshot cannot be linked into the target's folder ({error.strerror}); the file system must know "
                f"hard links and the worker must own the snapshots: {_ADVICE}."
            ) from None
        if error.errno == errno.EMLINK:
            raise RefusedError(
                "The snapshot has as many clones as its file system can count; upload it again."
            ) from None
        raise
    fsync_folder(folder)
    return name


def base_of(folder: Path) -> Path | None:
    """The link to the snapshot in a disk's folder; None for one that needs none, or was made before there were links."""
    return next(folder.glob(f"{_STEM}.*"), None)


def share_base(holder: Path, folder: Path) -> None:
    """Make what the disk in the folder ``holder`` lies on the base of the one in ``folder`` as well."""
    for link in _links(holder):
        link_as(link, folder, link.name)


def drop_base(folder: Path) -> None:
    """Let go what the disk in the folder lay on; it must not need it any more."""
    for link in _links(folder):
        link.unlink()
    fsync_folder(folder)


def clones_of(snapshot: Path) -> int:
    """How many disks and images hold the snapshot; 0 too if the file is gone."""
    try:
        return snapshot.lstat().st_nlink - 1
    except FileNotFoundError:
        return 0


def check_linkable(source: Path, root: Path) -> None:
    """Tell without making a link whether ``source`` can be linked below ``root``. Raises: UnsupportedError."""
    if _mount(source) != _mount(root):  # two mounts of one file system refuse links, too
        raise _elsewhere()


def _links(folder: Path) -> Iterator[Path]:
    yield from folder.glob(f"{_STEM}.*")
    if (folder / ADAPTED_FILE).exists():
        yield folder / ADAPTED_FILE


def _mount(path: Path) -> tuple[int, str]:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        info = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
        return os.fstat(fd).st_dev, next(line for line in info if line.startswith("mnt_id:"))
    finally:
        os.close(fd)


def _elsewhere() -> UnsupportedError:
    return UnsupportedError(f"The snapshots lie on another file system than this target: {_ADVICE}.")
