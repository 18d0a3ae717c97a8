"""What becomes of each field of ComputeEngineTargetDetails on EC2.

A field that promises safety or placement and cannot be had is refused before anything is made. One that only tunes, or
that names a thing of Compute Engine which has no counterpart, is ignored, and the page says so.
"""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from targets.errors import UnsupportedError

Details = Mapping[str, Any]


class How(enum.StrEnum):
    """What the target does with a field."""

    MAPPED = "mapped"
    IGNORED = "ignored"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Field:
    """``path`` in protobuf JSON; ``what`` EC2 gets, or the reason; ``refuses`` tells a value that cannot be had."""

    path: str
    how: How
    what: str
    refuses: Callable[[Details], bool] | None = None


def nics(details: Details) -> list[Mapping[str, Any]]:
    """The network interfaces that are asked for; one that asks for nothing if none is named."""
    return list(details.get("networkInterfaces", ())) or [{}]


def address(value: str) -> str | None:
    """The IP address that is asked for, None if any will do. Raises: ValueError for the name of an address."""
    return None if value in ("", "ephemeral") else str(ipaddress.ip_address(value))


def _names_an_address(key: str) -> Callable[[Details], bool]:
    def refuses(details: Details) -> bool:
        try:
            found = [address(each.get(key, "")) for each in nics(details)]
        except ValueError:
            return True
        return key == "externalIp" and any(found)

    return refuses


def _efi(details: Details) -> bool:
    return details.get("bootOption") == "COMPUTE_ENGINE_BOOT_OPTION_EFI"


FIELDS = (
    Field("vmName", How.MAPPED, "tags `Name` and `clonejob-name`"),
    Field("project", How.IGNORED, "the target is one account and region"),
    Field("zone", How.IGNORED, "the availability zone is that of the target's subnet"),
    Field("machineTypeSeries", How.IGNORED, "the machine type decides"),
    Field("machineType", How.MAPPED, "`InstanceType`: an EC2 type as it is; otherwise the option `instance_types`, "
          "then the smallest t3, c6i, m6i or r6i with its CPUs and memory"),
    Field("networkTags", How.IGNORED, "security groups are the target's, so that a clone cannot widen its isolation"),
    Field("networkInterfaces.network", How.IGNORED, "the subnet decides"),
    Field("networkInterfaces.subnetwork", How.MAPPED, "`SubnetId`: a `subnet-…` as it is, a name by the option "
          "`subnets`, anything else the target's `subnet`"),
    Field("networkInterfaces.internalIp", How.MAPPED, "`PrivateIpAddress` for an address; the name of one is refused",
          _names_an_address("internalIp")),
    Field("networkInterfaces.externalIp", How.MAPPED, "`ephemeral`: a public address if the target is not `isolated` and "
          "there is one interface; a fixed address is refused", _names_an_address("externalIp")),
    Field("networkInterfaces.networkTier", How.IGNORED, "EC2 has one tier"),
    Field("serviceAccount", How.MAPPED, "`IamInstanceProfile` by the option `instance_profiles`; without an entry the "
          "clone has no rights"),
    Field("diskType", How.MAPPED, "`VolumeType` by the option `disk_types`"),
    Field("labels", How.MAPPED, "tags of instance, volumes, interfaces and image"),
    Field("licenseType", How.IGNORED, "EBS snapshots carry their own product codes"),
    Field("appliedLicense.type", How.IGNORED, "output only"),
    Field("appliedLicense.osLicense", How.IGNORED, "output only"),
    Field("computeScheduling.onHostMaintenance", How.IGNORED, "EC2 does not migrate live at our word"),
    Field("computeScheduling.restartType", How.IGNORED, "EC2 recovers instances by itself where the type allows it"),
    Field("computeScheduling.nodeAffinities.key", How.REFUSED, "dedicated hosts are not supported",
          lambda details: bool(details.get("computeScheduling", {}).get("nodeAffinities"))),
    Field("computeScheduling.nodeAffinities.operator", How.REFUSED, "as above"),
    Field("computeScheduling.nodeAffinities.values", How.REFUSED, "as above"),
    Field("computeScheduling.minNodeCpus", How.IGNORED, "says nothing without node affinities"),
    Field("secureBoot", How.REFUSED, "needs keys enrolled in the image's UefiData",
          lambda details: bool(details.get("secureBoot"))),
    Field("enableVtpm", How.MAPPED, "`TpmSupport` v2.0; refused without EFI, which it needs on EC2",
          lambda details: bool(details.get("enableVtpm")) and not _efi(details)),
    Field("enableIntegrityMonitoring", How.IGNORED, "EC2 has none"),
    Field("bootOption", How.MAPPED, "`BootMode`: uefi or legacy-bios; unspecified: what the instance type prefers"),
    Field("metadata", How.MAPPED, "`user-data` as it is; otherwise `startup-script` beside a cloud-config with the host "
          "name; other keys are ignored: EC2 has no metadata of one's own"),
    Field("additionalLicenses", How.IGNORED, "licences of Compute Engine"),
    Field("hostname", How.MAPPED, "cloud-config in the user data, unless the metadata brings its own `user-data`"),
    Field("encryption.kmsKey", How.MAPPED, "`KmsKeyId` of every volume, at the instance's start; must be a key of AWS "
          "KMS", lambda details: _foreign_key(details.get("encryption", {}).get("kmsKey", ""))),
    Field("bootConversion", How.REFUSED, "EC2 does not convert BIOS to EFI",
          lambda details: details.get("bootConversion") == "BIOS_TO_EFI"),
    Field("adaptationModifiers.modifier", How.IGNORED, "nothing is adapted here: a plan that asks for it is refused"),
    Field("adaptationModifiers.value", How.IGNORED, "as above"),
    Field("diskReplicaZones", How.REFUSED, "an EBS volume lives in one zone",
          lambda details: bool(details.get("diskReplicaZones"))),
    Field("storagePool", How.IGNORED, "EBS has no pools"),
)  # fmt: skip


def _foreign_key(key: str) -> bool:
    return key.startswith("projects/")


def refuse_unsupported(details: Details) -> None:
    """Raises: UnsupportedError that names every field whose value cannot be had on EC2."""
    reasons = [
        f"{each.path}: {each.what.replace('`', '')}" for each in FIELDS if each.refuses and each.refuses(details)
    ]
    if reasons:
        raise UnsupportedError(f"EC2 cannot do what the target details ask for; change them: {'; '.join(reasons)}.")
