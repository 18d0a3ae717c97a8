"""The user's own hand on real virtual machines."""

from __future__ import annotations

import json
import shutil
import time

from conftest import missing
from instance_lab import instance_of, one_line

from targets import qemu_vm
from targets.base import BootVerdict
from targets.qemu_host import root_id_of


def require_qemu():
    if absent := [tool for tool in ("qemu-system-x86_64", "qemu-img", "qemu-io", "prlimit") if not shutil.which(tool)]:
        missing(f"{', '.join(absent)} not installed")


def test_a_real_machine(clonejob, lab):
    require_qemu()
    target = lab.targets["local"]
    try:
        job = lab.clone("web-1", "local", hostname="h1")
        name = instance_of(job)
        deadline = time.monotonic() + 20
        while json.loads(clonejob("instance", "list", "--json").out)[0]["boot"] != BootVerdict.BOOTED:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert "clonejob guest: BOOTED hostname=h1 data=cycle 1\n" in clonejob("instance", "console", name).out
        assert clonejob("instance", "delete", name, "--yes").code == 0
        assert lab.names("local") == []
        assert qemu_vm.running(root_id_of(target.root)) == []
        assert [path for part in ("instances", "disks", "images") for path in (target.root / part).iterdir()] == []
    finally:
        qemu_vm.stop(qemu_vm.running(root_id_of(target.root)), target.root, timeout_s=5)


def test_a_kept_clone_is_made_independent_and_its_snapshot_can_be_pruned(clonejob, lab):
    require_qemu()
    target = lab.targets["local"]
    try:
        job = lab.clone("web-1", "local")
        name = instance_of(job)
        lab.upload(job.parent)

        def pruned(*options):
            cycles = json.loads(clonejob("snapshot", "prune", "--json", *options).out)["cycles"]
            return {row["cycle"].rpartition("/")[2]: row["kept"] for row in cycles}

        latest = "it is the VM's latest successful cycle"
        assert pruned() == {"cycle-1": "1 clone needs it", "cycle-2": latest}
        assert "cycle-1" in clonejob("snapshot", "prune", "--dry-run").out
        assert clonejob("instance", "flatten", name).out.endswith("-disk0 is independent now\n")
        assert not json.loads(clonejob("instance", "flatten", name, "--json").out)["disks"][0]["changed"]
        assert pruned("--dry-run") == pruned() == {"cycle-1": "", "cycle-2": latest}
        assert pruned() == {"cycle-2": latest}
        assert clonejob("instance", "delete", name, "--yes").code == 0
    finally:
        qemu_vm.stop(qemu_vm.running(root_id_of(target.root)), target.root, timeout_s=5)
    other = instance_of(lab.clone("web-2"))
    assert "lie on no snapshot" in one_line(clonejob("instance", "flatten", other))
