"""One list of scenarios and expectations for all clients that we did not write. Each answer is parsed strictly into the
contract's message, so that an unknown field, a wrong type or a wrong enum fails in whichever client shows it."""

from __future__ import annotations

import time
import uuid

import pytest
from google.cloud import vmmigration_v1 as v1
from google.rpc import error_details_pb2

from api.errors import HTTP_STATUS

CloneJob, Metadata, MigrationError = v1.CloneJob.pb(), v1.OperationMetadata.pb(), v1.MigrationError.pb()
STATES = v1.CloneJob.State
STEPS = ["adapting_os", "preparing_vm_disks", "instantiating_migrated_vm"]


def test_set_up_and_clone(client, stage, project):
    location = f"projects/{project}/locations/global"
    source = client.finish("CreateSource", parent=location, sourceId="own", source={"description": "d"})
    assert (source.name, source.description) == (f"{location}/sources/own", "d")
    target = client.finish("CreateTargetProject", parent=location, targetProjectId="own",
                           targetProject={"project": "simulated"})  # fmt: skip
    defaults = {"targetProject": target.name, "vmName": f"copy-{project}", "diskType": "COMPUTE_ENGINE_DISK_TYPE_SSD"}
    body = {"computeEngineTargetDefaults": defaults, "labels": {"a": "b"}}
    vm = client.finish("CreateMigratingVm", parent=source.name, migratingVmId="web", migratingVm=body)
    assert (vm.state, dict(vm.labels)) == (v1.MigratingVm.State.READY, {"a": "b"})
    mask = {"updateMask": "labels", "migratingVm": {"name": vm.name, "labels": {"c": "d"}, "displayName": "no"}}
    vm = client.finish("UpdateMigratingVm", **mask)
    assert (dict(vm.labels), vm.display_name) == ({"c": "d"}, "")
    assert client.pages("ListMigratingVms", parent=source.name) == [[vm]]

    _fails(client.error("CreateCloneJob", parent=vm.name, cloneJobId="early", cloneJob={}),
           "FAILED_PRECONDITION", "NO_SUCCESSFUL_CYCLE", "PreconditionFailure")  # fmt: skip
    stage.world.upload(vm.name)
    job = client.finish("CreateCloneJob", parent=vm.name, cloneJobId="job", cloneJob={})
    assert job.name == f"{vm.name}/cloneJobs/job" and job.HasField("create_time")
    job = _ended(client, job.name)
    assert job.state == STATES.SUCCEEDED and job.HasField("end_time") and not job.HasField("error")
    assert [step.WhichOneof("step") for step in job.steps] == STEPS
    assert all(step.HasField("start_time") and step.HasField("end_time") for step in job.steps)
    assert job.compute_engine_target_details.vm_name.startswith(f"copy-{project}")
    assert job.compute_engine_target_details.disk_type == v1.ComputeEngineDiskType.COMPUTE_ENGINE_DISK_TYPE_SSD
    assert list(client.call("GetMigratingVm", name=vm.name).recent_clone_jobs) == []
    full = client.call("GetMigratingVm", name=vm.name, view="MIGRATING_VM_VIEW_FULL")
    assert list(full.recent_clone_jobs) == [job]


def test_a_request_id_is_good_once(client, vm):
    once = {"parent": vm, "cloneJobId": "job", "cloneJob": {}, "requestId": str(uuid.uuid4())}
    first, again = client.call("CreateCloneJob", **once), client.call("CreateCloneJob", **once)
    assert first.name == again.name
    metadata = _metadata(first)
    assert (metadata.target, metadata.verb, metadata.api_version) == (f"{vm}/cloneJobs/job", "create", "v1")
    assert client.finish("CreateCloneJob", **once).name == f"{vm}/cloneJobs/job"
    assert [len(page) for page in client.pages("ListCloneJobs", parent=vm)] == [1]
    _fails(client.error("CreateCloneJob", **{**once, "cloneJobId": "other"}),
           "INVALID_ARGUMENT", "REQUEST_ID_REUSED", "BadRequest")  # fmt: skip
    _fails(client.error("CreateCloneJob", **{**once, "requestId": str(uuid.UUID(int=0))}),
           "INVALID_ARGUMENT", "INVALID_REQUEST_ID", "BadRequest")  # fmt: skip


def test_list(client, vm):
    for job_id in ("b", "a", "c"):
        _ended(client, client.finish("CreateCloneJob", parent=vm, cloneJobId=job_id, cloneJob={}).name)

    def listed(**how):
        pages = client.pages("ListCloneJobs", parent=vm, **how)
        return [[job.name.rpartition("/")[2] for job in page] for page in pages]

    assert listed() == [["c", "a", "b"]]
    assert listed(pageSize=2, orderBy="name") == [["a", "b"], ["c"]]
    assert listed(pageSize=1, orderBy="name desc") == [["c"], ["b"], ["a"]]
    assert listed(filter="state=SUCCEEDED", orderBy="create_time") == [["b", "a", "c"]]
    assert listed(filter=f'name="{vm}/cloneJobs/a" OR name="{vm}/cloneJobs/c"', orderBy="name") == [["a", "c"]]
    assert listed(filter="NOT state:SUCCEEDED") == [[]]
    assert listed(filter='create_time > "2100-01-01T00:00:00Z"') == [[]]
    for wrong, reason in (({"filter": "nonsense >"}, "INVALID_FILTER"), ({"orderBy": "steps"}, "INVALID_ORDER_BY"),
                          ({"pageSize": -1}, "INVALID_FIELD"), ({"pageToken": "x"}, "PAGE_TOKEN_INVALID")):  # fmt: skip
        _fails(client.error("ListCloneJobs", parent=vm, **wrong), "INVALID_ARGUMENT", reason, "BadRequest")


