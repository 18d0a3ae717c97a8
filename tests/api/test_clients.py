"""The official client over gRPC and REST against a real server: the same scenario, the same answers."""

from __future__ import annotations

import asyncio
import uuid

import grpc
import pytest
from google.api_core import exceptions
from google.cloud import vmmigration_v1 as v1
from google.cloud.vmmigration_v1.services.vm_migration import transports
from google.longrunning import operations_pb2
from google.protobuf import duration_pb2, field_mask_pb2

from models.schema import CloneJob
from models.states import JobState

LOCATION = "projects/p/locations/l"
SOURCE = f"{LOCATION}/sources/src"


def test_set_up_clone_and_cancel(client, server):
    source = client.create_source(
        parent=LOCATION,
        source_id="src",
        source=v1.Source(name="ignored", description="d", vmware=v1.VmwareSourceDetails(username="u", password="pw")),
    ).result(timeout=10)
    assert (source.name, source.description, source.vmware.username) == (SOURCE, "d", "u")
    assert source.vmware.password == ""
    assert "password" not in server.fake.sources.get(SOURCE).body["vmware"]
    assert [s.name for s in client.list_sources(parent=LOCATION)] == [SOURCE]

    project = client.create_target_project(
        parent="projects/p/locations/global", target_project_id="t", target_project=v1.TargetProject(project="local")
    ).result(timeout=10)
    assert project.project == "local"
    assert client.get_target_project(name=project.name) == project
    assert list(client.list_target_projects(parent="projects/p/locations/global")) == [project]

    defaults = v1.ComputeEngineTargetDefaults(
        vm_name="web", target_project=project.name, disk_type=v1.ComputeEngineDiskType.COMPUTE_ENGINE_DISK_TYPE_SSD
    )
    vm = client.create_migrating_vm(
        parent=SOURCE,
        migrating_vm_id="vm",
        migrating_vm=v1.MigratingVm(
            compute_engine_target_defaults=defaults, labels={"a": "b"}, state=v1.MigratingVm.State.ERROR
        ),
    ).result(timeout=10)
    assert vm.state == v1.MigratingVm.State.READY
    assert vm.compute_engine_target_defaults == defaults

    operation = client.create_clone_job(
        parent=vm.name, clone_job_id="job", clone_job=v1.CloneJob(state=v1.CloneJob.State.FAILED)
    )
    assert operation.metadata.target == f"{vm.name}/cloneJobs/job"
    assert (operation.metadata.verb, operation.metadata.api_version) == ("create", "v1")
    job = operation.result(timeout=10)
    assert job == client.get_clone_job(name=job.name)
    assert job.state == v1.CloneJob.State.ACTIVE
    assert job.create_time.rfc3339() == "2026-11-23T12:00:00.123456Z"
    assert job.compute_engine_target_details.vm_name == "web"
    assert [type(step).pb(step).WhichOneof("step") for step in job.steps] == ["adapting_os", "preparing_vm_disks"]
    assert "end_time" in job.steps[0] and "end_time" not in job.steps[1] and "end_time" not in job

    cancelled = client.cancel_clone_job(name=job.name).result(timeout=10)
    assert isinstance(cancelled, v1.CancelCloneJobResponse)
    assert client.get_clone_job(name=job.name).state == v1.CloneJob.State.CANCELLED


def test_views_and_cycles(client, server, vm):
    cycle = server.fake.cycles.begin(vm, None)
    server.fake.cycles.put_disk(cycle.name, 0, "raw", iter([b"x" * 10]))
    server.fake.cycles.finish(cycle.name)
    client.create_clone_job(parent=vm, clone_job_id="job", clone_job={})
    basic, full = (client.get_migrating_vm(request={"name": vm, "view": view}) for view in (1, 2))
    assert (len(basic.recent_clone_jobs), len(full.recent_clone_jobs)) == (0, 1)
    assert basic.last_replication_cycle.name == cycle.name
    assert basic.last_sync.last_sync_time.rfc3339() == "2026-11-23T12:00:00.123456Z"
    read = client.get_replication_cycle(name=cycle.name)
    assert (read.state, read.progress_percent) == (v1.ReplicationCycle.State.SUCCEEDED, 100)
    assert read.steps[0].replicating.total_bytes == read.steps[0].replicating.replicated_bytes == 10
    assert list(client.list_replication_cycles(parent=vm)) == [read]
    listed = client.list_migrating_vms(request={"parent": SOURCE, "view": 2})
    assert [len(one.recent_clone_jobs) for one in listed] == [1]


