"""EC2 instance types for the machine types of Compute Engine."""

from __future__ import annotations

import re
from collections.abc import Mapping

from targets.errors import UnsupportedError

_EC2_TYPE = re.compile(r"[a-z][a-z0-9-]*\.[a-z0-9-]+")
_CUSTOM = re.compile(r"(?:[a-z][0-9][a-z]?-)?custom-([1-9][0-9]{0,3})-([1-9][0-9]{0,7})")
_PREDEFINED = re.compile(r"[a-z][0-9][a-z]?-(standard|highmem|highcpu)-([1-9][0-9]{0,2})")
_SHARED_CORE = {"e2-micro": (2, 1024), "e2-small": (2, 2048), "e2-medium": (2, 4096),
                "f1-micro": (1, 614), "g1-small": (1, 1740)}  # fmt: skip
_MB_PER_CPU = {"standard": 4096, "highmem": 8192, "highcpu": 1024}
# Virtual CPUs, MiB; one family per shape, all on Nitro.
_BURSTABLE = [("t3.nano", 2, 512), ("t3.micro", 2, 1024), ("t3.small", 2, 2048), ("t3.medium", 2, 4096),
              ("t3.large", 2, 8192)]  # fmt: skip
_SIZES = {"large": 2, "xlarge": 4, "2xlarge": 8, "4xlarge": 16, "8xlarge": 32, "12xlarge": 48, "16xlarge": 64,
          "24xlarge": 96, "32xlarge": 128}  # fmt: skip
_FAMILIES = {"c6i": 2048, "m6i": 4096, "r6i": 8192}
_TYPES = _BURSTABLE + [(f"{family}.{size}", cpus, cpus * mb) for family, mb in _FAMILIES.items()
                       for size, cpus in _SIZES.items()]  # fmt: skip


def instance_type(machine_type: str, overrides: Mapping[str, str], default: str) -> str:
    """The EC2 type for a machine type: as the overrides say, as it is, or the smallest with its CPUs and memory.

    Raises: UnsupportedError.
    """
    if not machine_type:
        return default
    if machine_type in overrides:
        return overrides[machine_type]
    if _EC2_TYPE.fullmatch(machine_type):
        return machine_type
    cpus, memory_mb = _shape(machine_type)
    fits = [(has, mb, name) for name, has, mb in _TYPES if has >= cpus and mb >= memory_mb]
    if not fits:
        raise UnsupportedError(f"No EC2 type is known for {machine_type!r} ({cpus} CPUs, {memory_mb} MiB); name one "
                               "in the target's option instance_types.")  # fmt: skip
    return min(fits, key=lambda fit: fit[:2])[2]  # of the same shape the burstable one, which stands first


def _shape(machine_type: str) -> tuple[int, int]:
    if machine_type in _SHARED_CORE:
        return _SHARED_CORE[machine_type]
    if match := _CUSTOM.fullmatch(machine_type):
        return int(match[1]), int(match[2])
    if match := _PREDEFINED.fullmatch(machine_type):
        return int(match[2]), int(match[2]) * _MB_PER_CPU[match[1]]
    raise UnsupportedError(
        f"Machine type {machine_type!r} is not known; use an EC2 type (t3.small), custom-CPUS-MB, "
        "SERIES-{standard,highmem,highcpu}-CPUS, or name it in the target's option instance_types."
    )
