from __future__ import annotations

import pytest

from targets.errors import UnsupportedError
from targets.qemu_machine import Machine, VmLabel, parse_machine_type


@pytest.mark.parametrize(
    ("machine_type", "machine"),
    [
        ("", Machine(1, 64)),
        ("custom-1-8388608", Machine(1, 8388608)),
        ("custom-4-5120", Machine(4, 5120)),
        ("e2-micro", Machine(2, 1024)),
        ("e2-small", Machine(2, 2048)),
        ("e2-medium", Machine(2, 4096)),
        ("n1-standard-1", Machine(1, 4096)),
        ("e2-standard-8", Machine(8, 32768)),
        ("n2-standard-2", Machine(2, 8192)),
    ],
)
def test_machine_types(machine_type, machine):
    assert parse_machine_type(machine_type, default_memory_mb=64) == machine


@pytest.mark.parametrize(
    "machine_type", ["custom-0-64", "custom-1", "custom-1-64,x=y", "n9-standard-1", "e2-standard-0", " "]
)
def test_other_machine_types(machine_type):
    with pytest.raises(UnsupportedError, match="custom-CPUS-MB"):
        parse_machine_type(machine_type, default_memory_mb=64)


def test_labels_come_back():
    label = VmLabel("root", "c-vm", "job-1", "2", "uid")
    assert VmLabel.of(["qemu", "-fw_cfg", f"name=opt/org.clonejob/label,string={label}"]) == label
    assert VmLabel.of(["qemu", "-fw_cfg", "name=opt/org.clonejob/label,string=a/b"]) is None
    assert VmLabel.of(["sleep", "1"]) is None
