"""The options of a Compute Engine project."""

from __future__ import annotations

import importlib.util
import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from targets.base import Target
from targets.errors import RefusedError, UnsupportedError
from targets.registry import Finding, Place, TargetOptions

BOOTED_PATTERN = r"\blogin: |BOOTED hostname=[^\n]*\n"
NO_BOOT_PATTERN = r"No bootable (?:device|option or device was found)"


class ComputeEngineOptions(TargetOptions):
    """See ``targets.compute_engine.target.ComputeEngineTarget``."""

    project: str = Field(
        pattern=r"^[a-z][-a-z0-9.:]{0,61}[a-z0-9]$", description="Google Cloud project in which clones are made."
    )
    zone: str = Field(
        pattern=r"^[a-z]+-[a-z]+[0-9]+-[a-z]$", description="Zone in which clones are made, such as europe-west1-b."
    )
    credentials_file: Path | None = Field(
        default=None, description="Key file of a service account; default: Application Default Credentials."
    )
    endpoint: str = Field(default="", description="Another address of the API; http:// on loopback only.")
    network: str = Field(default="", description="Network of a clone whose target details name none.")
    subnetwork: str = Field(default="", description="Subnetwork of a clone whose target details name none.")
    machine_type: str = Field(default="e2-medium", description="Machine type where the target details name none.")
    os_adaptation: Literal["required", "best_effort", "skip"] = Field(
        default="best_effort",
        description="What becomes of the step that adapts the OS, which nobody can do offline here: best_effort makes an "
        "image with licences and guest features, skip a plain copy, required refuses the job.",
    )
    licenses: dict[Literal["PAYG", "BYOL"], list[str]] = Field(
        default_factory=dict,
        description="Licences of the boot disk by licence type: which one it is depends on the OS.",
    )
    virtual_display: bool = Field(
        default=False, description="Whether clones have a display, without which there are no screenshots."
    )
    boot_pattern: str = Field(default=BOOTED_PATTERN, description="What the serial console of a booted guest shows.")
    no_boot_pattern: str = Field(default=NO_BOOT_PATTERN, description="What it shows when there is nothing to boot.")

    @field_validator("endpoint")
    @classmethod
    def _endpoint(cls, value: str) -> str:
        parts = urlsplit(value)
        if not value or (parts.scheme == "https" and parts.hostname):
            return value.rstrip("/")
        if parts.scheme == "http" and is_loopback(parts.hostname or ""):
            return value.rstrip("/")
        raise ValueError("must be https://HOST, or http://127.0.0.1:PORT for a stand-in on this machine")

    @field_validator("boot_pattern", "no_boot_pattern")
    @classmethod
    def _pattern(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"is not a regular expression: {error}") from None
        return value

    @property
    def region(self) -> str:
        """The zone's region."""
        return self.zone.rpartition("-")[0]

    @property
    def is_stand_in(self) -> bool:
        """Whether the endpoint is a stand-in on this machine: it gets no credentials."""
        return self.endpoint.startswith("http://")

    def make(self, place: Place) -> Target:
        """The target; makes no connection and imports no SDK yet."""
        if not _is_installed():
            raise UnsupportedError(
                f"Target {place.name} needs Google's client library: pip install 'clonejob[compute-engine]'"
            )
        from targets.compute_engine.target import ComputeEngineTarget

        return ComputeEngineTarget(self, name=place.name, call_timeout_s=place.call_timeout_s)

    def findings(self) -> Iterator[Finding]:
        """The client library or credentials that are missing; whether Google takes them is not asked."""
        from targets.compute_engine.credentials import read_credentials

        if not _is_installed():
            yield Finding("Google's client library is not installed", "pip install 'clonejob[compute-engine]'")
            return
        try:
            read_credentials(self)
        except RefusedError as error:
            what, _, action = str(error).partition(": ")
            yield Finding(what, action)


def _is_installed() -> bool:
    return importlib.util.find_spec("google.cloud.compute_v1") is not None


def is_loopback(host: str) -> bool:
    """Whether a host name is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
