"""The options of an EC2 target: one account, region and subnet."""

from __future__ import annotations

import importlib.util
import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from targets.base import Target
from targets.errors import UnsupportedError
from targets.registry import Finding, Place, TargetOptions

DISK_TYPES = {
    "COMPUTE_ENGINE_DISK_TYPE_UNSPECIFIED": "gp3",
    "COMPUTE_ENGINE_DISK_TYPE_STANDARD": "gp2",
    "COMPUTE_ENGINE_DISK_TYPE_BALANCED": "gp3",
    "COMPUTE_ENGINE_DISK_TYPE_SSD": "gp3",
    "COMPUTE_ENGINE_DISK_TYPE_HYPERDISK_BALANCED": "gp3",
}


class Ec2Options(TargetOptions):
    """See ``targets.ec2.target.Ec2Target`` and docs/ec2.md. Credentials come by boto3's own chain, never from here."""

    region: str = Field(pattern=r"^[a-z]{2}(-[a-z]+)+-[0-9]+$", description="Such as eu-west-1.")
    subnet: str = Field(pattern=r"^subnet-[0-9a-f]+$", description="Where clones get their network interface.")
    subnets: Mapping[str, str] = Field(default={}, description="Subnets by the names in the target details.")
    availability_zone: str | None = Field(default=None, description="That of the subnet, if it is to be checked.")
    security_groups: tuple[str, ...] = Field(default=(), description="Groups of every network interface.")
    isolated: bool = Field(default=True, description="Refuse security groups that let anything out.")
    default_instance_type: str = Field(default="t3.small", description="For details without a machine type.")
    instance_types: Mapping[str, str] = Field(default={}, description="EC2 types by Compute Engine machine type.")
    disk_types: Mapping[str, str] = Field(default=DISK_TYPES, description="EBS volume types by disk type.")
    instance_profiles: Mapping[str, str] = Field(default={}, description="Instance profiles by service account.")
    architecture: Literal["x86_64", "arm64"] = "x86_64"
    boot_pattern: str = Field(default=r"(?m)\blogin: *$", description="What the console of a booted guest shows.")
    settle_s: float = Field(default=5.0, ge=0, le=20, description="How long EC2 may take to list what it has made.")
    endpoint: str | None = Field(default=None, description="Another address of the API; http only on loopback.")

    @field_validator("endpoint")
    @classmethod
    def _safe_endpoint(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme == "https" and parts.hostname:
            return value
        if parts.scheme == "http" and _is_loopback(parts.hostname or ""):
            return value
        raise ValueError("use https://…, or http:// on a loopback address")

    @field_validator("boot_pattern")
    @classmethod
    def _readable_pattern(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from None
        return value

    def make(self, place: Place) -> Target:
        """The target; no call is made yet. Raises: UnsupportedError without boto3."""
        if not _is_installed():
            raise UnsupportedError("A target of type ec2 needs boto3; install it: pip install 'clonejob[ec2]'")
        from targets.ec2.target import Ec2Target

        return Ec2Target(self, name=place.name, call_timeout_s=place.call_timeout_s)

    def findings(self) -> Iterator[Finding]:
        """boto3 or credentials that are missing; whether EC2 takes them is not asked."""
        if not _is_installed():
            yield Finding("boto3 is not installed", "pip install 'clonejob[ec2]'")
            return
        import boto3
        from botocore.exceptions import BotoCoreError

        advice = (
            "give the workers AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile (AWS_PROFILE, ~/.aws), or an "
            "instance's role; see docs/ec2.md"
        )
        try:
            found = boto3.session.Session(region_name=self.region).get_credentials()
        except BotoCoreError as error:
            yield Finding(f"AWS credentials cannot be read ({error})", advice)
            return
        if found is None:
            yield Finding("there are no AWS credentials here", advice)


def _is_installed() -> bool:
    return importlib.util.find_spec("boto3") is not None


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
