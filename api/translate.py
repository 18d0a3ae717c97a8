"""Rows to the contract's messages: the raw protobuf classes, because proto-plus costs ten times as much to fill.

What a user set is kept as the contract's own JSON and parsed back here; what the system knows is written over it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

from google.cloud import vmmigration_v1 as v1
from google.longrunning import operations_pb2
from google.protobuf import empty_pb2, json_format
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from api.errors import DOMAIN, code_of
from api.reasons import help_link
from api.stored_json import arguments
from models import schema
from models.catalog import JobRecord, Sync
from models.cycles import paused_for
from models.expiry import expire_time, extendable
from models.operations import FORGOTTEN
from models.states import VM_METHODS, CycleState, JobState, StepKind
from models.store import utc_now
from models.target_defaults import DISKS_TARGET

CloneJob = v1.CloneJob.pb()
MigratingVm = v1.MigratingVm.pb()
MigrationError = v1.MigrationError.pb()
OperationMetadata = v1.OperationMetadata.pb()
ReplicationCycle = v1.ReplicationCycle.pb()
Source = v1.Source.pb()
TargetProject = v1.TargetProject.pb()

TargetDetails = v1.ComputeEngineTargetDetails.pb()
_REMOVED = (JobState.CANCELLING, JobState.CANCELLED, JobState.FAILED)

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_NO_SYNC = Sync()
_RESPONSES: dict[str, Any] = {
    "CreateCloneJob": CloneJob,
    "CancelCloneJob": v1.CancelCloneJobResponse.pb(),
    "CreateSource": Source,
    "UpdateSource": Source,
    "CreateMigratingVm": MigratingVm,
    "UpdateMigratingVm": MigratingVm,
    "CreateTargetProject": TargetProject,
    "UpdateTargetProject": TargetProject,
    "DeleteSource": empty_pb2.Empty,
    "DeleteMigratingVm": empty_pb2.Empty,
    "DeleteTargetProject": empty_pb2.Empty,
    **{method: getattr(v1, method + "Response").pb() for method in VM_METHODS},
}


def clone_job(row: schema.CloneJob | JobRecord) -> Message:
    """A CloneJob with the steps that have started, each ended as it ended."""
    message: Message = CloneJob(
        name=row.name,
        state=str(row.state),
        state_time=_time(row.state_time),
        create_time=_time(row.create_time),
        end_time=_time(row.end_time),
        **_target_details(row),
        error=_migration_error(row.error, row.verdict_time or row.state_time) if row.error else None,
        steps=[
            {str(step.kind): {}, "start_time": _time(step.start_time), "end_time": _time(step.end_time)}
            for step in row.steps
            if step.start_time is not None
        ],
    )
    return message


def _target_details(row: schema.CloneJob | JobRecord) -> dict[str, Any]:
    """The field of the oneof ``target_vm_details``. Of a disks target it has what was created (public proto): what the steps
    that have ended made, and nothing of a job that did not, or will not, succeed."""
    disks = row.target_details.get(DISKS_TARGET)
    if disks is None:
        return {"compute_engine_target_details": arguments(TargetDetails, row.target_details)}
    ended = set() if row.error or row.state in _REMOVED else {step.kind for step in row.steps if step.end_time}
    shown: dict[str, Any] = {"disks_target_details": {}}
    if disks["vmUri"] is not None:
        uri = {"vm_uri": disks["vmUri"]} if StepKind.INSTANTIATING_MIGRATED_VM in ended else {}
        shown = {"vm_target_details": uri}
    if StepKind.PREPARING_VM_DISKS in ended:
        shown["disks"] = [{"source_disk_number": each["sourceDiskNumber"], "disk_uri": each["diskUri"]}
                          for each in disks["disks"]]  # fmt: skip
    return {"compute_engine_disks_target_details": shown}


def source(row: schema.Source) -> Message:
    """A Source."""
    message = _parse(row.body, Source())
    message.name = row.name
    _stamp(message, create_time=row.create_time, update_time=row.update_time)
    return message


def target_project(row: schema.TargetProject) -> Message:
    """A TargetProject; ``project`` is the name of the configured target."""
    message = TargetProject(name=row.name, project=row.target, description=row.description)
    _stamp(message, create_time=row.create_time, update_time=row.update_time)
    return message


def migrating_vm(
    row: schema.MigratingVm,
    sync: Sync = _NO_SYNC,
    recent: Sequence[schema.CloneJob] = (),
    now: dt.datetime | None = None,
) -> Message:
    """A MigratingVm; ``recent`` only for view FULL.

    ``last_replication_cycle`` is the last that has ended, ``last_sync`` the last that has succeeded (public proto).
    """
    message = _parse(row.body, MigratingVm())
    message.name = row.name
    message.state = MigratingVm.State.Value(str(row.state))
    _stamp(message, state_time=row.state_time, create_time=row.create_time, update_time=row.update_time)
    _stamp(message.expiration, expire_time=expire_time(row))
    message.expiration.extension_count = row.extension_count
    message.expiration.extendable = extendable(row, now or utc_now())
    if sync.current is not None:
        message.current_sync_info.CopyFrom(replication_cycle(sync.current, now))
    if sync.last is not None:
        message.last_replication_cycle.CopyFrom(replication_cycle(sync.last, now))
    if sync.last_successful is not None:
        _stamp(message.last_sync, last_sync_time=sync.last_successful.end_time)
    message.recent_clone_jobs.extend(clone_job(job) for job in recent)
    return message


def replication_cycle(row: schema.ReplicationCycle, now: dt.datetime | None = None) -> Message:
    """A ReplicationCycle with one ``replicating`` step: disks arrive whole, so bytes count once a disk has arrived."""
    message = ReplicationCycle(name=row.name, cycle_number=row.cycle_number, state=str(row.state))
    message.progress_percent = 100 if row.state is CycleState.SUCCEEDED else 0
    _stamp(message, start_time=row.start_time, end_time=row.end_time)
    message.total_pause_duration.FromTimedelta(paused_for(row, now or utc_now()))
    step = message.steps.add()
    _stamp(step, start_time=row.start_time, end_time=row.end_time)
    size = sum(snapshot.virtual_size_bytes for snapshot in row.snapshots)
    step.replicating.SetInParent()
    step.replicating.total_bytes = step.replicating.replicated_bytes = size
    if row.pruned_time is not None:
        _warn_pruned(message, row.pruned_time)
    if row.error:
        error = {"code": "SOURCE_REPLICATION_ERROR", **row.error}
        message.error.CopyFrom(_migration_error(error, row.end_time or row.start_time))
    return message


def _warn_pruned(message: Message, time: dt.datetime) -> None:
    warning = message.warnings.add()
    warning.warning_message.locale = warning.action_item.locale = "en-US"
    warning.warning_message.message = "Its snapshots were pruned: it cannot be cloned any more."
    warning.action_item.message = "Clone the VM's latest cycle, or import the disks again."
    _stamp(warning, warning_time=time)


def operation(row: schema.Operation, resource: object | None) -> operations_pb2.Operation:
    """A google.longrunning.Operation; ``resource`` is the row of its target, None if that is gone."""
    message = operations_pb2.Operation(name=_shown(row.name), done=row.end_time is not None)
    metadata = OperationMetadata(
        target=row.target, verb=row.verb, requested_cancellation=row.requested_cancellation, api_version="v1",
        create_time=_time(row.create_time), end_time=_time(row.end_time),
    )  # fmt: skip
    message.metadata.Pack(metadata)
    if row.error:
        message.error.CopyFrom(_operation_error(row.error))
    elif message.done:
        message.response.Pack(_response(row, resource))
    return message


def resource_message(row: object) -> Message:
    """The message of any row that an operation can speak of.

    Raises: TypeError for another row: an operation of a kind that nobody taught this module.
    """
    if isinstance(row, schema.CloneJob | JobRecord):
        return clone_job(row)
    if isinstance(row, schema.Source):
        return source(row)
    if isinstance(row, schema.MigratingVm):
        return migrating_vm(row)
    if isinstance(row, schema.TargetProject):
        return target_project(row)
    raise TypeError(f"no message for {type(row).__name__}")


def rfc3339(value: dt.datetime | None) -> str | None:
    """A time as the contract's JSON writes it."""
    return None if value is None else value.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")


