"""Adapted results of the QEMU target that are kept: one folder for each snapshot, licence, switches and policy.

    adapted/<key>/disk.qcow2   an overlay of the snapshot, read-only; names ``base.<format>`` beside whoever links it
    adapted/<key>/note.json    what it was made from, when, and the report; the folder has its name only once it is whole
    adapted/.<key>/            one that is being put there, under the key's lock, or was when its maker was killed

A user of one holds it as it holds the snapshot: by a hard link of its own. So removing one harms no clone, and nobody's
clean-up removes one. It does not hold the snapshot, so the snapshot's link count still is how many clones need it.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from targets.adaptation import Adapted, Policy, Report
from targets.adaptation.recipes import RECIPES
from targets.base import AdaptedImageSpec
from targets.errors import SourceGoneError, TransientError
from targets.local_files import fsync_folder, locked, read_json, write_json
from targets.snapshot_links import ADAPTED_FILE, link_as
from targets.snapshot_store import FileSnapshotStore, SnapshotStoreError

logger = logging.getLogger(__name__)
_LAYOUT = 1  # of the folder; another one is another key
_DISK, _NOTE = "disk.qcow2", "note.json"


@dataclass(frozen=True, slots=True)
class Kept:
    """One result. ``made_at`` is in UTC."""

    disk: Path
    made_at: dt.datetime
    adapted: Adapted


class KeptAdaptations:
    """Those under one target's ``root``; several processes may use it. Every call may raise OSError."""

    def __init__(self, root: Path, snapshots: FileSnapshotStore, policy: Policy, *, lock_timeout_s: float) -> None:
        self._snapshots = snapshots
        self._folder = root / "adapted"
        self._locks = root / "locks"
        self._policy = policy
        self._lock_timeout_s = lock_timeout_s

    def find(self, spec: AdaptedImageSpec) -> Kept | None:
        """The whole and readable result for this image, if there is one."""
        return _kept(self._folder / self._key(spec))

    def use(self, spec: AdaptedImageSpec, folder: Path) -> Kept | None:
        """Link the result into an image's folder as ``ADAPTED_FILE``; None if there is none."""
        kept = self.find(spec)
        if kept is None:
            return None
        try:
            link_as(kept.disk, folder, ADAPTED_FILE)
        except SourceGoneError:  # removed since the look
            return None
        return kept

    def keep(self, spec: AdaptedImageSpec, folder: Path, adapted: Adapted) -> dt.datetime:
        """Keep ``ADAPTED_FILE`` of an image's folder, which is written to its end, for others; returns when. The first one stays."""
        key, made_at = self._key(spec), dt.datetime.now(dt.UTC)
        disk = folder / ADAPTED_FILE
        note = {
            "snapshot": spec.snapshot.key, "made_at": made_at.isoformat(timespec="seconds"),
            "size_bytes": disk.stat().st_size, "root_bytes": adapted.root_bytes, "report": adapted.report.as_json(),
        }  # fmt: skip
        self._folder.mkdir(exist_ok=True)
        try:
            with self._locked(key):
                if self.find(spec) is None:
                    self._put(key, disk, note)
        except TransientError:  # another process holds the lock: this clone has what it needs all the same
            logger.warning("the adapted result of %s is not kept: another process is at it", spec.snapshot.key)
        return made_at

    def drop(self, snapshots: AbstractSet[str], *, dry_run: bool) -> int:
        """See ``AdaptationKeeper.drop_adaptations``."""
        freed = 0
        for folder in self._folder.glob("[!.]*"):
            with self._locked(folder.name):
                if self._is_useless(_note(folder), snapshots):
                    freed += _allocated_bytes(folder / _DISK)
                    if not dry_run:
                        self._remove(folder.name)
        for half in () if dry_run else self._folder.glob(".*"):
            with self._locked(half.name.removeprefix(".")):
                shutil.rmtree(half, ignore_errors=True)  # put in its place meanwhile, perhaps
        return freed

    def _is_useless(self, note: dict[str, Any] | None, snapshots: AbstractSet[str]) -> bool:
        """Damaged, to be dropped, or kept by a frozen worker when its snapshot was pruned already."""
        if note is None or note["snapshot"] in snapshots:
            return True
        try:
            return not self._snapshots.path(note["snapshot"]).exists()
        except SnapshotStoreError:
            return True

    def _put(self, key: str, disk: Path, note: dict[str, Any]) -> None:
        """One that is there is damaged, or there is none."""
        self._remove(key)
        half = self._folder / f".{key}"
        half.mkdir()
        os.link(disk, half / _DISK)
        write_json(half / _NOTE, note, durable=True)
        half.rename(self._folder / key)
        fsync_folder(self._folder)

    def _remove(self, key: str) -> None:
        whole, half = self._folder / key, self._folder / f".{key}"
        if half.exists():
            shutil.rmtree(half)
        if whole.exists():
            whole.rename(half)  # never half a result under the name of a whole one
            fsync_folder(self._folder)
            shutil.rmtree(half)

    def _locked(self, key: str) -> AbstractContextManager[None]:
        return locked(self._locks / f"adapted-{key}", timeout_s=self._lock_timeout_s)

    def _key(self, spec: AdaptedImageSpec) -> str:
        """All that the result hangs on, but nothing of the job."""
        snapshot = spec.snapshot
        parts = [
            _LAYOUT, snapshot.key, snapshot.format, snapshot.virtual_size_bytes, snapshot.sha256, spec.license_type,
            sorted(spec.modifiers.items()), str(self._policy), [(each.id, each.version) for each in RECIPES],
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _allocated_bytes(disk: Path) -> int:
    """What removing this name of the file frees."""
    try:
        status = disk.stat()
    except FileNotFoundError:
        return 0
    return status.st_blocks * 512 if status.st_nlink == 1 else 0


def _note(folder: Path) -> dict[str, Any] | None:
    """None if there is none, or it is damaged."""
    try:
        note = read_json(folder / _NOTE)
    except ValueError:
        return None
    return note if note is not None and isinstance(note.get("snapshot"), str) else None


def _kept(folder: Path) -> Kept | None:
    disk, note = folder / _DISK, _note(folder)
    if note is None:
        return None
    try:
        if disk.stat().st_size != note["size_bytes"]:
            return None
        adapted = Adapted(Report.of(note["report"]), note["root_bytes"])
        return Kept(disk, dt.datetime.fromisoformat(note["made_at"]), adapted)
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        return None
