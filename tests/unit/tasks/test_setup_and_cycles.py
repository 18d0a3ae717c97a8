"""Sources, VMs, target projects and cycles: bad input gets a clear error and leaves nothing half-made."""

import pytest
from harness import PARENT, SOURCE, VM, count, refused

from models.schema import MigratingVm, Operation, Snapshot
from models.states import CycleState, JobState, VmState
from tasks.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)
from tasks.services import Request
from tasks.services.uploads import Chunk


def test_sources_vms_and_target_projects_refuse_what_is_wrong(light):
    services, none = light.services, Request()
    refused(light, AlreadyExists, lambda: services.sources.create(PARENT, "s", {}, none))
    refused(light, InvalidArgument, lambda: services.sources.create(PARENT, "S", {}, none))
    refused(light, NotFound, lambda: services.migrating_vms.create(f"{PARENT}/sources/no", "v", {}, none))
    refused(light, AlreadyExists, lambda: light.add_vm("web-1"))
    refused(light, InvalidArgument, lambda: services.target_projects.create(PARENT, "t", {"project": "no"}, none))
    refused(
        light,
        InvalidArgument,
        lambda: services.target_projects.create("projects/p/locations/eu", "t", {"project": "simulated"}, none),
    )


@pytest.mark.parametrize(
    "defaults",
    [
        {"vmName": "Not Legal"},
        {"hostname": "-x"},
        {"hostname": "a..b"},
        {"hostname": "x" * 300},
        {"targetProject": "local"},
    ],
)
def test_target_defaults_are_checked_when_they_are_set(light, defaults):
    body = {"computeEngineTargetDefaults": defaults}
    for call in (lambda: light.add_vm("web-2", defaults=defaults),
                 lambda: light.services.migrating_vms.update(VM, lambda _: body, Request())):  # fmt: skip
        assert refused(light, InvalidArgument, call).field.startswith("migrating_vm.compute_engine_target_defaults.")


@pytest.mark.parametrize(
    ("defaults", "field"),
    [
        ({}, ""),
        ({"targetProject": "local", "disksTargetDefaults": {}}, ".target_project"),
        ({"disksTargetDefaults": {}, "disks": [{"sourceDiskNumber": 1}, {"sourceDiskNumber": 1}]}, ".disks"),
        ({"disksTargetDefaults": {}, "disks": [{"sourceDiskNumber": -1}]}, ".disks[0].source_disk_number"),
        ({"disksTargetDefaults": {}, "disks": [{"diskName": "Not Legal"}]}, ".disks[0].disk_name"),
        ({"disksTargetDefaults": {}, "disks": [{"diskName": "d"}, {"sourceDiskNumber": 1, "diskName": "d"}]}, ""),
        ({"disksTargetDefaults": {}, "disks": [{"additionalLabels": {"A": "b"}}]}, ".disks[0].additional_labels"),
        ({"disksTargetDefaults": {}, "disks": [{"vmAttachmentDetails": {"deviceName": "d"}}]},
         ".disks[0].vm_attachment_details"),
        ({"vmTargetDefaults": {"vmName": "v"}}, ".vm_target_defaults.machine_type"),
        ({"vmTargetDefaults": {"machineType": "e2-small"}}, ".vm_target_defaults.vm_name"),
        ({"vmTargetDefaults": {"vmName": "V", "machineType": "e2-small"}}, ".vm_target_defaults.vm_name"),
        ({"vmTargetDefaults": {"vmName": "v", "machineType": "e2-small", "hostname": "-x"}}, ".vm_target_defaults.hostname"),
        ({"vmTargetDefaults": {"vmName": "v", "machineType": "e2-small", "labels": {"A": ""}}}, ".vm_target_defaults.labels"),
        ({"vmTargetDefaults": {"vmName": "v", "machineType": "e2-small", "bootDiskDefaults": {}}},
         ".vm_target_defaults.boot_disk_defaults.image.source_image"),
        ({"vmTargetDefaults": {"vmName": "v", "machineType": "e2-small"}, "disks": [{"sourceDiskNumber": 1}]}, ".disks"),
    ],
)  # fmt: skip
def test_disks_targets_are_checked_when_they_are_set(light, defaults, field):
    body = {"computeEngineDisksTargetDefaults": defaults}
    for call in (lambda: light.services.migrating_vms.create(SOURCE, "v", body, Request()),
                 lambda: light.services.migrating_vms.update(VM, lambda _: body, Request())):  # fmt: skip
        assert (
            refused(light, InvalidArgument, call).field == f"migrating_vm.compute_engine_disks_target_defaults{field}"
        )


