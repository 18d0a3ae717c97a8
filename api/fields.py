"""What of a message a user may set: field behaviour. Field masks stand in ``masks.py``.

Rules: the ``Output only`` and ``Input only`` marks of the official types (public proto; a test compares this
table with their documentation), AIP-203 (output-only input is cleared, not refused).
Credentials of source systems are cleared as well: nothing here connects to a source, so they are never stored.
"""

from __future__ import annotations

from typing import Any

from google.cloud import vmmigration_v1 as v1
from google.protobuf import json_format
from google.protobuf.message import Message

OUTPUT_ONLY: dict[str, tuple[str, ...]] = {
    "Source": (
        "name",
        "create_time",
        "update_time",
        "vmware.resolved_vcenter_host",
        "aws.state",
        "aws.error",
        "aws.public_ip",
        "azure.state",
        "azure.error",
        "azure.resource_group_id",
    ),
    "MigratingVm": (
        "name",
        "vmware_source_vm_details",
        "aws_source_vm_details",
        "azure_source_vm_details",
        "create_time",
        "update_time",
        "last_sync",
        "state",
        "state_time",
        "current_sync_info",
        "last_replication_cycle",
        "group",
        "recent_clone_jobs",
        "error",
        "recent_cutover_jobs",
        "cutover_forecast",
        "expiration",
        "compute_engine_target_defaults.applied_license",
        "compute_engine_target_defaults.boot_option",
    ),
    "TargetProject": ("name", "create_time", "update_time"),
    "CloneJob": tuple(v1.CloneJob.pb().DESCRIPTOR.fields_by_name),
}
CREDENTIALS: dict[str, tuple[str, ...]] = {
    "Source": ("vmware.password", "aws.access_key_creds", "azure.client_secret_creds"),
}


def clear_unsettable(message: Message) -> None:
    """Clear the output-only fields and the credentials of a resource, in place."""
    kind = message.DESCRIPTOR.name
    for path in (*OUTPUT_ONLY[kind], *CREDENTIALS.get(kind, ())):
        _clear(message, path.split("."))


def user_body(message: Message) -> dict[str, Any]:
    """The fields that a user set and may set, as the contract's own JSON."""
    copy = type(message)()
    copy.CopyFrom(message)
    clear_unsettable(copy)
    body: dict[str, Any] = json_format.MessageToDict(copy)
    return body


def _clear(message: Message, path: list[str]) -> None:
    if len(path) == 1:
        message.ClearField(path[0])
    elif message.HasField(path[0]):
        _clear(getattr(message, path[0]), path[1:])