def test_lists_are_paged(client, server, vm):
    for number in range(5):
        client.create_clone_job(parent=vm, clone_job_id=f"job-{number}", clone_job={})
        client.cancel_clone_job(name=f"{vm}/cloneJobs/job-{number}")
    pager = client.list_clone_jobs(request={"parent": vm, "page_size": 2})
    assert [len(page.clone_jobs) for page in pager.pages] == [2, 2, 1]
    for bad in ({"page_size": -1}, {"filter": "refused"}, {"order_by": "refused"}):
        with pytest.raises(exceptions.InvalidArgument if _is_grpc(client) else exceptions.BadRequest) as caught:
            client.list_clone_jobs(request={"parent": vm, **bad})
        assert _violations(caught.value) == [next(iter(bad))]


def test_update_by_mask(client, server, vm):
    def update(paths, **fields):
        return client.update_migrating_vm(
            migrating_vm=v1.MigratingVm(name=vm, **fields), update_mask=field_mask_pb2.FieldMask(paths=paths)
        ).result(timeout=10)

    byol = v1.ComputeEngineTargetDefaults(license_type=2, zone="z")
    path = "compute_engine_target_defaults.license_type"
    updated = update([path, "state"], compute_engine_target_defaults=byol, display_name="not in the mask", state=4)
    assert updated.compute_engine_target_defaults == v1.ComputeEngineTargetDefaults(license_type=2)
    assert (updated.display_name, updated.state) == ("", v1.MigratingVm.State.READY)
    assert update(["labels.env"], labels={"env": "test", "other": "x"}).labels == {"env": "test"}
    everything = update([], display_name="x")  # an empty mask is the whole resource
    assert everything.display_name == "x" and "compute_engine_target_defaults" not in everything
    assert update(["*"], labels={"a": "b"}).display_name == ""
    for bad in (["nonsense"], ["labels.a.b"], ["state"], ["*", "labels"]):
        with pytest.raises(exceptions.BadRequest) as caught:
            update(bad)
        assert _violations(caught.value) == ["update_mask"]


def test_request_ids(client, vm):
    once = {"parent": vm, "clone_job_id": "job", "clone_job": {}, "request_id": str(uuid.uuid4())}
    first, again = client.create_clone_job(request=once), client.create_clone_job(request=once)
    assert first.operation.name == again.operation.name
    # A CloneJob has no field that a user can set, so this is the same request.
    assert client.create_clone_job(request={**once, "clone_job": {"name": "x"}}).operation.name == first.operation.name
    cases = {
        "REQUEST_ID_REUSED": {**once, "clone_job_id": "other"},
        "INVALID_REQUEST_ID": {**once, "request_id": "00000000-0000-0000-0000-000000000000"},
    }
    for reason, request in cases.items():
        with pytest.raises(exceptions.BadRequest) as caught:
            client.create_clone_job(request=request)
        assert caught.value.reason == reason


def test_operations(client, server, vm):
    operation = client.create_clone_job(parent=vm, clone_job_id="job", clone_job={}).operation
    get = operations_pb2.GetOperationRequest(name=operation.name)
    assert client.get_operation(get) == operation
    listed = client.list_operations(operations_pb2.ListOperationsRequest(name=LOCATION))
    assert operation.name in [one.name for one in listed.operations]
    client.cancel_operation(operations_pb2.CancelOperationRequest(name=operation.name))
    metadata = v1.OperationMetadata.pb()()
    client.get_operation(get).metadata.Unpack(metadata)
    assert metadata.requested_cancellation
    client.delete_operation(operations_pb2.DeleteOperationRequest(name=operation.name))
    with pytest.raises(exceptions.NotFound):
        client.get_operation(get)


