"""All 62 methods of the official client, over gRPC and REST: covered or refused by name, never anything else."""

import re

import grpc
import pytest
from google.api_core import exceptions
from google.cloud import vmmigration_v1 as v1
from google.cloud.location import locations_pb2
from google.cloud.vmmigration_v1.services.vm_migration.transports import rest_base

from api.methods import COVERED, METHODS, VM_MIGRATION
from api.uncovered import UNCOVERED

L = "projects/p/locations/l"
GLOBAL = "projects/p/locations/global"
VM = f"{L}/sources/src/migratingVms/vm"
COVERED_RPCS = {method.rpc: method for method in METHODS if method.service == VM_MIGRATION}
REFUSED = {each.rpc: each for each in UNCOVERED}


def official():
    """The methods of the client with the HTTP options that its REST transport has: (rpc, verb, path, body)."""
    for name, cls in vars(rest_base._BaseVmMigrationRestTransport).items():
        options = getattr(cls, "_get_http_options", None) if isinstance(cls, type) else None
        if options is not None and name.startswith("_Base"):
            for option in options():
                yield name.removeprefix("_Base"), option["method"].upper(), option["uri"], option.get("body", "")


OFFICIAL = {rpc: rest for rpc, *rest in official()}
MIXINS = {"GetLocation", "ListLocations", "GetOperation", "ListOperations", "CancelOperation", "DeleteOperation"}
RPCS = sorted(set(OFFICIAL) - MIXINS)


def snake(name):
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def test_there_are_62_and_each_is_covered_or_refused():
    assert len(RPCS) == 62
    assert set(RPCS) == COVERED_RPCS.keys() | REFUSED.keys() and not COVERED_RPCS.keys() & REFUSED.keys()


@pytest.mark.parametrize("rpc", sorted(OFFICIAL))
def test_paths_and_bodies_are_the_official_clients(rpc):
    verb, path, body = OFFICIAL[rpc]
    ours = REFUSED.get(rpc) or next(method for method in METHODS if method.rpc == rpc)
    assert (ours.verb, ours.path) == (verb, path)
    assert rpc in REFUSED or ours.body == body


def request_for(rpc):
    """The smallest request whose path can be built: every variable of the path is set."""
    path = OFFICIAL[rpc][1]
    request = getattr(v1, f"{rpc}Request").pb()()
    for field, pattern in re.findall(r"\{([^}=]+)=([^}]+)\}", path):
        value = "/".join("x" if part == "*" else part for part in pattern.split("/"))
        target = request
        *parents, last = field.split(".")
        for parent in parents:
            target = getattr(target, parent)
        setattr(target, last, value.replace("locations/x/targetProjects", "locations/global/targetProjects"))
    return request


@pytest.mark.parametrize("rpc", RPCS)
def test_every_method_over_both_transports(client, rpc):
    request = getattr(v1, f"{rpc}Request").wrap(request_for(rpc))
    try:
        getattr(client, snake(rpc))(request=request)
    except exceptions.GoogleAPICallError as error:
        if rpc in REFUSED:
            assert (error.code, error.reason, error.metadata["method"]) == (501, "NOT_COVERED", rpc)
            assert all(name in error.message for name in COVERED.split(", "))
        else:
            assert error.code in (400, 404), error  # nothing of that name, or an id is missing
    else:
        assert rpc in COVERED_RPCS and rpc.startswith("List")


def test_locations_over_grpc_and_rest(client, http, vm):
    listed = client.list_locations(locations_pb2.ListLocationsRequest(name="projects/p"))
    assert [each.location_id for each in listed.locations] == ["global", "l"]
    one = client.get_location(locations_pb2.GetLocationRequest(name=L))
    assert (one.name, one.location_id, one.display_name) == (L, "l", "l")
    with pytest.raises(exceptions.NotFound) as error:
        client.get_location(locations_pb2.GetLocationRequest(name="projects/p/locations/nowhere"))
    assert error.value.reason == "RESOURCE_NOT_FOUND"
    assert http.get("/v1/projects/p/locations?extraLocationTypes=x&pageSize=5").status_code == 200
    assert http.get("/v1/projects/p/locations?nonsense=x").status_code == 400


@pytest.mark.parametrize("verb", ["start", "pause", "resume", "finalize", "extend"])
def test_methods_that_change_a_vms_state(client, server, vm, verb):
    operation = getattr(client, f"{verb}_migration")(request={"migrating_vm": vm})
    assert isinstance(operation.result(timeout=10), getattr(v1, f"{verb.title()}MigrationResponse"))
    assert (operation.metadata.verb, operation.metadata.target) == (verb, vm)
    assert server.fake.calls == [(f"{verb.title()}Migration", vm)]


def test_updates_and_deletes(client, server, vm):
    source = v1.Source(name=f"{L}/sources/src", description="new", labels={"a": "b"})
    updated = client.update_source(source=source, update_mask={"paths": ["description"]}).result(timeout=10)
    assert (updated.description, updated.labels) == ("new", {})
    project = client.create_target_project(
        parent=GLOBAL, target_project_id="t", target_project={"project": "local"}).result(timeout=10)  # fmt: skip
    project.description = "d"
    updated = client.update_target_project(target_project=project, update_mask={"paths": ["description"]})
    assert updated.result(timeout=10).description == "d"
    for delete, name in (
        (client.delete_migrating_vm, vm), (client.delete_source, source.name), (client.delete_target_project, project.name)
    ):  # fmt: skip
        operation = delete(name=name)
        operation.result(timeout=10)
        assert operation.operation.response.type_url == "type.googleapis.com/google.protobuf.Empty"
        assert (operation.metadata.verb, operation.metadata.target) == ("delete", name)
        with pytest.raises(exceptions.NotFound):
            delete(name=name)


def test_expiration_and_replication_in_both_views(client, server, vm):
    failed = server.fake.cycles.begin(vm, None).name
    server.fake.cycles.abort(failed, "")
    running = server.fake.cycles.begin(vm, None).name
    for view in (0, 1, 2):
        read = client.get_migrating_vm(request={"name": vm, "view": view})
        assert read.expiration.expire_time.rfc3339().startswith("2027-03-03T12:00:00")
        assert (read.expiration.extension_count, read.expiration.extendable) == (0, False)
        assert (read.current_sync_info.name, read.last_replication_cycle.name) == (running, failed)
        assert "last_sync" not in read
        listed = next(iter(client.list_migrating_vms(request={"parent": f"{L}/sources/src", "view": view})))
        assert listed == read


def test_a_failed_jobs_help_link_leads_somewhere(client, server, http, vm):
    client.create_clone_job(parent=vm, clone_job_id="job", clone_job={})
    server.fake.clone_jobs.get(f"{vm}/cloneJobs/job").error = {"code": "CLONE_ERROR", "message": "m", "action": "a"}
    detail = v1.MigrationError.pb()()
    assert client.get_clone_job(name=f"{vm}/cloneJobs/job").error.details[0].Unpack(detail)
    assert (detail.error_message.locale, detail.action_item.locale) == ("en-US", "en-US")
    assert detail.HasField("error_time")
    path, _, reason = detail.help_links[0].url.partition("#")
    page = http.get(path)
    assert page.status_code == 200 and f'id="{reason}"' in page.text and "text/html" in page.headers["content-type"]
