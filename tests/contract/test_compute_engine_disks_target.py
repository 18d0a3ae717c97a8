"""A VM whose target is disks, over the official client: the real service on Compute Engine's stand-in, judged from its log."""

from __future__ import annotations

import contextlib

import grpc
import pytest
from compute_world import ComputeWorld
from google.api_core.exceptions import FailedPrecondition
from google.cloud import vmmigration_v1 as v1
from google.cloud.vmmigration_v1.services.vm_migration.transports import VmMigrationGrpcTransport
from guarantee.judge import judge
from harness import PARENT, SOURCE, VM
from serving import serving
from standins.compute_engine.server import PROJECT, ZONE

from models.states import LedgerState
from targets.base import ResourceKind, ResourceRef
from tasks.services import Request

ALONE = v1.DisksMigrationDisksTargetDefaults()
KEY = "projects/k/locations/europe-west1/keyRings/r/cryptoKeys/c"
DISKS = f"projects/{PROJECT}/zones/{ZONE}/disks"
SUCCEEDED, FAILED, CANCELLED = v1.CloneJob.State.SUCCEEDED, v1.CloneJob.State.FAILED, v1.CloneJob.State.CANCELLED


class Client:
    """The official client, and the worker's part: messages are delivered when the test says."""

    def __init__(self, world, port):
        self.world = world
        self.api = v1.VmMigrationClient(
            transport=VmMigrationGrpcTransport(channel=grpc.insecure_channel(f"localhost:{port}"))
        )

    def vm(self, *, cycle_disks=2, **defaults):
        target = v1.ComputeEngineDisksTargetDefaults(target_project=f"{PARENT}/targetProjects/ce", **defaults)
        vm = v1.MigratingVm(compute_engine_disks_target_defaults=target)
        self.api.create_migrating_vm(parent=SOURCE, migrating_vm=vm, migrating_vm_id="web-1").result()
        self.world.refer(VM, disks=cycle_disks)

    def clone(self, name="c-1"):
        return self.api.create_clone_job(parent=VM, clone_job=v1.CloneJob(), clone_job_id=name).result()

    def job(self, name="c-1"):
        return self.api.get_clone_job(name=f"{VM}/cloneJobs/{name}")

    def row(self):
        return self.world.services.clone_jobs.get(f"{VM}/cloneJobs/c-1")

    def run(self):
        self.world.run_to_end(self.row().id)
        return self.job()


@pytest.fixture
def served(tmp_path):
    with contextlib.ExitStack() as stack:

        def make(**options):
            world = ComputeWorld(tmp_path, **options)
            stack.callback(world.close)
            world.services.sources.create(PARENT, "s", {}, Request())
            world.services.target_projects.create(PARENT, "ce", {"project": "ce"}, Request())
            found = stack.enter_context(serving(world.services))
            client = Client(world, found.grpc_port)
            stack.callback(client.api.transport.close)
            made.append(world)
            return client

        made = []
        yield make
        for world in made:
            assert world.stand_in.refused == []
            found = judge(world.engine, world.stand_in, final=True, calls=world.stand_in.calls())
            assert found.violations == []


def body_of(client, method, name):
    return next(body for called, body in client.world.stand_in.bodies if called == method and body["name"] == name)


def test_disks_alone_are_the_clone_and_stay(served):
    client = served(durations={"disks.insert": 20.0})
    client.vm(
        zone=ZONE,
        disks_target_defaults=ALONE,
        disks=[
            v1.PersistentDiskDefaults(source_disk_number=1, disk_name="data", disk_type="COMPUTE_ENGINE_DISK_TYPE_SSD",
                                      additional_labels={"team": "blue"}, encryption=v1.Encryption(kms_key=KEY)),
            v1.PersistentDiskDefaults(source_disk_number=0),
        ],
    )  # fmt: skip
    begun = client.clone()
    details = begun.compute_engine_disks_target_details
    assert "disks_target_details" in details and not details.disks and "compute_engine_target_details" not in begun
    job = client.run()
    assert job.state == SUCCEEDED
    names = {row.spec["diskNumber"]: row.name for row in client.row().ledger}
    shown = {disk.source_disk_number: disk.disk_uri for disk in job.compute_engine_disks_target_details.disks}
    assert shown == {number: f"{DISKS}/{name}" for number, name in names.items()} and names[1] == "data"
    assert [v1.CloneStep.pb(step).WhichOneof("step") for step in job.steps] == ["preparing_vm_disks"]
    assert {row.state for row in client.row().ledger} == {LedgerState.KEPT}
    data, first = (body_of(client, "disks.insert", names[number]) for number in (1, 0))
    assert data["type"].endswith("/pd-ssd") and data["diskEncryptionKey"] == {"kmsKeyName": KEY}
    assert data["labels"]["team"] == "blue" and "team" not in first["labels"] and first["type"].endswith("/pd-standard")
    assert client.world.kinds() == ["disk", "disk"] and "instances.insert" not in client.world.stand_in.requests
    before = len(client.world.stand_in.calls())
    client.world.clock.advance(3600)
    client.world.reconcile(), client.world.run()
    assert len(client.world.stand_in.calls()) == before
    with pytest.raises(FailedPrecondition):
        client.api.cancel_clone_job(name=job.name).result()
    assert client.world.kinds() == ["disk", "disk"]


