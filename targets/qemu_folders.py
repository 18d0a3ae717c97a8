"""One folder per resource, with a note of whose it is: what the QEMU target knows is what stands in these folders.

The note is there before anything else is made and goes last, so a crash anywhere leaves something that can be found:

    .<name>~<job id>/    claimed, until the note in it is written, or emptied: the folder's name tells the owner
    <name>/meta.json     the note; then whatever the resource consists of
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from targets.base import (
    LABEL_JOB_ID,
    AdaptedImageSpec,
    DiskSpec,
    InstanceSpec,
    Observed,
    ResourceKind,
    ResourceRef,
    Status,
)
from targets.errors import RefusedError
from targets.local_files import (
    check_name,
    fsync_folder,
    is_legal_name,
    is_locked,
    locked,
    read_json,
    sweep_locks,
    write_json,
)

_META = "meta.json"
_FOLDERS = {ResourceKind.ADAPTED_IMAGE: "images", ResourceKind.DISK: "disks", ResourceKind.INSTANCE: "instances"}
DISK_FILE = "disk.qcow2"
RAW_DISK_FILE = "disk.raw"  # a full copy of a raw snapshot
MAKING, READY, DELETING = "making", "ready", "deleting"
Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Meta:
    """The note in a resource's folder. ``state``: making, ready or deleting; ``started_at``: epoch seconds; ``report``: see Observed."""

    uid: str
    labels: Mapping[str, str]
    state: str = MAKING
    started_at: float | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    report: Json | None = None


def facts_of(spec: AdaptedImageSpec | DiskSpec | InstanceSpec, clone_mode: str) -> dict[str, str]:
    """What a person who looks into the folder wants to know."""
    if isinstance(spec, InstanceSpec):
        return {"disks": " ".join(spec.disks), "hostname": spec.hostname, "machine_type": spec.machine_type}
    facts = {"snapshot": spec.snapshot.key, "sha256": spec.snapshot.sha256}
    return facts | ({"clone_mode": clone_mode} if isinstance(spec, DiskSpec) else {})


def disk_file(folder: Path) -> Path:
    """The disk in its folder, whichever of its two names it has."""
    raw = folder / RAW_DISK_FILE
    return raw if raw.exists() else folder / DISK_FILE


