"""What a snapshot by reference names here: a snapshot or an image of a Compute Engine project."""

from __future__ import annotations

import re
from dataclasses import dataclass

from targets.base import Snapshot
from targets.errors import UnsupportedError

_HOST = r"(?:https://(?:www|compute)\.googleapis\.com/compute/v1/)?"
_PATH = re.compile(
    _HOST + r"(?P<path>projects/(?P<project>[-a-z0-9.:]{1,63})/"
    r"(?:global|regions/(?P<region>[-a-z0-9]{1,63}))/(?P<collection>snapshots|images)/"
    r"(?P<name>[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?|[1-9][0-9]{0,19}))"
)


@dataclass(frozen=True, slots=True)
class SourceReference:
    """One source of a disk. ``region`` is empty for what is global."""

    path: str
    project: str
    region: str
    collection: str  # "snapshots" | "images"
    name: str

    @property
    def body(self) -> dict[str, str]:
        """The field that names it in the body of a new disk or image."""
        return {"sourceSnapshot" if self.collection == "snapshots" else "sourceImage": self.path}


def source_of(snapshot: Snapshot) -> SourceReference:
    """What the snapshot refers to. Raises: UnsupportedError."""
    if snapshot.format != "reference":
        raise UnsupportedError(
            f"Disk {snapshot.key} was uploaded as {snapshot.format}; Compute Engine clones what lies there already. "
            "Register the cycle's disks by reference: clonejob vm import VM --reference 0=projects/P/global/snapshots/S "
            "--size 0=BYTES"
        )
    match = _PATH.fullmatch(snapshot.key)
    if match is None or (match["region"] and match["collection"] == "images"):
        raise UnsupportedError(
            f"{snapshot.key!r} is no snapshot or image of Compute Engine; register projects/P/global/snapshots/S or "
            "projects/P/global/images/I (a family is not fixed, and cannot be pinned)"
        )
    return SourceReference(match["path"], match["project"], match["region"] or "", match["collection"], match["name"])