def test_cancel(client, stage, vm):
    name = client.finish("CreateCloneJob", parent=vm, cloneJobId="held", cloneJob={}).name
    aborted = client.error("CreateCloneJob", parent=vm, cloneJobId="second", cloneJob={})
    _fails(aborted, "ABORTED", "CLONE_JOB_RUNNING", "RetryInfo")
    assert name in aborted.message
    job = _polled(client, name, lambda job: len(job.steps) == 2 and job.steps[1].HasField("end_time"))
    assert job.state == STATES.ACTIVE and not job.HasField("end_time")
    assert [len(page) for page in client.pages("ListCloneJobs", parent=vm, filter="state!=SUCCEEDED")] == [1]
    client.finish("CancelCloneJob", name=name)
    job = client.call("GetCloneJob", name=name)
    assert job.state == STATES.CANCELLED and job.HasField("end_time")
    client.finish("CancelCloneJob", name=name)  # again, without harm
    job_id = stage.world.services.clone_jobs.get(name).id
    assert not [each for each in stage.world.target.inventory() if each.job_id == job_id]


def test_ended_jobs(client, vm):
    name = client.finish("CreateCloneJob", parent=vm, cloneJobId="job", cloneJob={}).name
    _ended(client, name)
    _fails(client.error("CancelCloneJob", name=name),
           "FAILED_PRECONDITION", "CLONE_JOB_NOT_CANCELLABLE", "PreconditionFailure")  # fmt: skip
    exists = client.error("CreateCloneJob", parent=vm, cloneJobId="job", cloneJob={})
    _fails(exists, "ALREADY_EXISTS", "RESOURCE_ALREADY_EXISTS", "ResourceInfo")


def test_a_failed_job_says_why(client, stage, project):
    vm = stage.vm(project, f"broken-{project}")
    job = _ended(client, client.finish("CreateCloneJob", parent=vm, cloneJobId="job", cloneJob={}).name)
    assert (job.state, job.error.code) == (STATES.FAILED, 2)
    detail, info = MigrationError(), error_details_pb2.ErrorInfo()
    assert job.error.details[0].Unpack(detail) and job.error.details[1].Unpack(info)
    assert (detail.code, info.reason) == (MigrationError.ErrorCode.CLONE_ERROR, "CLONE_ERROR")
    assert job.error.message == detail.error_message.message and detail.help_links[0].url
    assert client.pages("ListCloneJobs", parent=vm, filter="state=FAILED") == [[job]]


def test_errors(client, vm):
    for method, request in (("GetCloneJob", {"name": f"{vm}/cloneJobs/none"}),
                            ("CancelCloneJob", {"name": f"{vm}/cloneJobs/none"}),
                            ("CreateCloneJob", {"parent": f"{vm}-2", "cloneJobId": "a", "cloneJob": {}}),
                            ("ListCloneJobs", {"parent": f"{vm}-2"})):  # fmt: skip
        error = client.error(method, **request)
        _fails(error, "NOT_FOUND", "RESOURCE_NOT_FOUND", "ResourceInfo")
        assert "not" in error.message and vm in error.message
    for bad in ("Upper", "1st", "a" * 64, "a_b", "é"):
        error = client.error("CreateCloneJob", parent=vm, cloneJobId=bad, cloneJob={})
        _fails(error, "INVALID_ARGUMENT", "INVALID_RESOURCE_ID", "BadRequest")
    error = client.error("CreateCutoverJob", parent=vm, cutoverJobId="job", cutoverJob={})
    _fails(error, "UNIMPLEMENTED", "NOT_COVERED")
    assert "CreateCutoverJob" in error.message and "CreateCloneJob" in error.message


def test_operations(client, vm):
    operation = client.call("CreateCloneJob", parent=vm, cloneJobId="job", cloneJob={})
    job = _ended(client, _metadata(operation).target)
    found = client.call("GetOperation", name=operation.name)
    assert found.done and _metadata(found) == _metadata(operation)
    response = CloneJob()
    assert found.response.Unpack(response) and response == job
    location = operation.name.partition("/operations/")[0]
    listed = client.pages("ListOperations", name=location, filter="done=true", pageSize=1000)
    assert found in [each for page in listed for each in page]
    assert not client.pages("ListOperations", name=location, filter="done=false")[0]
    client.call("CancelOperation", name=operation.name)  # best effort: it is done
    assert client.call("GetOperation", name=operation.name) == found
    client.call("DeleteOperation", name=operation.name)
    for method in ("GetOperation", "DeleteOperation", "CancelOperation"):
        _fails(client.error(method, name=operation.name), "NOT_FOUND", "RESOURCE_NOT_FOUND", "ResourceInfo")


