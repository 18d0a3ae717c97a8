"""The one table of methods: per RPC its path, verb, body, messages, permission and handler.

Both front ends are built from it (paths and bodies are those of the public proto; a test compares them with
the official client's). The rest of the contract stands in ``uncovered.py`` and is answered by UNIMPLEMENTED.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from google.cloud import vmmigration_v1 as v1
from google.cloud.location import locations_pb2
from google.longrunning import operations_pb2 as lro
from google.protobuf import empty_pb2
from google.protobuf.message import Message

from api import names
from api.handlers import clone_jobs, locations, migrating_vms, operations, sources, target_projects
from models.states import VM_METHODS
from tasks.services import Services

VM_MIGRATION = "google.cloud.vmmigration.v1.VmMigration"
OPERATIONS = "google.longrunning.Operations"
LOCATIONS = "google.cloud.location.Locations"
Handler = Callable[[Services, Any], Message]


@dataclass(frozen=True)
class Method:
    """One RPC. ``verb`` and ``path`` are empty for one that has no HTTP rule; ``body`` is as in google.api.http.

    ``polled``: calls that wait at the same time are answered together (``api/polled.py``).
    """

    service: str
    rpc: str
    verb: str
    path: str
    body: str
    request: Any
    response: Any
    permission: str
    handler: Handler
    waits: bool = False  # repeat until the operation is done or the request's timeout is over
    ignored: frozenset[str] = frozenset()  # query parameters of the discovery document that the message lacks
    polled: bool = False

    @property
    def full_name(self) -> str:
        """The path of the method in gRPC."""
        return f"/{self.service}/{self.rpc}"


def _contract(rpc: str, http: str, body: str, response: Any, permission: str, handler: Handler) -> Method:
    verb, path = http.split(" ")
    request = getattr(v1, rpc + "Request").pb()
    permission = "vmmigration." + permission
    return Method(VM_MIGRATION, rpc, verb, path, body, request, response, permission, handler)


def _operations(rpc: str, http: str, body: str, messages: tuple[Any, Any], handler: Handler) -> Method:
    verb, _, path = http.partition(" ")
    request, response = messages
    permission = "vmmigration.operations." + rpc.removesuffix("Operations").removesuffix("Operation").lower()
    return Method(OPERATIONS, rpc, verb, path, body, request, response, permission, handler, rpc == "WaitOperation")


# Shapes of names in paths; target projects take any location here and are told about ``global`` by their handler.
_L, _S, _V = names.LOCATION, names.SOURCE, names.MIGRATING_VM
_C, _R = names.CLONE_JOB, names.REPLICATION_CYCLE
_T = names.LOCATION + "/targetProjects/*"
_O = names.OPERATION


def _vm_state(rpc: str) -> Method:
    """A method that changes a VM's state; the service's own documentation asks for migratingVms.update."""
    verb = rpc[0].lower() + rpc[1:]
    http, handler = f"POST /v1/{{migrating_vm={_V}}}:{verb}", migrating_vms.change_state(rpc)
    return _contract(rpc, http, "*", lro.Operation, "migratingVms.update", handler)


# Permissions are those of the service's audit logging documentation: CancelCloneJob is an update, target projects are
# ``targets``.
METHODS: tuple[Method, ...] = (
    _contract("CreateCloneJob", f"POST /v1/{{parent={_V}}}/cloneJobs", "clone_job", lro.Operation,
              "cloneJobs.create", clone_jobs.create),
    replace(_contract("GetCloneJob", f"GET /v1/{{name={_C}}}", "", v1.CloneJob.pb(), "cloneJobs.get", clone_jobs.get),
            polled=True),
    _contract("ListCloneJobs", f"GET /v1/{{parent={_V}}}/cloneJobs", "", v1.ListCloneJobsResponse.pb(),
              "cloneJobs.list", clone_jobs.list_),
    _contract("CancelCloneJob", f"POST /v1/{{name={_C}}}:cancel", "*", lro.Operation,
              "cloneJobs.update", clone_jobs.cancel),
    _contract("CreateSource", f"POST /v1/{{parent={_L}}}/sources", "source", lro.Operation,
              "sources.create", sources.create),
    _contract("GetSource", f"GET /v1/{{name={_S}}}", "", v1.Source.pb(), "sources.get", sources.get),
    _contract("ListSources", f"GET /v1/{{parent={_L}}}/sources", "", v1.ListSourcesResponse.pb(),
              "sources.list", sources.list_),
    _contract("UpdateSource", f"PATCH /v1/{{source.name={_S}}}", "source", lro.Operation,
              "sources.update", sources.update),
    _contract("DeleteSource", f"DELETE /v1/{{name={_S}}}", "", lro.Operation, "sources.delete", sources.delete),
    _contract("CreateMigratingVm", f"POST /v1/{{parent={_S}}}/migratingVms", "migrating_vm", lro.Operation,
              "migratingVms.create", migrating_vms.create),
    _contract("GetMigratingVm", f"GET /v1/{{name={_V}}}", "", v1.MigratingVm.pb(),
              "migratingVms.get", migrating_vms.get),
    _contract("ListMigratingVms", f"GET /v1/{{parent={_S}}}/migratingVms", "", v1.ListMigratingVmsResponse.pb(),
              "migratingVms.list", migrating_vms.list_),
    _contract("UpdateMigratingVm", f"PATCH /v1/{{migrating_vm.name={_V}}}", "migrating_vm", lro.Operation,
              "migratingVms.update", migrating_vms.update),
    _contract("DeleteMigratingVm", f"DELETE /v1/{{name={_V}}}", "", lro.Operation,
              "migratingVms.delete", migrating_vms.delete),
    *(_vm_state(rpc) for rpc in VM_METHODS),
    _contract("CreateTargetProject", f"POST /v1/{{parent={_L}}}/targetProjects", "target_project", lro.Operation,
              "targets.create", target_projects.create),
    _contract("GetTargetProject", f"GET /v1/{{name={_T}}}", "", v1.TargetProject.pb(),
              "targets.get", target_projects.get),
    _contract("ListTargetProjects", f"GET /v1/{{parent={_L}}}/targetProjects", "",
              v1.ListTargetProjectsResponse.pb(), "targets.list", target_projects.list_),
    _contract("UpdateTargetProject", f"PATCH /v1/{{target_project.name={_T}}}", "target_project", lro.Operation,
              "targets.update", target_projects.update),
    _contract("DeleteTargetProject", f"DELETE /v1/{{name={_T}}}", "", lro.Operation,
              "targets.delete", target_projects.delete),
    _contract("GetReplicationCycle", f"GET /v1/{{name={_R}}}", "", v1.ReplicationCycle.pb(),
              "replicationCycles.get", migrating_vms.get_cycle),
    _contract("ListReplicationCycles", f"GET /v1/{{parent={_V}}}/replicationCycles", "",
              v1.ListReplicationCyclesResponse.pb(), "replicationCycles.list", migrating_vms.list_cycles),
    _operations("GetOperation", f"GET /v1/{{name={_O}}}", "",
                (lro.GetOperationRequest, lro.Operation), operations.get),
    _operations("ListOperations", f"GET /v1/{{name={_L}}}/operations", "",
                (lro.ListOperationsRequest, lro.ListOperationsResponse), operations.list_),
    _operations("CancelOperation", f"POST /v1/{{name={_O}}}:cancel", "*",
                (lro.CancelOperationRequest, empty_pb2.Empty), operations.cancel),
    _operations("DeleteOperation", f"DELETE /v1/{{name={_O}}}", "",
                (lro.DeleteOperationRequest, empty_pb2.Empty), operations.delete),
    # No HTTP rule in the contract (seen on the wire of the official clients).
    _operations("WaitOperation", "", "", (lro.WaitOperationRequest, lro.Operation), operations.wait_once),
    Method(LOCATIONS, "GetLocation", "GET", f"/v1/{{name={_L}}}", "", locations_pb2.GetLocationRequest,
           locations_pb2.Location, "vmmigration.locations.get", locations.get),
    Method(LOCATIONS, "ListLocations", "GET", f"/v1/{{name={names.PROJECT}}}/locations", "",
           locations_pb2.ListLocationsRequest, locations_pb2.ListLocationsResponse, "vmmigration.locations.list",
           locations.list_, ignored=frozenset({"extraLocationTypes"})),
)  # fmt: skip
COVERED = ", ".join(method.rpc for method in METHODS)
