"""What the guest is told about itself: a NoCloud seed, an ISO image of 60 KiB that cloud-init reads by its label CIDATA."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from pathlib import Path

from targets.base import InstanceSpec

SEED_FILE = "seed.iso"
# What would run in the clone, open it, or is of the source's platform: a test clone gets none of it.
_UNSAFE = re.compile(r"script|ssh|key|password|passwd|secret|token|credential|user-data|kube|oslogin", re.IGNORECASE)
# cloud-init reads JSON as the YAML that it is.
_NETWORK = {"version": 2, "ethernets": {"all": {"match": {"name": "e*"}, "dhcp4": True, "optional": True}}}


def safe_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """What of the metadata the guest may see."""
    return {key: value for key, value in metadata.items() if not _UNSAFE.search(key)}


def seed_files(spec: InstanceSpec) -> dict[str, str]:
    """The three files, by name."""
    host = spec.hostname.split(".", 1)[0]
    meta = {
        "instance-id": spec.owner.job_id, "local-hostname": host, "labels": dict(spec.labels),
        "metadata": safe_metadata(spec.metadata),
    }  # fmt: skip
    user = {"preserve_hostname": False, "hostname": host, "fqdn": spec.hostname, "manage_etc_hosts": True}
    return {
        "meta-data": json.dumps(meta) + "\n",
        "user-data": "#cloud-config\n" + json.dumps(user) + "\n",
        "network-config": json.dumps(_NETWORK) + "\n",
    }


def write_seed(path: Path, spec: InstanceSpec) -> None:
    """Make the ISO image."""
    import pycdlib  # only a worker that starts an instance needs it

    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident="CIDATA")
    for number, (name, text) in enumerate(seed_files(spec).items()):
        data = text.encode()
        iso.add_fp(io.BytesIO(data), len(data), f"/FILE{number}.;1", rr_name=name, joliet_path=f"/{name}")
    iso.write(str(path))
    iso.close()
