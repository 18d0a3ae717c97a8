"""The fields of each resource that filters and order_by can name, in the contract's names (facts: public proto).

What the contract has and this table has not is not answered by our rows: steps, lists of jobs, source details of VMs.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa

from models.filters.fields import Field, Fields, Kind, json_fields
from models.schema import Base, CloneJob, MigratingVm, Operation, ReplicationCycle, Source, TargetProject
from models.target_defaults import DISKS_TARGET

_T, _N, _B, _TIME, _MESSAGE, _MAP = Kind.TEXT, Kind.NUMBER, Kind.BOOL, Kind.TIME, Kind.MESSAGE, Kind.MAP
_TEXTS = {"kind": Kind.LIST}

_DISK_TYPE = ("COMPUTE_ENGINE_DISK_TYPE_UNSPECIFIED", "COMPUTE_ENGINE_DISK_TYPE_STANDARD",
              "COMPUTE_ENGINE_DISK_TYPE_SSD", "COMPUTE_ENGINE_DISK_TYPE_BALANCED",
              "COMPUTE_ENGINE_DISK_TYPE_HYPERDISK_BALANCED")  # fmt: skip
_LICENSE_TYPE = ("COMPUTE_ENGINE_LICENSE_TYPE_DEFAULT", "COMPUTE_ENGINE_LICENSE_TYPE_PAYG",
                 "COMPUTE_ENGINE_LICENSE_TYPE_BYOL")  # fmt: skip
_BOOT_OPTION = ("COMPUTE_ENGINE_BOOT_OPTION_UNSPECIFIED", "COMPUTE_ENGINE_BOOT_OPTION_EFI",
                "COMPUTE_ENGINE_BOOT_OPTION_BIOS")  # fmt: skip
_CYCLE_STATE = ("STATE_UNSPECIFIED", "RUNNING", "PAUSED", "FAILED", "SUCCEEDED")
_JOB_STATE = ("STATE_UNSPECIFIED", "PENDING", "ACTIVE", "FAILED", "SUCCEEDED", "CANCELLED", "CANCELLING",
              "ADAPTING_OS")  # fmt: skip
_VM_STATE = ("STATE_UNSPECIFIED", "PENDING", "READY", "FIRST_SYNC", "ACTIVE", "CUTTING_OVER", "CUTOVER", "FINAL_SYNC",
             "PAUSED", "FINALIZING", "FINALIZED", "ERROR", "EXPIRED", "FINALIZED_EXPIRED")  # fmt: skip

# google.rpc.Code, in order of its numbers: how an operation's error is kept is by name.
_CODES = ("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
          "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
          "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED")  # fmt: skip
_UNKNOWN = _CODES.index("UNKNOWN")

# ComputeEngineTargetDetails and ComputeEngineTargetDefaults differ in one field: project, target_project.
_TARGET: dict[str, Any] = {
    "vm_name": {"kind": _T, "searched": True},
    "zone": _T,
    "machine_type_series": _T,
    "machine_type": _T,
    "network_tags": _TEXTS,
    "network_interfaces": {"kind": Kind.LIST, "inner": ("network", "subnetwork", "internal_ip", "external_ip")},
    "service_account": _T,
    "disk_type": _DISK_TYPE,
    "labels": _MAP,
    "license_type": _LICENSE_TYPE,
    "applied_license": _MESSAGE,
    "applied_license.type": ("TYPE_UNSPECIFIED", "NONE", "PAYG", "BYOL"),
    "applied_license.os_license": _T,
    "compute_scheduling": _MESSAGE,
    "compute_scheduling.on_host_maintenance": ("ON_HOST_MAINTENANCE_UNSPECIFIED", "TERMINATE", "MIGRATE"),
    "compute_scheduling.restart_type": ("RESTART_TYPE_UNSPECIFIED", "AUTOMATIC_RESTART", "NO_AUTOMATIC_RESTART"),
    "compute_scheduling.min_node_cpus": _N,
    "secure_boot": _B,
    "enable_vtpm": _B,
    "enable_integrity_monitoring": _B,
    "boot_option": _BOOT_OPTION,
    "metadata": _MAP,
    "additional_licenses": _TEXTS,
    "hostname": _T,
    "encryption": _MESSAGE,
    "encryption.kms_key": _T,
    "boot_conversion": ("BOOT_CONVERSION_UNSPECIFIED", "NONE", "BIOS_TO_EFI"),
    "adaptation_modifiers": {"kind": Kind.LIST, "inner": ("modifier", "value")},
    "disk_replica_zones": _TEXTS,
    "storage_pool": _T,
}  # fmt: skip
_DEFAULTS, _DISKS = "compute_engine_target_defaults", "compute_engine_disks_target_defaults"
# One field of the two is set (oneof target_vm_details). As text: SQLite makes a JSON null of what is missing.
_WITHOUT_DISKS_TARGET = sa.case(
    (CloneJob.target_details[(DISKS_TARGET,)].as_string().is_(None), CloneJob.target_details)
)


def _column(kind: Kind, column: Any, **more: Any) -> Field:
    return Field(kind, column, **more)


def _id(cls: Any, collection: str) -> sa.ColumnElement[Any]:
    found: sa.ColumnElement[Any] = sa.func.substr(cls.name, sa.func.length(cls.parent) + len(f"/{collection}/") + 1)
    return found


def _error(column: Any, code: sa.ColumnElement[int], *, searched: bool) -> dict[str, Field]:
    return {
        "error": Field(_MESSAGE, column, optional=True),
        "error.code": Field(_N, code, optional=True),
        "error.message": Field(_T, column, keys=("message",), searched=searched, optional=True),
    }


def _clone_job() -> Fields:
    job = CloneJob
    return Fields("CloneJob", {
        "name": _column(_T, job.name),
        "state": _column(Kind.ENUM, job.state, names=_JOB_STATE),
        "create_time": _column(_TIME, job.create_time),
        "state_time": _column(_TIME, job.state_time),
        "end_time": _column(_TIME, job.end_time, optional=True),
        # Every failed job's error is UNKNOWN: the cause is in its MigrationError.
        **_error(job.error, sa.case((job.error.is_not(None), _UNKNOWN)), searched=True),
        "compute_engine_target_details": _column(_MESSAGE, _WITHOUT_DISKS_TARGET, optional=True),
        "compute_engine_disks_target_details": _column(_MESSAGE, job.target_details, keys=(DISKS_TARGET,)),
        **json_fields(job.target_details, "compute_engine_target_details.", {**_TARGET, "project": _T}),
    }, "create_time", _id(job, "cloneJobs"))  # fmt: skip


def _migrating_vm() -> Fields:
    vm = MigratingVm
    return Fields("MigratingVm", {
        "name": _column(_T, vm.name),
        "state": _column(Kind.ENUM, vm.state, names=_VM_STATE),
        "create_time": _column(_TIME, vm.create_time),
        "state_time": _column(_TIME, vm.state_time),
        "update_time": _column(_TIME, vm.update_time),
        **json_fields(vm.body, "", {
            "display_name": {"kind": _T, "searched": True},
            "description": {"kind": _T, "searched": True},
            "source_vm_id": {"kind": _T, "searched": True},
            "labels": _MAP,
            "policy": _MESSAGE,
            "policy.idle_duration": Kind.DURATION,
            "policy.skip_os_adaptation": _B,
            _DEFAULTS: _MESSAGE,
            **{f"{_DEFAULTS}.{path}": what for path, what in {**_TARGET, "target_project": _T}.items()},
            _DISKS: _MESSAGE,
            f"{_DISKS}.target_project": _T,
            f"{_DISKS}.zone": _T,
            f"{_DISKS}.disks_target_defaults": _MESSAGE,
            f"{_DISKS}.vm_target_defaults": _MESSAGE,
            f"{_DISKS}.vm_target_defaults.vm_name": {"kind": _T, "searched": True},
            f"{_DISKS}.vm_target_defaults.machine_type": _T,
        }),
    }, "create_time", _id(vm, "migratingVms"))  # fmt: skip


def _source() -> Fields:
    return Fields("Source", {
        "name": _column(_T, Source.name),
        "create_time": _column(_TIME, Source.create_time),
        "update_time": _column(_TIME, Source.update_time),
        **json_fields(Source.body, "", {
            "description": {"kind": _T, "searched": True},
            "labels": _MAP,
            "encryption": _MESSAGE,
            "encryption.kms_key": _T,
            "vmware": _MESSAGE,
            "vmware.username": _T,
            "vmware.vcenter_ip": _T,
            "vmware.thumbprint": _T,
            "aws": _MESSAGE,
            "aws.aws_region": _T,
            "azure": _MESSAGE,
            "azure.subscription_id": _T,
            "azure.azure_location": _T,
        }),
    }, "create_time", _id(Source, "sources"))  # fmt: skip


def _target_project() -> Fields:
    row = TargetProject
    return Fields("TargetProject", {
        "name": _column(_T, row.name),
        "project": _column(_T, row.target, searched=True),
        "description": _column(_T, row.description, searched=True),
        "create_time": _column(_TIME, row.create_time),
        "update_time": _column(_TIME, row.update_time),
    }, "create_time", _id(row, "targetProjects"))  # fmt: skip


def _replication_cycle() -> Fields:
    row = ReplicationCycle
    return Fields("ReplicationCycle", {
        "name": _column(_T, row.name),
        "cycle_number": _column(_N, row.cycle_number),
        "state": _column(Kind.ENUM, row.state, names=_CYCLE_STATE),
        "progress_percent": _column(_N, sa.case((sa.type_coerce(row.state, sa.String()) == "SUCCEEDED", 100), else_=0)),
        "start_time": _column(_TIME, row.start_time),
        "end_time": _column(_TIME, row.end_time, optional=True),
        **_error(row.error, sa.case((row.error.is_not(None), _UNKNOWN)), searched=False),
    }, "start_time", _id(row, "replicationCycles"))  # fmt: skip


def _operation() -> Fields:
    row = Operation
    code = sa.case({name: number for number, name in enumerate(_CODES)}, value=row.error[("code",)].as_string())
    return Fields("Operation", {
        "name": _column(_T, row.name),
        "done": _column(_B, row.end_time.is_not(None)),
        "metadata.create_time": _column(_TIME, row.create_time),
        "metadata.end_time": _column(_TIME, row.end_time, optional=True),
        "metadata.target": _column(_T, row.target, searched=True),
        "metadata.verb": _column(_T, row.verb, searched=True),
        "metadata.requested_cancellation": _column(_B, row.requested_cancellation),
        **_error(row.error, code, searched=True),
    }, "metadata.create_time", _id(row, "operations"))  # fmt: skip


FIELDS: Mapping[type[Base], Fields] = MappingProxyType({
    CloneJob: _clone_job(),
    MigratingVm: _migrating_vm(),
    Source: _source(),
    TargetProject: _target_project(),
    ReplicationCycle: _replication_cycle(),
    Operation: _operation(),
})  # fmt: skip