class ResourceFolders:
    """The folders under one root. Who changes a resource holds ``locked(ref)``; readers need no lock."""

    def __init__(self, root: Path, *, lock_timeout_s: float) -> None:
        self._root = root
        self._lock_timeout_s = lock_timeout_s
        for name in (*_FOLDERS.values(), "locks"):
            (root / name).mkdir(parents=True, exist_ok=True)

    def path(self, ref: ResourceRef) -> Path:
        """The resource's folder. Raises: RefusedError for a name that is not legal or a kind that does not exist here."""
        if ref.kind not in _FOLDERS:
            raise RefusedError(f"A QEMU host knows no {ref.kind}.")
        return self._root / _FOLDERS[ref.kind] / check_name(ref.name)

    def locked(self, ref: ResourceRef) -> AbstractContextManager[None]:
        """Hold the name against other creators and deleters. Raises: TransientError on time-out."""
        return locked(self._lock_path(ref), timeout_s=self._lock_timeout_s)

    def meta(self, ref: ResourceRef) -> Meta | None:
        """The note, or None without a readable one: then what stands there is not ours."""
        try:
            stored = read_json(self.path(ref) / _META)
            return None if stored is None else Meta(**stored)
        except (ValueError, TypeError):
            return None

    def claim(self, ref: ResourceRef, labels: Mapping[str, str], facts: Mapping[str, str]) -> Meta:
        """Make the folder with its note, durably. The name must be free or claimed half; the lock must be held."""
        intent = self._intent_path(ref, labels[LABEL_JOB_ID])
        shutil.rmtree(intent, ignore_errors=True)
        intent.mkdir()
        meta = Meta(uuid.uuid4().hex, dict(labels), facts=dict(facts))
        write_json(intent / _META, asdict(meta), durable=True)
        intent.rename(self.path(ref))
        fsync_folder(intent.parent)
        return meta

    def save(self, ref: ResourceRef, meta: Meta) -> Meta:
        """Replace the note."""
        write_json(self.path(ref) / _META, asdict(meta), durable=True)
        return meta

    def clear(self, ref: ResourceRef) -> None:
        """Remove all but the note; the resource counts as half deleted from here on."""
        folder, meta = self.path(ref), self.meta(ref)
        if meta is not None:
            self.save(ref, replace(meta, state=DELETING))
        for entry in os.scandir(folder):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            elif entry.name != _META:
                (folder / entry.name).unlink()

    def remove(self, ref: ResourceRef) -> None:
        """Remove the resource, its note last, and half claims of its name; again is fine."""
        for intent in self._intents(ref):
            shutil.rmtree(intent)
        folder, meta = self.path(ref), self.meta(ref)
        if meta is not None:
            self.clear(ref)
            intent = self._intent_path(ref, meta.labels[LABEL_JOB_ID])
            folder.rename(intent)
            shutil.rmtree(intent)
        fsync_folder(folder.parent)

    def look(self, ref: ResourceRef) -> tuple[Observed, Meta | None] | None:
        """What stands under the name, with its note if it has one; None if nothing does.

        READY says no more than that it was made; whether a machine runs is for the caller to look at.
        """
        # Half claims first: one that is renamed between the two looks is then seen under its name.
        intents = self._intents(ref)
        folder, meta = self.path(ref), self.meta(ref)
        busy = self.is_busy(ref)
        if not busy and meta is not None and meta.state != READY:
            meta = self.meta(ref)  # it may have been finished just before the look at the lock
        if meta is not None:
            return self._seen(ref, meta, busy=busy), meta
        if os.path.lexists(folder):
            uid = f"inode-{folder.lstat().st_ino}"
            return Observed(ref, uid, Status.READY, {}, "It was not made by clonejob."), None
        if intents:
            status = Status.CREATING if busy else Status.FAILED
            job_id = intents[0].name.split("~", 1)[1]
            return Observed(ref, intents[0].name, status, {LABEL_JOB_ID: job_id}, "half made or half deleted"), None
        return None

    def refs(self) -> Iterator[ResourceRef]:
        """All names that have a folder, half claims included. Lock files of killed processes go on the way."""
        sweep_locks(self._root / "locks")
        for kind, folder in _FOLDERS.items():
            names = {path.name.lstrip(".").split("~")[0] for path in (self._root / folder).iterdir()}
            yield from (ResourceRef(kind, name) for name in sorted(names) if is_legal_name(name))

    def is_busy(self, ref: ResourceRef) -> bool:
        """Whether some process creates or deletes it right now."""
        return is_locked(self._lock_path(ref))

    def _seen(self, ref: ResourceRef, meta: Meta, *, busy: bool) -> Observed:
        status, detail = Status.READY, ""
        if meta.state == MAKING:
            status, detail = (Status.CREATING, "") if busy else (Status.FAILED, "half made: its creator died")
        elif meta.state == DELETING:
            status, detail = (Status.DELETING, "") if busy else (Status.FAILED, "half deleted: its deleter died")
        return Observed(ref, meta.uid, status, meta.labels, detail, report=meta.report)

    def _intent_path(self, ref: ResourceRef, job_id: str) -> Path:
        return self.path(ref).with_name(f".{ref.name}~{job_id}")

    def _intents(self, ref: ResourceRef) -> list[Path]:
        folder = self.path(ref).parent
        return sorted(folder.glob(f".{ref.name}~*"))

    def _lock_path(self, ref: ResourceRef) -> Path:
        return self._root / "locks" / f"{ref.kind}-{check_name(ref.name)}"