def test_a_failed_operation_and_a_vanished_resource(client, server, vm):
    operation = client.create_clone_job(parent=vm, clone_job_id="job", clone_job={}).operation
    name = operation.name
    row = server.fake.operations.get(name)[0]
    row.error = {"code": "CANCELLED", "reason": "JOB_CANCELLED", "message": "was cancelled"}
    failed = client.get_operation(operations_pb2.GetOperationRequest(name=name))
    assert (failed.done, failed.error.code, failed.error.message) == (True, 1, "was cancelled")
    row.error = None
    server.fake.table(CloneJob).clear()
    gone = client.get_operation(operations_pb2.GetOperationRequest(name=name))
    job = v1.CloneJob.pb()()
    assert gone.response.Unpack(job) and job.name == f"{vm}/cloneJobs/job"


def test_a_failed_job_carries_migration_error(client, server, vm):
    client.create_clone_job(parent=vm, clone_job_id="job", clone_job={})
    row = server.fake.clone_jobs.get(f"{vm}/cloneJobs/job")
    row.error = {"code": "OS_ADAPTATION_ERROR", "message": "no kernel", "action": "install one"}
    error = client.get_clone_job(name=row.name).error
    detail = v1.MigrationError.pb()()
    assert error.details[0].Unpack(detail)
    assert (detail.code, detail.error_message.message, detail.action_item.message) == (5, "no kernel", "install one")
    row.error = {"code": "SOMETHING_NEW", "message": "m"}
    assert client.get_clone_job(name=row.name).error.details[0].Unpack(detail)
    assert detail.code == v1.MigrationError.ErrorCode.UNKNOWN_ERROR


def test_errors_carry_their_details(client, server, vm):
    job = {"parent": vm, "clone_job_id": "job", "clone_job": {}}
    client.create_clone_job(**job)
    with pytest.raises(exceptions.Conflict) as conflict:
        client.create_clone_job(**job)
    assert (conflict.value.reason, conflict.value.domain) == ("CLONE_JOB_RUNNING", "clonejob")
    assert "RetryInfo" in _kinds(conflict.value)
    server.fake.clone_jobs.get(f"{vm}/cloneJobs/job").end_time = "ended"
    with pytest.raises(exceptions.Conflict) as exists:
        client.create_clone_job(**job)
    assert exists.value.reason == "RESOURCE_ALREADY_EXISTS"
    with pytest.raises(exceptions.NotFound) as missing:
        client.get_clone_job(name=f"{vm}/cloneJobs/none")
    assert missing.value.metadata == {"resource": f"{vm}/cloneJobs/none"}
    assert "ResourceInfo" in _kinds(missing.value)
    server.fake.clone_jobs.get(f"{vm}/cloneJobs/job").state = JobState.SUCCEEDED
    with pytest.raises(exceptions.BadRequest) as precondition:
        client.cancel_clone_job(name=f"{vm}/cloneJobs/job")
    assert precondition.value.reason == "CLONE_JOB_NOT_CANCELLABLE"
    assert "PreconditionFailure" in _kinds(precondition.value)


@pytest.mark.parametrize("bad", ["Job", "1job", "job-", "a" * 64, "a.b", "..", "é", "a_b", "a b"])
def test_illegal_ids(client, vm, bad):
    with pytest.raises(exceptions.BadRequest) as caught:
        client.create_clone_job(parent=vm, clone_job_id=bad, clone_job={})
    assert (caught.value.reason, _violations(caught.value)) == ("INVALID_RESOURCE_ID", ["clone_job_id"])


@pytest.mark.parametrize("bad", ["a..b", "A", "a" * 5000, "é"])
def test_illegal_names(client, vm, bad):
    with pytest.raises(exceptions.BadRequest) as caught:
        client.get_migrating_vm(name=f"{SOURCE}/migratingVms/{bad}")
    assert (caught.value.reason, _violations(caught.value)) == ("INVALID_RESOURCE_NAME", ["name"])
    assert len(caught.value.message.partition(": name")[2]) < 400


