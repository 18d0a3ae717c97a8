"""What a plan asks for that cannot work here, told before anything is made."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from targets.base import AdaptedImageSpec, BootImageSpec, InstanceSpec, ResourceSpec, Snapshot
from targets.compute_engine.api import Calls
from targets.compute_engine.mapping import DISK_TYPES, is_efi, licenses_of
from targets.compute_engine.options import ComputeEngineOptions
from targets.compute_engine.references import source_of
from targets.errors import SourceGoneError, UnsupportedError
from targets.local_files import check_job_id

_NAME = re.compile(r"[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?")
_LABEL_KEY = re.compile(r"[a-z][-_a-z0-9]{0,62}")
_LABEL_VALUE = re.compile(r"[-_a-z0-9]{0,63}")
_MOST_LABELS = 64
_DOMAIN = re.compile(r"(?=.{3,253}$)[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?)+")


def check_spec(spec: ResourceSpec, options: ComputeEngineOptions) -> None:
    """What can be told without a look at the project. Raises: UnsupportedError."""
    if isinstance(spec, BootImageSpec):
        raise UnsupportedError("Compute Engine makes instances from disks here, not from an image of all of them.")
    check_job_id(spec.owner.job_id)
    if not _NAME.fullmatch(spec.ref.name):
        raise UnsupportedError(
            f"{spec.ref.name!r} is no name on Compute Engine: use a-z, 0-9 and '-', 63 at most, beginning with a letter"
        )
    if isinstance(spec, AdaptedImageSpec) and options.os_adaptation == "required":
        raise UnsupportedError(
            "The guest's OS cannot be adapted here: its disks lie at the provider, and os_adaptation of this target is "
            "required. Say in the cycle's adaptation that it is adapted already, set skip_os_adaptation in the VM's "
            "policy, or set os_adaptation to best_effort"
        )
    if not isinstance(spec, InstanceSpec):
        source_of(spec.snapshot)
    if not isinstance(spec, AdaptedImageSpec):
        _check_labels(spec.labels)
    _check_details(spec.details, options)
    if isinstance(spec, InstanceSpec):
        _check_machine(spec.machine_type, spec.details.get("machineTypeSeries", ""), options)


def check_sources(specs: Sequence[ResourceSpec], calls: Calls) -> None:
    """Whether what the disks are made from is there. Raises: SourceGoneError, UnsupportedError, TargetError."""
    seen: set[str] = set()
    for spec in specs:
        if isinstance(spec, InstanceSpec | BootImageSpec) or spec.snapshot.key in seen:
            continue
        seen.add(spec.snapshot.key)
        _check_source(spec.snapshot, calls)


def _check_source(snapshot: Snapshot, calls: Calls) -> None:
    source = source_of(snapshot)
    found = calls.source(source.collection, source.project, source.region, source.name)
    if found is None:
        raise SourceGoneError(f"The pinned snapshot {source.path} does not exist, or this target may not see it.")
    status = found.get("status", "READY")
    if status not in ("READY", "UPLOADING"):  # a snapshot can be used while it is still being moved to its place
        raise SourceGoneError(f"The pinned snapshot {source.path} is {status} and cannot be used.")
    size_gb = int(found.get("diskSizeGb", 0))
    told = snapshot.virtual_size_bytes  # nothing of a boot disk's image, which is in no cycle
    if size_gb and told and -(-told // 2**30) != size_gb:
        raise SourceGoneError(
            f"The pinned snapshot {source.path} is not what was registered: it has {size_gb} GiB, and "
            f"{told} bytes were told. Import it again with its size in bytes: {size_gb << 30}."
        )


def _check_details(details: Mapping[str, Any], options: ComputeEngineOptions) -> None:
    zone = details.get("zone", "").rpartition("/")[2]
    if zone and zone != options.zone:
        raise UnsupportedError(f"This target makes clones in {options.zone}; for {zone} configure another target there")
    if (disk_type := details.get("diskType")) is not None and disk_type not in DISK_TYPES:
        raise UnsupportedError(f"Disk type {disk_type!r} is not known; use one of {', '.join(DISK_TYPES)}")
    for replica in (each.rpartition("/")[2] for each in details.get("diskReplicaZones", ())):
        if replica.rpartition("-")[0] != options.region:
            raise UnsupportedError(f"Replica zone {replica} is not in {options.region}, where this target makes disks")
    # Whether an image boots by UEFI is for its own features to say; Compute Engine looks at them.
    if details.get("secureBoot") and not is_efi(details) and not details.get("bootsFromImage"):
        raise UnsupportedError("secure_boot needs boot_option EFI: BIOS guests have none")
    if details.get("bootConversion") == "BIOS_TO_EFI":
        raise UnsupportedError(
            "A guest cannot be converted from BIOS to EFI here: its disks lie at the provider. Convert the source, or leave "
            "boot_conversion out"
        )
    if details.get("licenseType") == "COMPUTE_ENGINE_LICENSE_TYPE_PAYG" and not licenses_of(details, options):
        raise UnsupportedError(
            "Which pay-as-you-go licence the guest needs depends on its OS, which is not looked at here: name it in "
            "additional_licenses, or in licenses.PAYG of this target"
        )
    hostname = details.get("hostname", "")
    if hostname and not _DOMAIN.fullmatch(hostname):
        raise UnsupportedError(
            f"Host name {hostname!r} must be fully qualified on Compute Engine, such as web-1.internal"
        )


def _check_labels(labels: Mapping[str, str]) -> None:
    wrong = [key for key, value in labels.items() if not (_LABEL_KEY.fullmatch(key) and _LABEL_VALUE.fullmatch(value))]
    if wrong:
        raise UnsupportedError(
            f"Label {wrong[0]!r} is not legal on Compute Engine: use a-z, 0-9, '-' and '_', 63 at most, the key beginning "
            "with a letter"
        )
    if len(labels) > _MOST_LABELS - 2:
        raise UnsupportedError(f"Compute Engine takes {_MOST_LABELS} labels, and 2 are ours; there are {len(labels)}")


def _check_machine(machine_type: str, series: str, options: ComputeEngineOptions) -> None:
    name = (machine_type or options.machine_type).rpartition("/")[2]
    found = "n1" if name.startswith("custom-") else name.partition("-")[0]
    if series and series.lower() != found:
        raise UnsupportedError(
            f"Machine type {name} is not of series {series}; name a machine_type of that series"
            + ("" if machine_type else f" (without one, this target takes {name})")
        )
