"""Whether a plan can work on EC2, told before anything is made."""

from __future__ import annotations

from collections.abc import Sequence

from targets.base import AdaptedImageSpec, BootImageSpec, InstanceSpec, ResourceSpec, Snapshot
from targets.ec2.client import Calls
from targets.ec2.errors import MissingError
from targets.ec2.fields import refuse_unsupported
from targets.ec2.machine_types import instance_type
from targets.ec2.options import Ec2Options
from targets.ec2.requests import check_disks, register_image, run_instances, user_data
from targets.ec2.tags import check_labels
from targets.errors import SourceGoneError, UnsupportedError

_NO_IMAGE = "ami-00000000000000000"


def check_spec(spec: ResourceSpec, options: Ec2Options) -> None:
    """What can be told without asking EC2. Raises: UnsupportedError."""
    if isinstance(spec, AdaptedImageSpec):
        raise UnsupportedError(
            "EC2 snapshots cannot be adapted by this service: prepare the guest before its snapshots are taken, and set "
            "policy.skip_os_adaptation of the VM (clonejob vm update VM --skip-os-adaptation)."
        )
    if isinstance(spec, BootImageSpec):
        check_disks(spec.snapshots)
        refuse_unsupported(spec.details)
        check_labels(spec.labels)
    elif isinstance(spec, InstanceSpec):
        if spec.disks or spec.boot_image is None:
            raise UnsupportedError("EC2 starts instances from an image of all disks, not from disks.")
        refuse_unsupported(spec.details)
        check_labels(spec.labels)
        instance_type(spec.machine_type, options.instance_types, options.default_instance_type)
        user_data(spec.hostname, spec.metadata)
    else:
        raise UnsupportedError("EC2 starts instances from an image of all disks; it makes no disks before.")


def require_snapshots(calls: Calls, snapshots: Sequence[Snapshot]) -> None:
    """Raises: SourceGoneError, UnsupportedError for a snapshot that is not complete."""
    keys = [snapshot.key for snapshot in snapshots]
    try:
        found = calls.pages("describe_snapshots", "Snapshots", SnapshotIds=keys)
    except SourceGoneError as error:
        raise SourceGoneError(f"Not all of {', '.join(keys)} exist: {error}") from error
    states = {each["SnapshotId"]: each.get("State", "completed") for each in found}
    sizes = {each["SnapshotId"]: each.get("VolumeSize", 0) for each in found}
    for snapshot in snapshots:
        key = snapshot.key
        if key not in states or states[key] == "error":
            raise SourceGoneError(f"Snapshot {key} does not exist in this account and region, or has failed.")
        if states[key] == "pending":
            raise UnsupportedError(f"Snapshot {key} is not complete yet; clone when it is.")
        if sizes[key] and -(-snapshot.virtual_size_bytes // 2**30) != sizes[key]:
            raise SourceGoneError(
                f"Snapshot {key} is not what was registered: it has {sizes[key]} GiB, and {snapshot.virtual_size_bytes} "
                f"bytes were told. Import it again with its size in bytes: {sizes[key] << 30}."
            )


def require_isolation(calls: Calls, options: Ec2Options) -> None:
    """A test clone must not talk to production: with ``isolated`` no security group may let anything out.

    Raises: UnsupportedError that says what to create.
    """
    if not options.isolated:
        return
    advice = (
        "Create a group that lets nothing out and name it in the target's option security_groups: "
        "aws ec2 create-security-group --group-name clonejob-isolated --description 'test clones' --vpc-id VPC; "
        "aws ec2 revoke-security-group-egress --group-id GROUP --protocol all --cidr 0.0.0.0/0 "
        "(or set isolated to false, if clones may talk to everything)."
    )
    if not options.security_groups:
        raise UnsupportedError(f"The target is isolated, but has no security group. {advice}")
    try:
        found = calls.pages("describe_security_groups", "SecurityGroups", GroupIds=list(options.security_groups))
    except MissingError as error:
        raise UnsupportedError(f"{error}. {advice}") from error
    if leaky := sorted(each["GroupId"] for each in found if each.get("IpPermissionsEgress")):
        raise UnsupportedError(
            f"The target is isolated, but {', '.join(leaky)} has rules that let traffic out. {advice}"
        )


def probe_permissions(calls: Calls, specs: Sequence[ResourceSpec], options: Ec2Options) -> None:
    """Ask EC2 whether we may make what the plan needs, by its dry run. Raises: RefusedError.

    The permission to delete cannot be asked for: it is bound to our tag, and nothing carries it yet.
    """
    for spec in specs:
        if isinstance(spec, BootImageSpec):
            calls.probe("register_image", **register_image(spec, options))
        elif isinstance(spec, InstanceSpec):
            request = run_instances(spec, options, image_id=_NO_IMAGE, devices=[], life=0)
            del request["ClientToken"]  # it is for the real call
            calls.probe("run_instances", **request)