def test_only_the_disks_that_are_named_are_made(served):
    client = served()
    client.vm(cycle_disks=3, disks_target_defaults=ALONE, disks=[v1.PersistentDiskDefaults(source_disk_number=1)])
    client.clone()
    assert [disk.source_disk_number for disk in client.run().compute_engine_disks_target_details.disks] == [1]
    assert client.world.kinds() == ["disk"]


def test_a_disk_that_the_cycle_does_not_have_is_told_before_anything_is_made(served):
    client = served()
    client.vm(disks_target_defaults=ALONE, disks=[v1.PersistentDiskDefaults(source_disk_number=7)])
    with pytest.raises(
        FailedPrecondition, match="names disk 7, and its latest replication cycle has the disks 0, 1"
    ) as error:
        client.clone()
    assert error.value.reason == "NO_SUCH_DISK" and client.world.stand_in.calls() == []
    assert [each.reason for each in client.world.services.plans.plan(VM).blockers] == ["NO_SUCH_DISK"]


def attached(client, **more):
    """Both disks of the source attached to a new VM that boots from an image."""
    client.vm(
        vm_target_defaults=v1.DisksMigrationVmTargetDefaults(
            vm_name="shop", machine_type_series="n2", machine_type="n2-standard-2", network_tags=["web"],
            network_interfaces=[v1.NetworkInterface(network="vpc", internal_ip="10.0.0.9")],
            service_account="sa@example.com", secure_boot=True, enable_vtpm=True, enable_integrity_monitoring=True,
            compute_scheduling=v1.ComputeScheduling(on_host_maintenance="TERMINATE"),
            metadata={"role": "shop"}, additional_licenses=["projects/l/global/licenses/x"], hostname="shop.internal",
            labels={"team": "blue"}, encryption=v1.Encryption(kms_key=KEY),
            boot_disk_defaults=v1.BootDiskDefaults(
                image=v1.BootDiskDefaults.DiskImageDefaults(source_image=client.world.stand_in.add_image()),
                disk_name="shop-root", disk_type="COMPUTE_ENGINE_DISK_TYPE_BALANCED", device_name="root",
                encryption=v1.Encryption(kms_key=KEY),
            ),
        ),
        disks=[
            v1.PersistentDiskDefaults(source_disk_number=0, vm_attachment_details=v1.VmAttachmentDetails(device_name="d")),
            v1.PersistentDiskDefaults(source_disk_number=1, disk_name="logs"),
        ],
        **more,
    )  # fmt: skip


def test_disks_are_attached_to_a_new_vm_that_boots_from_an_image(served):
    client = served(durations={"disks.insert": 20.0, "instances.insert": 20.0})
    attached(client)
    assert client.clone().compute_engine_disks_target_details.vm_target_details.vm_uri == ""
    job = client.run()
    assert job.state == SUCCEEDED, job.error
    details = job.compute_engine_disks_target_details
    assert details.vm_target_details.vm_uri == f"projects/{PROJECT}/zones/{ZONE}/instances/shop"
    assert [disk.source_disk_number for disk in details.disks] == [0, 1] and details.disks[
        1
    ].disk_uri == f"{DISKS}/logs"
    first = details.disks[0].disk_uri.rpartition("/")[2]
    root, vm = body_of(client, "disks.insert", "shop-root"), body_of(client, "instances.insert", "shop")
    assert root["sourceImage"].endswith("/images/i") and root["type"].endswith("/pd-balanced")
    assert root["licenses"] == ["projects/l/global/licenses/x"] and root["diskEncryptionKey"] == {"kmsKeyName": KEY}
    assert "licenses" not in body_of(client, "disks.insert", first)
    assert [(disk["source"], disk["deviceName"], disk["boot"], disk["autoDelete"]) for disk in vm["disks"]] == [
        (f"{DISKS}/shop-root", "root", True, False), (f"{DISKS}/{first}", "d", False, False),
        (f"{DISKS}/logs", "disk-2", False, False),
    ]  # fmt: skip
    assert vm["machineType"].endswith("/n2-standard-2") and vm["tags"] == {"items": ["web"]}
    assert vm["networkInterfaces"] == [{"network": f"projects/{PROJECT}/global/networks/vpc", "networkIP": "10.0.0.9"}]
    assert vm["serviceAccounts"][0]["email"] == "sa@example.com" and vm["hostname"] == "shop.internal"
    assert vm["scheduling"] == {"onHostMaintenance": "TERMINATE"} and vm["metadata"]["items"][0]["key"] == "role"
    assert vm["shieldedInstanceConfig"] == {
        "enableSecureBoot": True, "enableVtpm": True, "enableIntegrityMonitoring": True
    }  # fmt: skip
    assert vm["labels"]["team"] == "blue" and vm["instanceEncryptionKey"] == {"kmsKeyName": KEY}
    assert client.row().steps[-1].progress["boot"]["verdict"] == "BOOTED"