def test_target_defaults_name_a_target_project_that_exists(world):
    defaults = {"targetProject": f"{PARENT}/targetProjects/gone"}
    body, vms = {"computeEngineTargetDefaults": defaults}, world.services.migrating_vms
    for call in (lambda: world.add_vm("web-2", defaults=defaults),
                 lambda: vms.update(VM, lambda _: body, Request())):  # fmt: skip
        error = refused(world, FailedPrecondition, call, MigratingVm, Operation)
        assert error.reason == "TARGET_PROJECT_NOT_FOUND" and "targetProjects/gone does not exist" in error.message
    assert vms.get(VM).body["computeEngineTargetDefaults"]["targetProject"].endswith("/simulated")
    # Who asks whether a VM is there by creating it, as `clonejob vm import` does, is told that first.
    refused(world, AlreadyExists, lambda: world.add_vm("web-1", defaults=defaults))


def test_a_vm_whose_target_project_is_gone_can_be_changed_and_mended(world):
    world.corrupt("DELETE FROM target_projects")
    vms = world.services.migrating_vms
    vms.update(VM, lambda body: {**body, "displayName": "web"}, Request())
    vms.update(VM, lambda _: {}, Request())
    assert vms.get(VM).body == {}


def test_an_update_changes_no_running_job(light):
    job = light.create()
    update = light.services.migrating_vms.update

    def change(body):
        return {"computeEngineTargetDefaults": {**body["computeEngineTargetDefaults"], "machineType": "e2-small"}}

    _, vm = update(VM, change, Request())
    assert vm.body["computeEngineTargetDefaults"]["machineType"] == "e2-small"
    assert "machineType" not in light.job(job.id).target_details
    refused(light, NotFound, lambda: update(f"{VM}x", change, Request()))


# Cycles


def test_the_first_cycle_makes_the_vm_active_and_an_aborted_one_does_not(light):
    vm = light.add_vm("web-2")
    states = [light.services.migrating_vms.get(vm).state]
    cycle = light.services.cycles.begin(vm)
    states.append(light.services.migrating_vms.get(vm).state)
    light.services.cycles.abort(cycle.name, "changed my mind")
    states.append(light.services.migrating_vms.get(vm).state)
    light.upload(vm)
    states.append(light.services.migrating_vms.get(vm).state)
    assert states == [VmState.READY, VmState.FIRST_SYNC, VmState.READY, VmState.ACTIVE]
    assert [cycle.cycle_number for cycle in light.services.cycles.list(vm).items] == [2, 1]


def test_a_clone_pins_the_latest_successful_cycle_and_keeps_it(light):
    job = light.create()
    newer = light.upload(VM, content=b"newer")
    assert light.services.migrating_vms.last_cycle(VM).name == newer != job.cycle
    light.run()
    assert light.job(job.id).cycle == job.cycle
    assert light.create("next").cycle == newer


def test_an_adapted_cycle_needs_no_adaptation_step(light):
    adapted = {"licenseType": "COMPUTE_ENGINE_LICENSE_TYPE_DEFAULT"}
    light.upload(VM, adaptation=adapted)
    job = light.create()
    assert [step.kind for step in job.steps] == ["preparing_vm_disks", "instantiating_migrated_vm"]
    light.run()
    assert light.job(job.id).state is JobState.SUCCEEDED

    def change(body):
        byol = {"licenseType": "COMPUTE_ENGINE_LICENSE_TYPE_BYOL"}
        return {"computeEngineTargetDefaults": body["computeEngineTargetDefaults"] | byol}

    light.services.migrating_vms.update(VM, change, Request())
    assert light.create("byol").steps[0].kind == "adapting_os"


def test_the_vms_policy_skips_adaptation(light):
    vm = light.add_vm("web-2", policy={"skipOsAdaptation": True})
    light.upload(vm)
    assert len(light.create(vm=vm).steps) == 2


def test_disks_go_into_a_running_cycle_in_any_order_without_gaps(light):
    cycles = light.services.cycles
    cycle = cycles.begin(VM)
    refused(light, FailedPrecondition, lambda: cycles.finish(cycle.name), Snapshot)
    cycles.put_disk(cycle.name, 1, "raw", [b"\0" * 512])
    assert "uploaded: 1" in refused(light, FailedPrecondition, lambda: cycles.finish(cycle.name), Snapshot).message
    refused(light, AlreadyExists, lambda: cycles.put_disk(cycle.name, 1, "raw", [b"\0" * 512]), Snapshot)
    cycles.put_disk(cycle.name, 0, "raw", [b"\0" * 512])
    assert cycles.finish(cycle.name).state is CycleState.SUCCEEDED
    refused(light, FailedPrecondition, lambda: cycles.put_disk(cycle.name, 2, "raw", [b"\0" * 512]), Snapshot)
    refused(light, FailedPrecondition, lambda: cycles.abort(cycle.name, ""), Snapshot)
    assert light.services.migrating_vms.last_cycle(VM).name == cycle.name