def _shown(name: str) -> str:
    """An operation that was deleted is known again to whoever repeats its request: by the name that it had."""
    return name.removeprefix(FORGOTTEN)


def _response(row: schema.Operation, resource: object | None) -> Message:
    response: Message = _RESPONSES[row.method]()
    if not response.DESCRIPTOR.fields:
        return response
    if resource is not None:
        return resource_message(resource)
    response.name = row.target  # the resource is gone by now; its name is what is left to say
    return response


def _parse(body: dict[str, Any], message: Any) -> Any:
    return json_format.ParseDict(body, message, ignore_unknown_fields=True)


def _stamp(message: Any, **times: dt.datetime | None) -> None:
    for field, value in times.items():
        if value is not None:
            getattr(message, field).FromDatetime(value)


def _time(value: dt.datetime | None) -> dict[str, int] | None:
    """A Timestamp as a constructor takes it."""
    if value is None:
        return None
    since = value - _EPOCH
    return {"seconds": since.days * 86_400 + since.seconds, "nanos": since.microseconds * 1000}


def _migration_error(error: dict[str, Any], when: dt.datetime) -> status_pb2.Status:
    """Status with MigrationError; UNKNOWN, because the cause lies in the target and MigrationError is what names it."""
    code = error.get("code", "")
    if code not in MigrationError.ErrorCode.keys():  # noqa: SIM118  (an enum wrapper is no dict)
        code = "UNKNOWN_ERROR"
    text = error.get("message", "")
    detail = MigrationError(code=code)
    detail.error_message.locale = "en-US"
    detail.error_message.message = text
    if error.get("action"):
        detail.action_item.locale = "en-US"
        detail.action_item.message = error["action"]
    link = detail.help_links.add()
    link.description, link.url = "What the error means and what to do", help_link(code)
    _stamp(detail, error_time=when)
    status = status_pb2.Status(code=code_of("UNKNOWN"), message=text)
    status.details.add().Pack(detail)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=code, domain=DOMAIN))
    return status


def _operation_error(error: dict[str, Any]) -> status_pb2.Status:
    status = status_pb2.Status(code=code_of(error.get("code", "")), message=error.get("message", ""))
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=error.get("reason", "UNKNOWN"), domain=DOMAIN))
    return status
