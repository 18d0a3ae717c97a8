"""The protocol that every target keeps.

A target is the place where a clone comes to exist: a QEMU host, a Compute Engine project, a simulation. It is driven
by small calls, each idempotent by the resource's deterministic name, and it keeps no state in the process: any worker
may make any call at any time, also after another worker died in the middle of the same call.

Identity comes from the job alone. Name, labels and idempotency tokens are derived from the job's id, never taken from
a reply, so that what a lost reply created is found again by ``find`` or ``inventory``.
"""

from __future__ import annotations

import enum
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

LABEL_JOB_ID = "clonejob-id"
LABEL_EPOCH = "clonejob-epoch"
BOOT_DISK_NUMBER = -1  # of a boot disk that is none of the source's: it is made from an image of its own
_TOKEN_NAMESPACE = uuid.UUID("6f0a1f0e-8b3c-5c3e-9d65-1b6f5c4b1c1e")


class ResourceKind(enum.StrEnum):
    """What a job may create on a target."""

    ADAPTED_IMAGE = "adapted_image"  # scaffold: the pinned snapshot with the guest's OS adapted
    BOOT_IMAGE = "boot_image"  # scaffold: what a provider that starts instances from images only needs for one
    DISK = "disk"  # product: one of the clone's disks
    INSTANCE = "instance"  # product: the clone itself


class Status(enum.StrEnum):
    """State of a resource that exists. A resource that does not exist has no status: ``find`` answers None."""

    CREATING = "creating"  # an operation is under way; look again with find()
    READY = "ready"  # usable; for an instance: powered on
    STOPPED = "stopped"  # an instance that exists and does not run
    FAILED = "failed"  # half made, or the operation ended in an error; ``detail`` says why. It must be deleted
    DELETING = "deleting"  # on its way out; look again with find()


class BootVerdict(enum.StrEnum):
    """What the guest itself has shown so far."""

    WAITING = "WAITING"  # nothing conclusive yet
    BOOTED = "BOOTED"  # the console printed what a booted guest prints
    NO_BOOT = "NO_BOOT"  # the firmware or the loader gave up
    UNKNOWN = "UNKNOWN"  # this target has no console to look at


@dataclass(frozen=True, slots=True)
class Owner:
    """The job on whose behalf a resource is made. ``epoch`` is informative; ownership is decided by ``job_id``."""

    job_id: str
    epoch: int

    def labels(self) -> dict[str, str]:
        """Labels that every resource of the job carries; keys and values are legal on GCE (``[a-z0-9_-]``, <= 63)."""
        return {LABEL_JOB_ID: self.job_id, LABEL_EPOCH: str(self.epoch)}


def token(job_id: str, name: str) -> str:
    """Idempotency token of one resource of one job: a UUID that is the same in every process and at every attempt."""
    return str(uuid.uuid5(_TOKEN_NAMESPACE, f"{job_id}/{name}"))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One disk of a replication cycle. ``key`` is its place in the snapshot store; ``format`` is never probed.

    A "reference" lies at the provider already: ``key`` is the provider's own name of the snapshot or image, and
    ``sha256`` is empty, for nobody here has seen its bytes.
    """

    key: str
    format: str  # "raw" | "qcow2" | "reference"
    virtual_size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ResourceRef:
    """What names a resource on one target: kind and deterministic name."""

    kind: ResourceKind
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class AdaptedImageSpec:
    """The pinned boot snapshot with its guest adapted; the snapshot itself is never written."""

    ref: ResourceRef
    owner: Owner
    snapshot: Snapshot
    hostname: str
    license_type: str = ""
    modifiers: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DiskSpec:
    """One disk of the clone, made from its snapshot, or from the adapted image when there is one. ``disk_number`` is the
    source's, or BOOT_DISK_NUMBER.

    A disk must not need the adapted image once it is READY: the image is scaffold and goes before success.
    ``clone_mode``: see ``targets.clone_modes``; empty for a target that has none, and in jobs of older code.
    """

    ref: ResourceRef
    owner: Owner
    disk_number: int
    snapshot: Snapshot
    adapted_image: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    clone_mode: str = ""


@dataclass(frozen=True, slots=True)
class BootImageSpec:
    """An image of all the clone's disks, boot disk first, for a target with ``boots_from_image``.

    ``snapshots`` are in the order of the disks. An instance must not need it once it is READY: it is scaffold.
    """

    ref: ResourceRef
    owner: Owner
    snapshots: tuple[Snapshot, ...]
    labels: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InstanceSpec:
    """The clone. ``disks`` are names of READY disks in boot order; ``machine_type`` as in ComputeEngineTargetDetails.

    ``boot_image`` is the name of a READY boot image instead, for a target with ``boots_from_image``: ``disks`` is empty
    then, and the instance's disks come and go with it. ``details`` is the job's ComputeEngineTargetDetails whole, as
    protobuf JSON; for a VM that disks are attached to also ``deviceNames``, by disk, and ``bootsFromImage``, whether its
    boot disk was made from an image of its own.
    """

    ref: ResourceRef
    owner: Owner
    disks: tuple[str, ...]
    hostname: str
    machine_type: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    boot_image: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class HasUris(Protocol):
    """A target whose provider has names of its own for what is made, such as ``projects/P/zones/Z/disks/D``."""

    def uri(self, ref: ResourceRef) -> str:
        """The provider's name of it, whether it exists or not."""


