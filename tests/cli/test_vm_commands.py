"""What ``vm import`` and ``vm update`` send, print and return, against a stub of the service."""

from __future__ import annotations

import hashlib
import json
import subprocess
from urllib.parse import unquote

import pytest

VM = "projects/clonejob/locations/global/sources/default/migratingVms/web-1"
OPERATION = "projects/clonejob/locations/global/operations/o1"
CYCLE = f"{VM}/replicationCycles/cycle-1"
TARGETS = "projects/clonejob/locations/global/targetProjects"


def exists(code=409):
    info = {"reason": "RESOURCE_ALREADY_EXISTS", "metadata": {}}
    return code, {"error": {"code": code, "status": "ALREADY_EXISTS", "message": "exists", "details": [info]}}


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "boot.img"
    path.write_bytes(b"\0" * 510 + b"\x55\xaa" + b"x" * 4096 * 512)
    return path


@pytest.fixture
def service(stub):
    """A service that takes an import of web-1."""
    stub.on("GET", f"/v1/{TARGETS}", {"targetProjects": [{"name": f"{TARGETS}/{t}"} for t in ("simulated", "local")]})
    ok = {"name": OPERATION, "done": True, "response": {}}
    stub.on("POST", "/v1/projects/clonejob/locations/global/sources", ok)
    stub.on("POST", f"/v1/{VM.rpartition('/')[0]}", ok)
    stub.on("GET", f"/v1/{VM}", {"name": VM, "computeEngineTargetDefaults": {"vmName": "web-1"}})
    stub.on("POST", f"/clonejob/v1/{VM}/replicationCycles", {"name": CYCLE})
    stub.on("PUT", f"/clonejob/v1/{CYCLE}/disks/0", {})
    stub.on("PUT", f"/clonejob/v1/{CYCLE}/disks/1", {})
    stub.on("POST", f"/clonejob/v1/{CYCLE}:finish", {"name": CYCLE, "cycleNumber": 1, "state": "SUCCEEDED"})
    stub.on("POST", f"/clonejob/v1/{CYCLE}:abort", {"name": CYCLE, "state": "FAILED"})
    return stub


def test_import_creates_uploads_and_finishes(clonejob, service, disk):
    result = clonejob("vm", "import", "web-1", "--disk", disk, "--disk", disk, "--target", "simulated",
                      "--hostname", "h1", "--skip-os-adaptation", "--server", service.url)  # fmt: skip
    assert (result.code, result.out) == (0, "web-1: cycle 1 with 2 disk(s) is ready\n")
    created = json.loads(service.calls[2].body)
    assert created["computeEngineTargetDefaults"]["hostname"] == "h1"
    assert created["computeEngineTargetDefaults"]["targetProject"].endswith("/global/targetProjects/simulated")
    assert created["computeEngineTargetDefaults"]["zone"] == "local-a"
    assert created["policy"] == {"skipOsAdaptation": True}
    uploads = [call for call in service.calls if call.method == "PUT"]
    assert [call.query for call in uploads] == ["format=raw", "format=raw"]
    headers = {name.lower(): value for name, value in uploads[0].headers.items()}
    assert uploads[0].body == disk.read_bytes()
    assert headers["x-clonejob-sha256"] == hashlib.sha256(disk.read_bytes()).hexdigest()


def test_a_second_import_changes_only_what_was_asked_for(clonejob, service, disk):
    service.on("POST", f"/v1/{VM.rpartition('/')[0]}", exists())
    service.on("POST", "/v1/projects/clonejob/locations/global/sources", exists())
    service.on("PATCH", f"/v1/{VM}", {"name": OPERATION, "done": True})
    assert clonejob("vm", "import", "web-1", "--disk", disk, "--server", service.url).code == 0
    assert "PATCH" not in [call.method for call in service.calls]
    assert clonejob("vm", "import", "web-1", "--disk", disk, "--hostname", "h2", "--server", service.url).code == 0
    (change,) = [call for call in service.calls if call.method == "PATCH"]
    assert change.query == "updateMask=computeEngineTargetDefaults"
    assert json.loads(change.body) == {"computeEngineTargetDefaults": {"vmName": "web-1", "hostname": "h2"}}