def test_without_an_image_the_new_vm_boots_from_the_sources_first_disk(served):
    client = served()
    client.vm(vm_target_defaults=v1.DisksMigrationVmTargetDefaults(vm_name="shop", machine_type="e2-medium"))
    client.clone()
    assert client.run().state == SUCCEEDED
    [disks] = [body_of(client, "instances.insert", "shop")["disks"]]
    names = [row.name for row in client.row().ledger if row.kind == ResourceKind.DISK]
    assert [disk["source"].rpartition("/")[2] for disk in disks] == names and disks[0]["boot"]
    assert "shieldedInstanceConfig" not in body_of(client, "instances.insert", "shop")


@pytest.mark.parametrize("delivered", [0, 1, 2, 4])
def test_a_job_that_is_cancelled_leaves_nothing_and_shows_nothing(served, delivered):
    client = served(durations={"disks.insert": 20.0, "instances.insert": 200.0, "disks.delete": 5.0})
    attached(client)
    client.clone()
    for _ in range(delivered):
        client.world.deliver()
        client.world.clock.advance(12)
    client.world.services.clone_jobs.cancel(f"{VM}/cloneJobs/c-1")
    job = client.run()
    assert job.state == CANCELLED and client.world.stand_in.everything() == []
    details = job.compute_engine_disks_target_details
    assert not details.disks and "vm_target_details" in details and not details.vm_target_details.vm_uri


def test_a_job_of_disks_alone_that_fails_leaves_nothing(served):
    client = served(quotas={"disks": 1})
    client.vm(disks_target_defaults=ALONE)
    client.clone()
    job = client.run()
    assert job.state == FAILED and "Quota" in job.error.message
    assert client.world.stand_in.everything() == [] and not job.compute_engine_disks_target_details.disks


def test_a_disk_of_a_user_under_the_chosen_name_is_told_by_the_plan_and_stays(served):
    client = served()
    client.vm(disks_target_defaults=ALONE, disks=[v1.PersistentDiskDefaults(source_disk_number=0, disk_name="data")])
    theirs = client.world.stand_in.foreign(ResourceRef(ResourceKind.DISK, "data"))
    [blocker] = client.world.services.plans.plan(VM).blockers
    assert (blocker.reason, blocker.subject) == ("DISK_NAME_TAKEN", "data")
    client.clone()
    job = client.run()
    assert job.state == FAILED and "was not made by this job" in job.error.message
    assert [seen.uid for seen in client.world.stand_in.everything()] == [theirs.uid]


def test_the_target_project_of_a_disks_target_is_held(served):
    client = served()
    client.vm(disks_target_defaults=ALONE)
    with pytest.raises(FailedPrecondition) as error:
        client.api.delete_target_project(name=f"{PARENT}/targetProjects/ce").result()
    assert error.value.reason == "TARGET_PROJECT_IN_USE"


def test_lists_filter_by_what_a_job_shows(served):
    client = served()
    client.vm(disks_target_defaults=ALONE)
    client.clone()
    client.run()
    for expression, count in (
        ("compute_engine_disks_target_details:*", 1), ("compute_engine_target_details:*", 0),
        ("compute_engine_target_details = null", 1), ("compute_engine_disks_target_details = null", 0),
    ):  # fmt: skip
        request = v1.ListCloneJobsRequest(parent=VM, filter=expression)
        assert len(list(client.api.list_clone_jobs(request=request))) == count, expression
    request = v1.ListMigratingVmsRequest(
        parent=SOURCE, filter="compute_engine_disks_target_defaults:disks_target_defaults"
    )
    assert [vm.name for vm in client.api.list_migrating_vms(request=request)] == [VM]


def test_a_plan_and_its_explanation_speak_of_disks(served):
    client = served()
    client.vm(disks_target_defaults=ALONE)
    plan = client.world.services.plans.plan(VM)
    assert plan.blockers == () and [step.kind for step in plan.steps] == ["preparing_vm_disks"]
    assert [(each.kind, each.role) for each in plan.resources] == [("disk", "product")] * 2
    assert plan.steps[0].reason == "2 disks of cycle 1"
    client.clone()
    client.run()
    found = client.world.services.explain.explain(f"{VM}/cloneJobs/c-1")
    assert [each.kind for each in found.kept] == ["disk", "disk"] and "disks" in found.next_steps[0]