def test_locations(client, vm):
    name = vm.partition("/sources/")[0]
    found = client.call("GetLocation", name=name)
    assert (found.name, found.location_id) == (name, "global")
    [listed] = client.pages("ListLocations", name=name.partition("/locations/")[0])
    assert listed == [found]


def test_a_create_operation_that_ends_with_its_job(client, stage, vm):
    finished = client.at("finished")
    job = finished.finish("CreateCloneJob", parent=vm, cloneJobId="job", cloneJob={})
    assert (job.name, job.state) == (f"{vm}/cloneJobs/job", STATES.SUCCEEDED) and job.HasField("end_time")
    held = finished.call("CreateCloneJob", parent=vm, cloneJobId="held", cloneJob={})
    assert not held.done and _metadata(held).target == f"{vm}/cloneJobs/held"
    finished.call("CancelOperation", name=held.name)
    cancelled = _until(lambda: finished.call("GetOperation", name=held.name), lambda operation: operation.done)
    assert cancelled.error.code == 1 and _metadata(cancelled).requested_cancellation  # CANCELLED
    job = client.call("GetCloneJob", name=f"{vm}/cloneJobs/held")
    assert job.state == STATES.CANCELLED and job.HasField("end_time")


def test_bearer_tokens(client, stage, project, vm):
    create = {"parent": vm, "cloneJobId": "job", "cloneJob": {}}
    viewer = client.at("guarded", token=stage.token(project, "viewer"))
    assert viewer.call("GetMigratingVm", name=vm).name == vm
    denied = viewer.error("CreateCloneJob", **create)
    _fails(denied, "PERMISSION_DENIED", "PERMISSION_DENIED")
    assert "vmmigration.cloneJobs.create" in denied.message
    elsewhere = client.at("guarded", token=stage.token(f"{project}-2", "admin"))
    for method, request in (("GetMigratingVm", {"name": vm}), ("GetMigratingVm", {"name": f"{vm}-2"})):
        _fails(elsewhere.error(method, **request), "PERMISSION_DENIED", "PERMISSION_DENIED")
    assert [len(page) for page in viewer.pages("ListCloneJobs", parent=vm)] == [0]
    cloner = client.at("guarded", token=stage.token(project, "cloner"))
    operation = cloner.call("CreateCloneJob", **create)
    assert operation.done and _metadata(operation).target == f"{vm}/cloneJobs/job"
    assert _ended(cloner, f"{vm}/cloneJobs/job").state == STATES.SUCCEEDED
    if not client.name.startswith(
        "python-rest"
    ):  # on 401 it refreshes its credentials, and anonymous ones have nothing to
        _fails(client.at("guarded").error("GetMigratingVm", name=vm), "UNAUTHENTICATED", "CREDENTIALS_MISSING")


def test_tls(client, stage, project, vm):
    """The Python clients of ``-tls`` run every scenario so; all others have one conversation."""
    secure = client.at(tls=True)
    job = secure.finish("CreateCloneJob", parent=vm, cloneJobId="job", cloneJob={})
    assert _ended(secure, job.name).state == STATES.SUCCEEDED
    assert [len(page) for page in secure.pages("ListCloneJobs", parent=vm)] == [1]
    _fails(secure.error("GetCloneJob", name=f"{vm}/cloneJobs/none"), "NOT_FOUND", "RESOURCE_NOT_FOUND", "ResourceInfo")
    guarded = client.at("guarded", tls=True, token=stage.token(project, "viewer"))
    assert guarded.call("GetMigratingVm", name=vm).name == vm
    _fails(guarded.error("CancelCloneJob", name=job.name), "PERMISSION_DENIED", "PERMISSION_DENIED")


def _ended(client, name):
    return _polled(client, name, lambda job: job.HasField("end_time"))


def _polled(client, name, enough):
    return _until(lambda: client.call("GetCloneJob", name=name), enough)


def _until(look, enough):
    until = time.monotonic() + 30
    while time.monotonic() < until:
        seen = look()
        if enough(seen):
            return seen
        time.sleep(0.02)
    pytest.fail(f"it does not get there: {seen}")


def _metadata(operation):
    metadata = Metadata()
    assert operation.metadata.Unpack(metadata)
    return metadata


def _fails(error, code, reason, *details):
    """Code, reason and all details. The official client over REST knows the HTTP status alone."""
    assert error.code == (None if error.client.startswith("python-rest") else code), error
    assert error.http in (HTTP_STATUS[code], None) and (error.http or error.code), error
    assert (error.reason, set(error.details)) == (reason, {"ErrorInfo", *details}), error
    assert len(set(error.details)) == len(error.details), error