def test_already_adapted_tells_the_cycle(clonejob, service, disk):
    assert clonejob("vm", "import", "web-1", "--disk", disk, "--already-adapted", "--server", service.url).code == 0
    (begun,) = [call for call in service.calls if call.path.endswith("/replicationCycles")]
    assert json.loads(begun.body) == {"adaptation": {"modifiers": {}}}


def test_an_upload_that_fails_aborts_the_cycle(clonejob, service, disk):
    full = {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "the disk is full; make room"}}
    service.on("PUT", f"/clonejob/v1/{CYCLE}/disks/1", (429, full))
    result = clonejob("vm", "import", "web-1", "--disk", disk, "--disk", disk, "--server", service.url)
    assert (result.code, result.err) == (1, "error: the disk is full; make room\n")
    assert service.calls[-1].path == f"/clonejob/v1/{CYCLE}:abort"
    assert "the disk is full" in json.loads(service.calls[-1].body)["message"]
    assert ("POST", f"/clonejob/v1/{CYCLE}:finish") not in service.called()


def test_what_an_interrupted_import_left_can_be_aborted(clonejob, service, disk):
    info = {"reason": "CYCLE_RUNNING", "metadata": {"resource": CYCLE}}
    running = {"error": {"code": 409, "status": "ABORTED", "message": "a cycle is running", "details": [info]}}
    path = f"/clonejob/v1/{VM}/replicationCycles"
    service.on("POST", path, (409, running))
    result = clonejob("vm", "import", "web-1", "--disk", disk, "--server", service.url)
    assert (result.code, "run again with --abort-running" in result.err) == (5, True)
    service.on("POST", path, (409, running), {"name": CYCLE})
    assert clonejob("vm", "import", "web-1", "--disk", disk, "--abort-running", "--server", service.url).code == 0
    assert ("POST", f"/clonejob/v1/{CYCLE}:abort") in service.called()


def make_empty(path):
    path.write_bytes(b"")


def make_text(path):
    path.write_text("not an image\n" * 100)


def make_backed(path):
    base = path.with_name("base.qcow2")
    for command in (
        ["qemu-img", "create", "-q", "-f", "qcow2", base, "1M"],
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", path],
    ):
        subprocess.run(command, check=True)


@pytest.mark.parametrize(
    ("make", "part"),
    [(make_empty, "is empty"), (make_text, "not a disk image"), (make_backed, "has a backing file")],
)
def test_a_bad_disk_is_refused_before_anything_is_sent(clonejob, service, tmp_path, disk, make, part):
    bad = tmp_path / "bad.img"
    make(bad)
    result = clonejob("vm", "import", "web-1", "--disk", disk, "--disk", bad, "--server", service.url)
    assert result.code == 2
    assert part in result.err
    assert service.calls == []


@pytest.mark.parametrize(("options", "name"), [(["--target", "nowhere"], "nowhere"), ([], "local")])
def test_a_target_that_is_not_there_is_refused_before_anything_is_made(clonejob, service, disk, options, name):
    there = [{"name": f"{TARGETS}/{t}"} for t in ("simulated", "gce")]
    service.on("GET", f"/v1/{TARGETS}", {"targetProjects": there})
    service.on("GET", f"/v1/{VM}", (404, {"error": {"status": "NOT_FOUND", "message": "no"}}))
    result = clonejob("vm", "import", "web-1", "--disk", disk, *options, "--server", service.url)
    assert (result.code, result.err) == (
        4,
        f"error: target project '{name}' does not exist; choose one with --target, there are: gce, simulated\n",
    )
    assert {call.method for call in service.calls} == {"GET"}


def test_a_vm_that_has_a_target_needs_no_local_one(clonejob, service, disk):
    service.on("GET", f"/v1/{TARGETS}", {"targetProjects": [{"name": f"{TARGETS}/simulated"}]})
    service.on("POST", f"/v1/{VM.rpartition('/')[0]}", exists())
    assert clonejob("vm", "import", "web-1", "--disk", disk, "--server", service.url).code == 0