def test_not_covered(client):
    with pytest.raises((exceptions.MethodNotImplemented, exceptions.ServerError)) as caught:
        client.create_cutover_job(parent=f"{SOURCE}/migratingVms/vm", cutover_job_id="x", cutover_job={})
    assert caught.value.code == 501
    assert caught.value.reason == "NOT_COVERED"
    assert "CreateCutoverJob is not covered" in caught.value.message and "CreateCloneJob" in caught.value.message


def test_the_unforeseen_shows_no_detail(client, server, vm, caplog):
    server.fake.boom = ZeroDivisionError("secret")
    with pytest.raises(exceptions.InternalServerError) as caught:
        client.get_clone_job(name=f"{vm}/cloneJobs/job")
    assert "secret" not in str(caught.value) and "Traceback" not in str(caught.value)
    assert caught.value.metadata["request_id"] in caplog.text
    assert "ZeroDivisionError: secret" in caplog.text


def test_database_trouble_is_unavailable(client, server, vm):
    import sqlalchemy.exc

    server.fake.boom = sqlalchemy.exc.OperationalError("SELECT secret", {}, Exception("gone"))
    with pytest.raises(exceptions.ServiceUnavailable) as caught:
        client.get_clone_job(name=f"{vm}/cloneJobs/job")
    assert caught.value.reason == "DATABASE_UNAVAILABLE" and "secret" not in str(caught.value)


def test_grpc_refuses_what_is_no_message(server, vm):
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        get = channel.unary_unary("/google.cloud.vmmigration.v1.VmMigration/GetCloneJob")
        for raw in (b"\xff\xff", b"\x0a\x02\xff\xff", b"\x0a\x80\x80\x80\x01" + b"a" * (1 << 21)):
            with pytest.raises(grpc.RpcError) as caught:
                get(raw, timeout=5)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        for path in ("/google.longrunning.Operations/Nope", "/google.cloud.location.Locations/Nope", "/a.B/C"):
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(path)(b"", timeout=5)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_wait_over_grpc(server, vm):
    from tasks.services import Request

    row = server.fake.operation("create", "CreateCloneJob", f"{vm}/cloneJobs/job", Request(), done=False)
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        wait = channel.unary_unary(
            "/google.longrunning.Operations/WaitOperation",
            operations_pb2.WaitOperationRequest.SerializeToString,
            operations_pb2.Operation.FromString,
        )
        request = operations_pb2.WaitOperationRequest(name=row.name, timeout=duration_pb2.Duration(nanos=200_000_000))
        assert not wait(request, timeout=5).done
        request = operations_pb2.WaitOperationRequest(name=row.name, timeout=duration_pb2.Duration(seconds=1 << 60))
        future = wait.future(request, timeout=10)
        row.end_time = row.create_time
        assert future.result().done


def test_asyncio_client(server, vm):
    async def scenario():
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            client = v1.VmMigrationAsyncClient(transport=transports.VmMigrationGrpcAsyncIOTransport(channel=channel))
            operation = await client.create_clone_job(parent=vm, clone_job_id="job", clone_job={})
            job = await operation.result(timeout=5)
            with pytest.raises(exceptions.NotFound) as caught:
                await client.get_clone_job(name=f"{vm}/cloneJobs/none")
            return job, caught.value.reason

    job, reason = asyncio.run(scenario())
    assert (job.name, reason) == (f"{vm}/cloneJobs/job", "RESOURCE_NOT_FOUND")


def _is_grpc(client):
    return client.transport.kind == "grpc"


def _kinds(error):
    """The kinds of details; the REST client leaves them as JSON."""
    return {d["@type"].split(".")[-1] if isinstance(d, dict) else type(d).__name__ for d in error.details}


def _violations(error):
    fields = []
    for detail in error.details:
        if isinstance(detail, dict):
            fields += [violation["field"] for violation in detail.get("fieldViolations", [])]
        elif hasattr(detail, "field_violations"):
            fields += [violation.field for violation in detail.field_violations]
    return fields