def uri_of(target: Target, ref: ResourceRef) -> str:
    """What names a resource to others than this service."""
    return target.uri(ref) if isinstance(target, HasUris) else f"{target.name}/{ref.kind}s/{ref.name}"


ResourceSpec = AdaptedImageSpec | DiskSpec | BootImageSpec | InstanceSpec


def parts_of(spec: ResourceSpec) -> list[ResourceRef]:
    """The job's own resources that must be READY before this one can be made."""
    if isinstance(spec, InstanceSpec):
        image = [ResourceRef(ResourceKind.BOOT_IMAGE, spec.boot_image)] if spec.boot_image is not None else []
        return [*(ResourceRef(ResourceKind.DISK, disk) for disk in spec.disks), *image]
    if isinstance(spec, DiskSpec) and spec.adapted_image is not None:
        return [ResourceRef(ResourceKind.ADAPTED_IMAGE, spec.adapted_image)]
    return []


@dataclass(frozen=True, slots=True)
class Observed:
    """What the target says exists. ``uid`` tells two resources apart that had the same name at different times.

    ``report``: of an adapted image, what was done to its guest, as JSON of at most some 20 KiB.
    """

    ref: ResourceRef
    uid: str
    status: Status
    labels: Mapping[str, str]
    detail: str = ""
    progress_percent: int | None = None
    report: Mapping[str, Any] | None = None

    @property
    def job_id(self) -> str | None:
        """The job that the labels name, or None for what we did not make."""
        return self.labels.get(LABEL_JOB_ID)


@dataclass(frozen=True, slots=True)
class BootReport:
    """What the guest has shown. ``console`` is the last few KiB of serial output, decoded with replacement.

    Seconds run from the instance's start, and are None where the target cannot tell: ``boot_seconds`` to what made it
    BOOTED; ``first_output_seconds`` and ``last_output_seconds`` to the console's first and last output, each at most:
    whoever looks repeatedly keeps the least.
    """

    verdict: BootVerdict
    console: str = ""
    boot_seconds: float | None = None
    detail: str = ""
    first_output_seconds: float | None = None
    last_output_seconds: float | None = None


@runtime_checkable
class Target(Protocol):
    """One place where clones are created.

    Every call returns within ``call_timeout_s`` or raises; work that takes longer goes on at the provider and is seen
    by ``find`` as CREATING or DELETING. Every call may raise ``TransientError``.

    ``boots_from_image``: instances are started from an image that holds all their disks (EC2), not from disks that were
    made before. The plan then has one BOOT_IMAGE in place of the disks.
    """

    name: str
    call_timeout_s: float
    boots_from_image: bool

    def check(self, specs: Sequence[ResourceSpec]) -> None:
        """Tell before anything is made whether the plan can work here. No side effects.

        Raises: UnsupportedError (what is not supported, and what is), SourceGoneError.
        """

    def create(self, spec: ResourceSpec) -> Observed:
        """Get or create, by name. What exists with our job id is returned as it is (a stopped instance is started
        again); a half-made resource of ours is finished or made anew.

        Raises: ConflictError when the name exists without our job id; TombstonedError; RefusedError; SourceGoneError;
        AdaptationError. After any error nothing may exist that ``find`` does not show.
        """

    def find(self, ref: ResourceRef, job_id: str | None = None) -> Observed | None:
        """What exists under that name: what is ``job_id``'s own, if there is any, and else what anybody has there, so that
        a name that is taken is seen to be. None only if nothing of it is left, half-made parts included.

        The job matters only where a provider's names are not unique (EC2): two jobs that take one name at the same
        moment then each see their own. What cannot be the clone for that reason is FAILED, and ``detail`` says so.
        """

    def delete(self, ref: ResourceRef, *, job_id: str, uid: str) -> None:
        """Start deleting exactly the resource that was observed: a no-op if it is gone.

        Raises: ConflictError if what stands there now has another uid or another job id.
        Gone is only what ``find`` no longer shows of this job.
        """

    def bury(self, job_id: str) -> None:
        """Leave a tombstone where the target can keep one: later creates for this job raise TombstonedError.

        Called before a job deletes anything: when clean-up begins, and when a successful job is about to remove its
        scaffolds, after which no step creates any more. So the call of a frozen worker that lands later makes nothing.
        A target without the means does nothing.
        """

    def inventory(self) -> list[Observed]:
        """Everything that exists here with a ``clonejob-id`` label, half-made things included."""

    def boot_report(self, ref: ResourceRef) -> BootReport:
        """What the instance's console shows by now; does not wait."""

    def screenshot(self, ref: ResourceRef) -> bytes | None:
        """What the instance's screen shows now, as PNG; None if this target or this instance has none."""
