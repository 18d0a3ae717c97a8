"""Specs as the bodies that Compute Engine's API takes. Pure: nothing is asked, and the same spec gives the same body."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from targets.base import BOOT_DISK_NUMBER, AdaptedImageSpec, DiskSpec, InstanceSpec
from targets.compute_engine.options import ComputeEngineOptions
from targets.compute_engine.references import source_of

Json = dict[str, Any]
DISK_TYPES = {
    "COMPUTE_ENGINE_DISK_TYPE_UNSPECIFIED": "pd-standard",  # the contract: used as STANDARD
    "COMPUTE_ENGINE_DISK_TYPE_STANDARD": "pd-standard",
    "COMPUTE_ENGINE_DISK_TYPE_SSD": "pd-ssd",
    "COMPUTE_ENGINE_DISK_TYPE_BALANCED": "pd-balanced",
    "COMPUTE_ENGINE_DISK_TYPE_HYPERDISK_BALANCED": "hyperdisk-balanced",
}
_LICENSE_TYPES = {"COMPUTE_ENGINE_LICENSE_TYPE_PAYG": "PAYG", "COMPUTE_ENGINE_LICENSE_TYPE_BYOL": "BYOL"}
_TIERS = {"NETWORK_TIER_STANDARD": "STANDARD", "NETWORK_TIER_PREMIUM": "PREMIUM"}
_RESTART = {"AUTOMATIC_RESTART": True, "NO_AUTOMATIC_RESTART": False}
_EFI = "COMPUTE_ENGINE_BOOT_OPTION_EFI"
_CLOUD_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
ADDRESS = re.compile(r"(?:https://[^/]+/compute/v1/)?projects/([^/]+)/regions/([^/]+)/addresses/([^/]+)")


def image_body(spec: AdaptedImageSpec, options: ComputeEngineOptions) -> Json:
    """The image that stands for the adapted boot disk: the same bytes, with licences and guest features."""
    body: Json = {
        "name": spec.ref.name,
        "description": f"Boot disk of clone job {spec.owner.job_id}; removed before the job succeeds.",
        **source_of(spec.snapshot).body,
        "labels": spec.owner.labels(),
    }
    if options.os_adaptation != "skip":
        body |= _guest({**spec.details, "licenseType": spec.license_type}, options)
    if key := kms_key(spec.details):
        body["imageEncryptionKey"] = {"kmsKeyName": key}
    return body


def disk_body(spec: DiskSpec, options: ComputeEngineOptions) -> Json:
    """One disk. Its size is the source's own."""
    details, regional = spec.details, is_regional(spec.details)
    place = f"projects/{options.project}/{f'regions/{options.region}' if regional else f'zones/{options.zone}'}"
    type_name = DISK_TYPES[details.get("diskType") or "COMPUTE_ENGINE_DISK_TYPE_UNSPECIFIED"]
    source = source_of(spec.snapshot).body
    if spec.adapted_image is not None:
        source = {"sourceImage": f"projects/{options.project}/global/images/{spec.adapted_image}"}
    body: Json = {
        "name": spec.ref.name,
        "description": f"{_which(spec.disk_number)} of clone job {spec.owner.job_id}.",
        **source,
        "type": f"{place}/diskTypes/{type_name}",
        "labels": {**spec.labels, **spec.owner.labels()},
    }
    if regional:
        zones = [options.zone, *(_last(zone) for zone in details["diskReplicaZones"])]
        body["replicaZones"] = [f"projects/{options.project}/zones/{zone}" for zone in dict.fromkeys(zones)]
    if pool := details.get("storagePool"):
        body["storagePool"] = pool
    if key := kms_key(details):
        body["diskEncryptionKey"] = {"kmsKeyName": key}
    if spec.disk_number in (0, BOOT_DISK_NUMBER):
        body |= _guest(details, options)
    return body


def instance_body(
    spec: InstanceSpec, options: ComputeEngineOptions, address_of: Callable[[str, str, str], str]
) -> Json:
    """The clone. ``address_of`` looks a reserved address up by project, region and name."""
    details = spec.details
    devices = details.get("deviceNames", {})
    place = f"regions/{options.region}" if is_regional(details) else f"zones/{options.zone}"
    body: Json = {
        "name": spec.ref.name,
        "description": f"Clone of job {spec.owner.job_id}.",
        "machineType": f"zones/{options.zone}/machineTypes/{_last(spec.machine_type or options.machine_type)}",
        "labels": {**spec.labels, **spec.owner.labels()},
        "disks": [
            # The clone's disks have ledger rows of their own, so they never go with the instance unseen.
            {"source": f"projects/{options.project}/{place}/disks/{name}", "boot": at == 0, "autoDelete": False,
             "deviceName": devices.get(name, f"disk-{at}")}
            for at, name in enumerate(spec.disks)
        ],
        "networkInterfaces": _interfaces(details.get("networkInterfaces", ()), options, address_of),
    }  # fmt: skip
    if spec.metadata:
        body["metadata"] = {"items": [{"key": key, "value": value} for key, value in sorted(spec.metadata.items())]}
    if tags := details.get("networkTags"):
        body["tags"] = {"items": list(tags)}
    if account := details.get("serviceAccount"):
        body["serviceAccounts"] = [{"email": account, "scopes": [_CLOUD_SCOPE]}]
    if hostname := details.get("hostname"):
        body["hostname"] = hostname
    if scheduling := _scheduling(details.get("computeScheduling", {})):
        body["scheduling"] = scheduling
    if shielded := _shielded(details):
        body["shieldedInstanceConfig"] = shielded
    if details.get("deviceNames") is not None and (key := kms_key(details)):  # a VM has a key of its own there
        body["instanceEncryptionKey"] = {"kmsKeyName": key}
    if options.virtual_display:
        body["displayDevice"] = {"enableDisplay": True}
    return body


