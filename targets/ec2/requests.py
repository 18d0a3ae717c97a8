"""The two requests that make something: RegisterImage and RunInstances."""

from __future__ import annotations

import json
from collections.abc import Mapping
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from typing import Any

from targets.base import BootImageSpec, InstanceSpec, Snapshot
from targets.ec2.fields import Details, address, nics
from targets.ec2.machine_types import instance_type
from targets.ec2.options import Ec2Options
from targets.ec2.tags import client_token, description, tags
from targets.errors import UnsupportedError

ROOT_DEVICE = "/dev/sda1"
_DATA_DEVICES = [f"/dev/sd{letter}" for letter in "fghijklmnop"]
_BOOT_MODES = {"COMPUTE_ENGINE_BOOT_OPTION_EFI": "uefi", "COMPUTE_ENGINE_BOOT_OPTION_BIOS": "legacy-bios"}
_MOST_USER_DATA_BYTES = 16 * 1024
_BOUNDARY = "==clonejob=="


def image_name(name: str) -> str:
    """An image's name: at least three characters. A dot is in no name of ours, so that none is used twice."""
    return name.ljust(3, ".")


def name_of_image(name: str) -> str:
    """What the image was called by us."""
    return name.rstrip(".")


def check_disks(snapshots: tuple[Snapshot, ...]) -> None:
    """Raises: UnsupportedError for snapshots that are not EBS snapshots, or too many."""
    for snapshot in snapshots:
        if snapshot.format != "reference" or not snapshot.key.startswith("snap-"):
            raise UnsupportedError(
                f"EC2 clones from EBS snapshots that are registered by reference (snap-…); {snapshot.key} is "
                f"{snapshot.format}. Import it to EBS and register its snapshot id."
            )
    most = 1 + len(_DATA_DEVICES)
    if not 1 <= len(snapshots) <= most:
        raise UnsupportedError(f"EC2 images hold 1 to {most} disks here; there are {len(snapshots)}.")


def register_image(spec: BootImageSpec, options: Ec2Options) -> dict[str, Any]:
    """RegisterImage: every disk, so that an instance starts with all of them. Raises: UnsupportedError."""
    check_disks(spec.snapshots)
    volume = options.disk_types.get(spec.details.get("diskType", "COMPUTE_ENGINE_DISK_TYPE_UNSPECIFIED"), "gp3")
    devices = [ROOT_DEVICE, *_DATA_DEVICES]
    request: dict[str, Any] = {
        "Name": image_name(spec.ref.name),
        "Description": description(spec.owner),
        "Architecture": options.architecture,
        "VirtualizationType": "hvm",
        "EnaSupport": True,
        "RootDeviceName": ROOT_DEVICE,
        "BlockDeviceMappings": [
            {"DeviceName": device,
             "Ebs": {"SnapshotId": snapshot.key, "VolumeType": volume, "DeleteOnTermination": True}}
            for device, snapshot in zip(devices, spec.snapshots, strict=False)
        ],
        "TagSpecifications": [{"ResourceType": "image", "Tags": tags(spec.ref, spec.owner, spec.labels)}],
    }  # fmt: skip
    if mode := _BOOT_MODES.get(spec.details.get("bootOption", "")):
        request["BootMode"] = mode
    if spec.details.get("enableVtpm"):
        request["TpmSupport"] = "v2.0"
    return request


def run_instances(
    spec: InstanceSpec, options: Ec2Options, *, image_id: str, devices: list[str], life: int
) -> dict[str, Any]:
    """RunInstances: one instance of the image, its volumes and interfaces ending with it. Raises: UnsupportedError."""
    marks = tags(spec.ref, spec.owner, spec.labels)
    request: dict[str, Any] = {
        "ImageId": image_id,
        "InstanceType": instance_type(spec.machine_type, options.instance_types, options.default_instance_type),
        "MinCount": 1,
        "MaxCount": 1,
        "ClientToken": client_token(spec.owner.job_id, spec.ref.name, life),
        "NetworkInterfaces": interfaces(spec.details, options),
        "InstanceInitiatedShutdownBehavior": "stop",  # a guest that powers itself off is kept, as on any target
        "MetadataOptions": {"HttpEndpoint": "enabled", "HttpTokens": "required", "InstanceMetadataTags": "enabled"},
        "UserData": user_data(spec.hostname, spec.metadata),
        "TagSpecifications": [{"ResourceType": kind, "Tags": marks}
                              for kind in ("instance", "volume", "network-interface")],
    }  # fmt: skip
    if options.availability_zone is not None:
        request["Placement"] = {"AvailabilityZone": options.availability_zone}
    if profile := options.instance_profiles.get(spec.details.get("serviceAccount", "")):
        request["IamInstanceProfile"] = {"Name": profile}
    if key := spec.details.get("encryption", {}).get("kmsKey", ""):  # RegisterImage takes no key
        request["BlockDeviceMappings"] = [
            {"DeviceName": device, "Ebs": {"Encrypted": True, "KmsKeyId": key, "DeleteOnTermination": True}}
            for device in devices
        ]
    return request


def interfaces(details: Details, options: Ec2Options) -> list[dict[str, Any]]:
    """The network interfaces in order; all carry the target's security groups."""
    asked = nics(details)
    made = []
    for number, nic in enumerate(asked):
        one: dict[str, Any] = {
            "DeviceIndex": number,
            "SubnetId": _subnet(nic.get("subnetwork", ""), options),
            "DeleteOnTermination": True,
        }
        if options.security_groups:
            one["Groups"] = list(options.security_groups)
        if len(asked) == 1:  # EC2 takes the word on public addresses for a single interface only
            public = not options.isolated and nic.get("externalIp", "") == "ephemeral"
            one["AssociatePublicIpAddress"] = public
        if fixed := address(nic.get("internalIp", "")):
            one["PrivateIpAddress"] = fixed
        made.append(one)
    return made


def _subnet(wanted: str, options: Ec2Options) -> str:
    if wanted.startswith("subnet-"):
        return wanted
    return options.subnets.get(wanted) or options.subnets.get(wanted.rpartition("/")[2]) or options.subnet


def user_data(hostname: str, metadata: Mapping[str, str]) -> str:
    """What cloud-init reads in the guest; boto3 encodes it. Raises: UnsupportedError if it is too long."""
    if "user-data" in metadata:
        text = metadata["user-data"]
    else:
        config = f"#cloud-config\nhostname: {json.dumps(hostname)}\npreserve_hostname: false\n"
        script = metadata.get("startup-script", "")
        text = _multipart(config, script) if script else config
    if len(text.encode()) > _MOST_USER_DATA_BYTES:
        raise UnsupportedError("The metadata is too long for EC2, which takes 16 KiB of user data.")
    return text


def _multipart(config: str, script: str) -> str:
    message = MIMEMultipart(boundary=_BOUNDARY)  # fixed: the same request at every attempt keeps its token valid
    message.attach(MIMEText(config, "cloud-config", "utf-8"))
    message.attach(MIMEText(script, "x-shellscript", "utf-8"))
    return message.as_string()