def test_a_vm_is_updated_without_an_upload(clonejob, service):
    service.on("PATCH", f"/v1/{VM}", {"name": OPERATION, "done": True})
    result = clonejob("vm", "update", "web-1", "--hostname", "", "--target", "simulated", "--skip-os-adaptation",
                      "--server", service.url)  # fmt: skip
    assert (result.code, result.out) == (
        0, "web-1: the next clones have hostname, targetProject, skipOsAdaptation as given\n"
    )  # fmt: skip
    (change,) = [call for call in service.calls if call.method == "PATCH"]
    assert unquote(change.query) == (
        "updateMask=computeEngineTargetDefaults.hostname,computeEngineTargetDefaults.targetProject,"
        "policy.skipOsAdaptation"
    )
    assert json.loads(change.body) == {
        "computeEngineTargetDefaults": {"hostname": "", "targetProject": f"{TARGETS}/simulated"},
        "policy": {"skipOsAdaptation": True},
    }
    assert clonejob("vm", "update", "web-1", "--adapt-os", "--json", "--server", service.url).code == 0
    assert json.loads([c for c in service.calls if c.method == "PATCH"][1].body) == {
        "policy": {"skipOsAdaptation": False}
    }


@pytest.mark.parametrize(("options", "code"), [([], 2), (["--target", "nowhere"], 4), (["--target", "A/B"], 2)])
def test_an_update_that_makes_no_sense_is_refused(clonejob, service, options, code):
    assert clonejob("vm", "update", "web-1", *options, "--server", service.url).code == code
    assert "PATCH" not in [call.method for call in service.calls]


def test_a_disks_target_is_not_taken_away_by_options_of_the_other_kind(clonejob, service, disk):
    service.on("GET", f"/v1/{VM}", {"name": VM, "computeEngineDisksTargetDefaults": {"disksTargetDefaults": {}}})
    service.on("POST", f"/v1/{VM.rpartition('/')[0]}", exists())
    for command in (("update", "web-1"), ("import", "web-1", "--disk", disk)):
        result = clonejob("vm", *command, "--hostname", "h1", "--server", service.url)
        assert result.code == 5 and "has compute_engine_disks_target_defaults" in result.err
    assert "PATCH" not in [call.method for call in service.calls]


REFERENCES = ("--reference", "1=projects/p/global/snapshots/t", "--reference", "0=projects/p/global/snapshots/s",
              "--size", "0=1024", "--size", "1=2048")  # fmt: skip


def test_import_registers_disks_by_reference(clonejob, service):
    service.on("POST", f"/clonejob/v1/{CYCLE}:registerDisk", {})
    result = clonejob("vm", "import", "web-1", *REFERENCES, "--target", "simulated", "--server", service.url)
    assert (result.code, result.out) == (0, "web-1: cycle 1 with 2 disk(s) is ready\n")
    assert "zone" not in json.loads(service.calls[2].body)["computeEngineTargetDefaults"]
    bodies = [json.loads(call.body) for call in service.calls if call.path.endswith(":registerDisk")]
    assert bodies == [
        {"diskNumber": 0, "reference": "projects/p/global/snapshots/s", "sizeBytes": "1024"},
        {"diskNumber": 1, "reference": "projects/p/global/snapshots/t", "sizeBytes": "2048"},
    ]
    assert not [call for call in service.calls if call.method == "PUT"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "name the disks"),
        (("--size", "0=1"), "--size goes with --reference"),
        (("--reference", "0=s"), "one --size"),
        (("--reference", "1=s", "--size", "1=1"), "without a gap"),
        (("--reference", "0=s", "--reference", "0=t", "--size", "0=1"), "twice"),
        (("--reference", "s", "--size", "0=1"), "is not NUMBER=VALUE"),
        (("--reference", "0=s", "--size", "0=big"), "not a number of bytes"),
        (("--reference", "0=s", "--size", "0=0"), "--size 0=0 must be between 1 and"),
        (("--reference", "0=s", "--size", "0=1"), "--size 0=1 must be the disk's size in bytes, whole sectors of 512"),
        (("--reference", "0=s", "--size", f"0={2**47}"), "must be between 1 and"),
        (("--reference", "0=../s", "--size", "0=512"), "--reference 0=../s must be the provider's name"),
        ([text for n in range(65) for text in ("--reference", f"{n}=s", "--size", f"{n}=512")], "64 disks at most"),
        (("--disk", "x.img", "--reference", "0=s", "--size", "0=1"), "cannot be mixed"),
    ],
)
def test_references_that_make_no_sense_send_nothing(clonejob, service, arguments, says):
    result = clonejob("vm", "import", "web-1", *arguments, "--server", service.url)
    assert result.code == 2 and says in result.err
    assert service.calls == []