def _which(disk_number: int) -> str:
    return "Boot disk" if disk_number == BOOT_DISK_NUMBER else f"Disk {disk_number}"


def is_regional(details: Mapping[str, Any]) -> bool:
    """Whether the clone's disks have replicas in other zones."""
    return bool(details.get("diskReplicaZones"))


def kms_key(details: Mapping[str, Any]) -> str:
    """The customer's key that encrypts the clone's disks, or nothing."""
    return str(details.get("encryption", {}).get("kmsKey", ""))


def is_efi(details: Mapping[str, Any]) -> bool:
    """Whether the guest boots by UEFI."""
    return details.get("bootOption") == _EFI


def licenses_of(details: Mapping[str, Any], options: ComputeEngineOptions) -> list[str]:
    """The boot disk's licences: those of the licence type, as the target's options say, and the additional ones."""
    of_type = options.licenses.get(_LICENSE_TYPES.get(details.get("licenseType", ""), ""), [])  # type: ignore[call-overload]
    return list(dict.fromkeys([*of_type, *details.get("additionalLicenses", ())]))


def _guest(details: Mapping[str, Any], options: ComputeEngineOptions) -> Json:
    body: Json = {}
    if licenses := licenses_of(details, options):
        body["licenses"] = licenses
    if is_efi(details):
        body["guestOsFeatures"] = [{"type": "UEFI_COMPATIBLE"}]
    return body


def _interfaces(
    given: Sequence[Mapping[str, Any]], options: ComputeEngineOptions, address_of: Callable[[str, str, str], str]
) -> list[Json]:
    """Without an external IP in the details there is none: a clone is not reachable from outside by itself."""
    made: list[Json] = []
    for each in given or ({},):
        nic: Json = {}
        network, subnetwork = each.get("network", ""), each.get("subnetwork", "")
        if not network and not subnetwork:
            network, subnetwork = options.network, options.subnetwork
        if not network and not subnetwork:
            network = "default"
        if network:
            nic["network"] = network if "/" in network else f"projects/{options.project}/global/networks/{network}"
        if subnetwork:
            nic["subnetwork"] = (
                subnetwork
                if "/" in subnetwork
                else f"projects/{options.project}/regions/{options.region}/subnetworks/{subnetwork}"
            )
        if internal := _address(each.get("internalIp", ""), address_of):
            nic["networkIP"] = internal
        if external := each.get("externalIp", ""):
            config: Json = {"type": "ONE_TO_ONE_NAT", "name": "External NAT"}
            if address := _address(external, address_of):
                config["natIP"] = address
            if tier := _TIERS.get(each.get("networkTier", "")):
                config["networkTier"] = tier
            nic["accessConfigs"] = [config]
        made.append(nic)
    return made


def _address(text: str, address_of: Callable[[str, str, str], str]) -> str:
    """An IP address as it is, a reserved address as its IP, and nothing for an ephemeral one."""
    if text in ("", "ephemeral"):
        return ""
    match = ADDRESS.fullmatch(text)
    return address_of(match[1], match[2], match[3]) if match else text


def _scheduling(given: Mapping[str, Any]) -> Json:
    body: Json = {}
    if (maintenance := given.get("onHostMaintenance")) in ("TERMINATE", "MIGRATE"):
        body["onHostMaintenance"] = maintenance
    if (restart := given.get("restartType")) in _RESTART:
        body["automaticRestart"] = _RESTART[restart]
    if affinities := given.get("nodeAffinities"):
        body["nodeAffinities"] = [
            {"key": each.get("key", ""), "operator": each.get("operator", "IN"), "values": list(each.get("values", ()))}
            for each in affinities
        ]
        if cpus := given.get("minNodeCpus"):  # the contract: ignored without node affinities
            body["minNodeCpus"] = int(cpus)
    return body


def _shielded(details: Mapping[str, Any]) -> Json:
    """What is not said stays as Compute Engine does it by default."""
    names = {
        "secureBoot": "enableSecureBoot",
        "enableVtpm": "enableVtpm",
        "enableIntegrityMonitoring": "enableIntegrityMonitoring",
    }
    return {theirs: bool(details[ours]) for ours, theirs in names.items() if ours in details}


def _last(path: str) -> str:
    return path.rpartition("/")[2]
