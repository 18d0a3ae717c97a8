"""Every reason that an error can carry in its ErrorInfo: stable names, what they mean, what to do.

``docs/contract.md`` lists them and the service shows them at ``/docs/errors``, where the help links of failed clone jobs
lead. The link is a path and no address: the service does not know under which name its users reach it. A test finds every
reason in the code and holds it against this table.
"""

from __future__ import annotations

import html
from typing import NamedTuple

HELP_PATH = "/docs/errors"


class Reason(NamedTuple):
    """``codes`` are names of google.rpc.Code."""

    codes: str
    meaning: str
    action: str


_BAD, _STATE, _BUSY, _LATER = "INVALID_ARGUMENT", "FAILED_PRECONDITION", "ABORTED", "UNAVAILABLE"
_SEND = "Correct the field that BadRequest names and send the request again."
_CALM = "Try again; if it stays so, ask whoever operates the service."

REASONS: dict[str, Reason] = {
    # A clone job's or a cycle's own error: the codes of the contract's MigrationError.
    "CLONE_ERROR": Reason("UNKNOWN", "The clone job failed while it made disks or the instance; nothing of it was left.",
                          "Mend what the message names, then create a new clone job."),
    "OS_ADAPTATION_ERROR": Reason("UNKNOWN", "The clone job failed while it adapted the guest's operating system.",
                                  "Check that the operating system is supported, or have the VM's policy skip adaptation."),
    "SOURCE_REPLICATION_ERROR": Reason("UNKNOWN", "The replication cycle failed: its upload was aborted.",
                                       "Upload the next cycle."),
    "UNKNOWN_ERROR": Reason("UNKNOWN", "It failed for a reason that has no code.", "Read the message."),
    # Requests
    "INVALID_FIELD": Reason(_BAD, "A field's value is not legal.", _SEND),
    "REQUIRED_FIELD": Reason(_BAD, "A required field is missing.", _SEND),
    "UNKNOWN_FIELD": Reason(_BAD, "The message, the query or the update mask names a field that does not exist.", _SEND),
    "UNSUPPORTED_FIELD": Reason(_BAD, "The field exists, and this service cannot act on it.", "Leave the field empty."),
    "INVALID_RESOURCE_NAME": Reason(_BAD, "A resource name has not the shape that the message shows.", _SEND),
    "INVALID_RESOURCE_ID": Reason(_BAD, "An id for a new resource is not legal (AIP-122).", _SEND),
    "INVALID_REQUEST_ID": Reason(_BAD, "The request id is no UUID, or the nil UUID.", "Send a new random UUID."),
    "REQUEST_ID_REUSED": Reason(_BAD, "The request id was used with another request.", "Send a new random UUID."),
    "INVALID_FILTER": Reason(_BAD, "The filter does not follow AIP-160, or names what cannot be filtered by.", _SEND),
    "INVALID_ORDER_BY": Reason(_BAD, "The order does not follow AIP-132, or names what cannot be ordered by.", _SEND),
    "PAGE_TOKEN_INVALID": Reason(_BAD, "The page token is not of this service, or too old.", "Start again without one."),
    "PAGE_TOKEN_MISMATCH": Reason(_BAD, "The page token belongs to another list.",
                                  "Keep parent, filter and order as they were, or start again without a token."),
    "INVALID_JSON": Reason(_BAD, "The body is no JSON object, or nested too deeply.", _SEND),
    "INVALID_MESSAGE": Reason(_BAD, "The bytes are no message of this method's type.", _SEND),
    "INVALID_ENCODING": Reason(_BAD, "Text is not UTF-8, or has a NUL character.", _SEND),
    "UNSUPPORTED_CONTENT_TYPE": Reason(_BAD, "The body is not JSON by its Content-Type.", "Send application/json."),
    "REQUEST_TOO_LARGE": Reason(_BAD, "The request is larger than the message says.", "Send less."),
    "REQUEST_HEADERS_TOO_LARGE": Reason(_BAD, "Path, query and headers are larger than is read.", "Send less."),
    "MALFORMED_HTTP": Reason(_BAD, "What arrived is not HTTP.", "Check which port and protocol the client uses."),
    "REQUEST_TIMEOUT": Reason("DEADLINE_EXCEEDED", "The client sent nothing for too long.", "Send the request again."),
    "CALL_TIMEOUT": Reason("DEADLINE_EXCEEDED", "The call took longer than the service allows.", _CALM),
    "ROUTE_NOT_FOUND": Reason("NOT_FOUND", "Nothing is served at this path.", "Compare the path with this page."),
    "METHOD_NOT_ALLOWED": Reason("UNIMPLEMENTED", "The path is served, with another HTTP method.", "See header Allow."),
    "NOT_COVERED": Reason("UNIMPLEMENTED", "The contract has this method, this service has not.",
                          "The message names the methods that are covered."),
    # Credentials
    "CREDENTIALS_MISSING": Reason("UNAUTHENTICATED", "The call carries no credentials.", "Send an access token."),
    "CREDENTIALS_INVALID": Reason("UNAUTHENTICATED", "The credentials are unknown, expired or revoked.",
                                  "Have a new access token created."),
    "PERMISSION_DENIED": Reason("PERMISSION_DENIED", "The caller lacks the permission, or the resource does not exist.",
                                "Ask for a role that has the permission which the message names."),
    "FOREIGN_REQUEST": Reason("PERMISSION_DENIED", "A web page of another origin sent the request.",
                              "Call the service from a program, not from another site's page."),
    "KEYS_UNAVAILABLE": Reason(_LATER, "The identity provider's keys cannot be read.", _CALM),
    # Resources
    "RESOURCE_NOT_FOUND": Reason("NOT_FOUND", "The resource does not exist.", "Check the name; list its parent."),
    "RESOURCE_ALREADY_EXISTS": Reason("ALREADY_EXISTS", "A resource of that name exists.", "Choose another id, or get it."),
    "SOURCE_HAS_VMS": Reason(_STATE, "The source has migrating VMs.", "Delete them first."),
    "TARGET_PROJECT_IN_USE": Reason(_STATE, "The target defaults of a migrating VM name the target project.",
                                    "Change them, or delete the VM."),
    "VM_NOT_CLONEABLE": Reason(_STATE, "The VM's state does not allow a clone.", "See docs/states.md: ACTIVE or PAUSED."),
    "VM_STATE_NOT_ALLOWED": Reason(_STATE, "The VM's state does not allow this.", "The message names what is allowed."),
    "VM_NOT_EXTENDABLE": Reason(_STATE, "The VM's life cannot be extended now.", "The message says from when to when."),
    "NO_SUCCESSFUL_CYCLE": Reason(_STATE, "The VM has nothing to clone yet.", "Upload a replication cycle."),
    "NO_TARGET_DEFAULTS": Reason(_STATE, "The VM has no target.", "Set its computeEngineTargetDefaults, or computeEngineDisksTargetDefaults."),
    "TARGET_PROJECT_NOT_FOUND": Reason(_STATE, "The VM's target project does not exist.",
                                       "Create it, or change the VM's target defaults."),
    "TARGET_NOT_CONFIGURED": Reason(_STATE, "The target project maps to a target that the service does not have.",
                                    "Update the target project, or configure the target."),
    "TARGET_CANNOT_CLONE": Reason(_STATE, "The target refuses this VM; nothing was made.", "Change what it names."),
    "NO_SUCH_DISK": Reason(_STATE, "The target defaults name a disk that the VM's latest replication cycle does not have.",
                           "Name the disks that it has, or none for all of them."),
    "DISK_NAME_TAKEN": Reason(_STATE, "A disk of that name exists in the target.", "Choose another disk_name."),
    "INSTANCE_NAME_TAKEN": Reason(_STATE, "An instance of that name exists in the target.", "Choose another vmName."),
    "FAILED_PRECONDITION": Reason(_STATE, "Something else must change first.", "Read the message."),
    "CLONE_JOB_RUNNING": Reason(f"{_BUSY}, {_STATE}", "A clone job of this VM runs; the metadata names it.",
                                "Wait for it, or cancel it."),
    "CYCLE_PRUNED": Reason(_BUSY, "The VM's latest cycle was pruned while the clone job was made, for a newer one has come.",
                           "Try again."),
    "CLONE_JOB_NOT_CANCELLABLE": Reason(_STATE, "The clone job has succeeded or failed.",
                                        "Delete the instance yourself, if it succeeded and is not wanted."),
    "CONCURRENT_OPERATION": Reason(_BUSY, "Something else works on the same resource.", "Try again when it has ended."),
    # Operations
    "CLONE_JOB_CANCELLED": Reason("CANCELLED", "The operation's clone job was cancelled.", "Nothing of it was left."),
    "CLONE_JOB_FAILED": Reason(_STATE, "The operation's clone job failed; nothing of it was left.",
                               "Read the job's error, mend it, create a new job."),
    "CLONE_JOB_SUCCEEDED": Reason(_STATE, "The clone job succeeded before it could be cancelled.",
                                  "Delete the instance yourself, if it is not wanted."),
    "OPERATION_IN_USE": Reason(_STATE, "The operation's clone job has not ended.", "Delete it when it has."),
    # Uploads
    "CYCLE_RUNNING": Reason(f"{_BUSY}, {_STATE}", "A replication cycle of this VM has not ended.", "Finish or abort it."),
    "CYCLE_CLOSED": Reason(_STATE, "The replication cycle's state does not allow this.", "Begin a new one, or resume."),
    "DISKS_MISSING": Reason(_STATE, "The cycle lacks disks.", "Upload the disks 0, 1, … without a gap."),
    "DISKS_INCOMPLETE": Reason(_STATE, "Disks of the cycle have begun to arrive and are not complete.",
                               "Finish the uploads that the message names, or abort the cycle."),
    "IMAGE_REFUSED": Reason(_BAD, "The image is not what its format says, or not safe.", "Convert it, upload it again."),
    "CHECKSUM_MISMATCH": Reason(_BAD, "What arrived has another SHA-256.", "Send it again."),
    "UPLOAD_INTERRUPTED": Reason("CANCELLED", "The body did not arrive in full.", "Send it again."),
    "UPLOAD_RUNNING": Reason(_BUSY, "Another request uploads this disk.", "Try again when it has ended."),
    "UPLOAD_OFFSET_MISMATCH": Reason(_BUSY, "The chunk does not begin where the last one ended.",
                                     "Ask what has arrived, and go on from there."),
    "UPLOAD_CHANGED": Reason(_BAD, "The chunk is of another upload than those before.", "Start the disk again."),
    "OUT_OF_SPACE": Reason("RESOURCE_EXHAUSTED", "There is no room for it.", "Free some space; nothing was kept."),
    # The service
    "TOO_MANY_CONNECTIONS": Reason(f"{_LATER}, RESOURCE_EXHAUSTED", "The service has all connections that it takes.", _CALM),
    "TOO_MANY_STREAMS": Reason("RESOURCE_EXHAUSTED", "Too many streams of progress are open.", "Close some, or poll."),
    "BACKEND_UNAVAILABLE": Reason(_LATER, "A part that the service needs does not answer.", _CALM),
    "DATABASE_UNAVAILABLE": Reason(_LATER, "The database does not answer.", _CALM),
    "INTERNAL": Reason("INTERNAL", "A defect of the service.", "Report it with the request id that the message has."),
    "UNKNOWN": Reason("UNKNOWN", "It has no reason of its own.", "Read the message."),
}  # fmt: skip


def help_link(reason: str) -> str:
    """Where the reason is explained."""
    return f"{HELP_PATH}#{reason}"


def page() -> str:
    """The table as a web page without any script or style."""
    rows = "".join(
        f'<tr id="{name}"><td>{name}</td><td>{each.codes}</td><td>{html.escape(each.meaning)}</td>'
        f"<td>{html.escape(each.action)}</td></tr>\n"
        for name, each in REASONS.items()
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>clonejob: errors</title></head>\n'
        "<body>\n<h1>Errors</h1>\n<p>Every error has a reason in its ErrorInfo.</p>\n"
        f"<table>\n<tr><th>reason</th><th>code</th><th>meaning</th><th>what to do</th></tr>\n{rows}</table>\n"
        "</body>\n</html>\n"
    )