def stored(world):
    return sorted(path for path in world.snapshots.path("x").parent.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("image_format", "content", "sha256", "says"),
    [
        ("raw", b"", "", "empty"),
        ("raw", b"x" * 100, "", "512"),
        ("qcow2", b"x" * 1024, "", "qcow2"),
        ("vmdk", b"x" * 512, "", "raw, qcow2"),
        ("raw", b"\0" * 512, "0" * 64, "send the disk again"),
        ("qcow2", b"QFI\xfb\0\0\0\3" + (512).to_bytes(8, "big") + b"\0\0\0\4" + b"\0" * 500, "", "backing"),
    ],
)
def test_a_refused_disk_leaves_nothing(light, image_format, content, sha256, says):
    cycle = light.services.cycles.begin(VM)
    before = stored(light)
    error = refused(
        light,
        InvalidArgument,
        lambda: light.services.cycles.put_disk(cycle.name, 0, image_format, [content], sha256),
        Snapshot,
    )
    assert says in error.message and stored(light) == before


def test_an_upload_that_breaks_off_leaves_nothing(light):
    def broken():
        yield b"\0" * 512
        raise ConnectionResetError

    cycle = light.services.cycles.begin(VM)
    before = stored(light)
    with pytest.raises(ConnectionResetError):
        light.services.cycles.put_disk(cycle.name, 0, "raw", broken())
    assert stored(light) == before and count(light, Snapshot) == [1]


def test_a_full_disk_while_uploading(light, monkeypatch):
    from targets.snapshot_store import SnapshotStoreError

    def full(_writer, _data):
        raise SnapshotStoreError("no space left on the device")

    monkeypatch.setattr("targets.snapshot_store.SnapshotWriter.write", full)
    cycle = light.services.cycles.begin(VM)
    error = refused(
        light, ResourceExhausted, lambda: light.services.cycles.put_disk(cycle.name, 0, "raw", [b""]), Snapshot
    )
    assert "no space left" in error.message


@pytest.mark.parametrize("sha256", ["", "0" * 64])
@pytest.mark.parametrize("chunk", [None, Chunk(0, 511, 512), Chunk(0, 511, 1024)])
@pytest.mark.parametrize("end", ["finish", "abort"])
def test_an_upload_that_ends_after_the_cycle_leaves_nothing(light, end, chunk, sha256):
    cycles = light.services.cycles
    cycle = cycles.begin(VM)
    cycles.put_disk(cycle.name, 0, "raw", [b"\0" * 512])

    def ended_under_it():
        if end == "finish":  # as if this upload had begun between the look for it and the end
            light.runtime.catalog.end_cycle(cycle.name, CycleState.SUCCEEDED, None)
            light.runtime.uploads.discard(cycle.name, published=False)
        else:
            cycles.abort(cycle.name, "")
        yield b"\0" * 512

    def upload():
        if chunk is None:
            return cycles.put_disk(cycle.name, 1, "raw", ended_under_it(), sha256)
        return cycles.put_chunk(cycle.name, 1, "raw", ended_under_it(), chunk, sha256)

    with pytest.raises(FailedPrecondition) as caught:
        upload()
    assert caught.value.reason == "CYCLE_CLOSED"
    assert not (light.snapshots.root / ".uploads").exists()
    assert len([path for path in light.snapshots.root.rglob("disk1*")]) == 0


def test_a_second_cycle_while_one_runs(light):
    running = light.services.cycles.begin(VM)
    assert running.name in refused(light, Aborted, lambda: light.services.cycles.begin(VM)).message


def test_an_aborted_cycles_disks_are_removed(light):
    before = stored(light)
    cycle = light.services.cycles.begin(VM)
    light.services.cycles.put_disk(cycle.name, 0, "raw", [b"\0" * 512])
    light.services.cycles.abort(cycle.name, "no")
    assert stored(light) == before


def test_a_disk_that_is_completed_while_the_cycle_is_being_finished_is_not_overlooked(light, monkeypatch):
    cycle = light.services.cycles.begin(VM)
    light.services.cycles.put_disk(cycle.name, 0, "raw", [b"\0" * 512])
    look, late = light.services.cycles._uploads.incomplete, [2]

    def and_then_one_arrives(seen):
        found = look(seen)
        if late:
            light.services.cycles.put_disk(cycle.name, late.pop(), "raw", [b"\0" * 512])
        return found

    monkeypatch.setattr(light.services.cycles._uploads, "incomplete", and_then_one_arrives)
    with pytest.raises(FailedPrecondition, match="uploaded: 0, 2"):
        light.services.cycles.finish(cycle.name)
    light.services.cycles.put_disk(cycle.name, 1, "raw", [b"\0" * 512])
    assert light.services.cycles.finish(cycle.name).state is CycleState.SUCCEEDED
