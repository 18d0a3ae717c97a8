"""Our additions under ``/clonejob/v1/``: upload of a cycle's disks, what an operator wants to know about a job, and
the audit of the targets.

The contract has no public call for any of them. JSON is written as the contract writes it:
lowerCamelCase, times in RFC 3339, 64-bit integers as strings.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from api.additions import audit, cycles, evidence, jobs, target_projects
from api.additions.evidence import EvidenceRoute
from api.additions.uploads import UploadRoute
from api.names import CLONE_JOB, LOCATION, MIGRATING_VM, REPLICATION_CYCLE, TARGET_PROJECT
from tasks.errors import InvalidArgument
from tasks.services import Services

Json = dict[str, Any]
PREFIX = "/clonejob/v1/"
UPLOAD_PERMISSION, READ_PERMISSION = "clonejob.replicationCycles.upload", "vmmigration.cloneJobs.get"
PROOFS_PERMISSION = "vmmigration.cloneJobs.list"
PLAN_PERMISSION = "vmmigration.cloneJobs.create"
AUDIT_PERMISSION, DELETE_ORPHANS_PERMISSION = "clonejob.targets.audit", "clonejob.targets.deleteOrphans"
_NONE: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Addition:
    """One call of ours with JSON in and out; ``fields`` are what its body may have, ``answer`` names its schema.

    With ``streams`` it also answers ``Accept: text/event-stream``, by server-sent events.
    """

    verb: str
    path: str
    permission: str
    fields: frozenset[str]
    handler: Callable[[Services, str, Json], Json]
    answer: str
    streams: bool = False


_VM, _CYCLE, _JOB = (f"{PREFIX}{{name={shape}}}" for shape in (MIGRATING_VM, REPLICATION_CYCLE, CLONE_JOB))
_DISK = f"{_CYCLE}/disks/{{disk}}"
_LOCATION, _TARGET = (f"{PREFIX}{{name={shape}}}" for shape in (LOCATION, TARGET_PROJECT))
ADDITIONS = (
    Addition("POST", f"{_VM}/replicationCycles", UPLOAD_PERMISSION, frozenset({"adaptation"}), cycles.begin,
             "ReplicationCycle"),
    Addition("POST", f"{_CYCLE}:registerDisk", UPLOAD_PERMISSION, cycles.DISK_FIELDS, cycles.register_disk,
             "clonejob.Disk"),
    Addition("POST", f"{_CYCLE}:finish", UPLOAD_PERMISSION, _NONE, cycles.finish, "ReplicationCycle"),
    Addition("POST", f"{_CYCLE}:abort", UPLOAD_PERMISSION, frozenset({"message"}), cycles.abort, "ReplicationCycle"),
    Addition("POST", f"{_VM}:planCloneJob", PLAN_PERMISSION, _NONE, jobs.plan, "clonejob.Plan"),
    Addition("GET", f"{_JOB}/events", READ_PERMISSION, _NONE, jobs.events, "clonejob.Events"),
    Addition("GET", f"{_JOB}/ledger", READ_PERMISSION, _NONE, jobs.ledger, "clonejob.Ledger"),
    Addition("GET", f"{_JOB}/progress", READ_PERMISSION, _NONE, jobs.progress, "clonejob.Progress", streams=True),
    Addition("GET", f"{_JOB}/evidence", READ_PERMISSION, _NONE, evidence.evidence, "clonejob.Evidence"),
    Addition("GET", f"{_VM}/bootProofs", PROOFS_PERMISSION, _NONE, evidence.boot_proofs, "clonejob.BootProofs"),
    Addition("GET", f"{_JOB}:explain", READ_PERMISSION, _NONE, jobs.explain, "clonejob.Explanation"),
    Addition("GET", f"{_TARGET}/cloneMode", "vmmigration.targets.get", _NONE, target_projects.clone_mode,
             "clonejob.CloneMode"),
    Addition("POST", f"{_TARGET}:setCloneMode", "vmmigration.targets.update", target_projects.CLONE_MODE_FIELDS,
             target_projects.set_clone_mode, "clonejob.CloneMode"),
    Addition("POST", f"{_LOCATION}:audit", AUDIT_PERMISSION, audit.FIELDS, audit.report, "clonejob.Audit"),
    Addition("POST", f"{_LOCATION}:deleteOrphans", DELETE_ORPHANS_PERMISSION, audit.FIELDS, audit.delete_orphans,
             "clonejob.Audit"),
)  # fmt: skip
EVIDENCE = tuple(EvidenceRoute(f"{_JOB}/evidence/{part}", READ_PERMISSION, part) for part in evidence.MEDIA_TYPES)
UPLOADS = tuple(UploadRoute(verb, _DISK, UPLOAD_PERMISSION) for verb in ("PUT", "GET", "HEAD"))


def parse_json(addition: Addition, raw: bytes) -> Json:
    """The JSON object of a body; an empty body is an empty object.

    Raises: InvalidArgument for what is no JSON object and for a field that the call does not have.
    """
    try:
        body = json.loads(raw) if raw.strip() else {}
    except (ValueError, RecursionError):
        raise InvalidArgument("body", "is not JSON in UTF-8", reason="INVALID_JSON") from None
    if not isinstance(body, dict):
        raise InvalidArgument("body", "must be a JSON object", reason="INVALID_JSON")
    for field in body:
        if field not in addition.fields:
            raise InvalidArgument(field[:80], "no such field in this call", reason="UNKNOWN_FIELD")
    return body
