"""JSON Schemas (2020-12) of protobuf messages, by the rules of proto3 JSON, and of our own answers."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

Schema = dict[str, Any]
_REF = "#/components/schemas/"
_INT64 = {"type": "string", "format": "int64", "pattern": "^-?[0-9]{1,20}$"}
_INT32 = {"type": "integer", "format": "int32", "minimum": -(2**31), "maximum": 2**31 - 1}
_UINT32 = {"type": "integer", "minimum": 0, "maximum": 2**32 - 1}
_NUMBER = {"anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}]}
_F = FieldDescriptor
_SCALARS: dict[int, Schema] = {
    _F.TYPE_BOOL: {"type": "boolean"},
    _F.TYPE_STRING: {"type": "string"},
    _F.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
    _F.TYPE_DOUBLE: _NUMBER,
    _F.TYPE_FLOAT: _NUMBER,
    **dict.fromkeys((_F.TYPE_INT32, _F.TYPE_SINT32, _F.TYPE_SFIXED32), _INT32),
    **dict.fromkeys((_F.TYPE_UINT32, _F.TYPE_FIXED32), _UINT32),
    **dict.fromkeys(
        (_F.TYPE_INT64, _F.TYPE_SINT64, _F.TYPE_SFIXED64, _F.TYPE_UINT64, _F.TYPE_FIXED64), _INT64
    ),
}  # fmt: skip
# Messages that proto3 JSON writes in a form of their own.
_WELL_KNOWN: dict[str, Schema] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$"},
    "google.protobuf.FieldMask": {"type": "string", "description": "Field paths in lowerCamelCase, divided by commas."},
    "google.protobuf.Any": {
        "type": "object", "properties": {"@type": {"type": "string"}}, "required": ["@type"],
        "additionalProperties": True,
    },
    "google.protobuf.Empty": {"type": "object", "additionalProperties": False},
    "google.protobuf.Struct": {"type": "object", "additionalProperties": True},
    "google.protobuf.BoolValue": {"type": ["boolean", "null"]},
    "google.protobuf.StringValue": {"type": ["string", "null"]},
    "google.protobuf.Int32Value": {"type": ["integer", "null"]},
    "google.protobuf.Int64Value": {"type": ["string", "null"]},
}  # fmt: skip


class Components:
    """The schemas that a document refers to, each by its short name."""

    def __init__(self) -> None:
        self.schemas: dict[str, Schema] = dict(OURS)

    def message(self, descriptor: Descriptor) -> Schema:
        """A reference to the message's schema, which is added with all that it refers to."""
        known = _WELL_KNOWN.get(descriptor.full_name)
        if known is not None:
            return known
        name = _name(descriptor)
        if name not in self.schemas:
            schema: Schema = {"type": "object", "additionalProperties": False, "title": descriptor.full_name}
            self.schemas[name] = schema  # before its fields: messages may be recursive
            schema["properties"] = {field.json_name: self.field(field) for field in descriptor.fields}
        return {"$ref": _REF + name}

    def field(self, field: FieldDescriptor) -> Schema:
        """The schema of one field."""
        kind = field.message_type
        if kind is not None and kind.GetOptions().map_entry:
            return {"type": "object", "additionalProperties": self.single(kind.fields_by_name["value"])}
        if field.is_repeated:
            return {"type": "array", "items": self.single(field)}
        return self.single(field)

    def single(self, field: FieldDescriptor) -> Schema:
        """The schema of one value of a field."""
        if field.message_type is not None:
            return self.message(field.message_type)
        if field.enum_type is not None:
            return _enum(field.enum_type)
        return _SCALARS[field.type]


def ref(name: str) -> Schema:
    """A reference to a schema by its short name."""
    return {"$ref": _REF + name}


def _name(descriptor: Descriptor) -> str:
    parts = [descriptor.name]
    while (descriptor := descriptor.containing_type) is not None:
        parts.insert(0, descriptor.name)
    return ".".join(parts)


def _enum(descriptor: EnumDescriptor) -> Schema:
    return {"type": "string", "enum": [value.name for value in descriptor.values]}


def _object(**properties: Schema) -> Schema:
    return _optional(**properties) | {"required": sorted(properties)}


def _optional(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "additionalProperties": False}


_TEXT, _BYTES = {"type": "string"}, {"type": "string", "pattern": "^[0-9]+$"}
_MAYBE_TEXT, _WHOLE = {"type": ["string", "null"]}, {"type": "integer"}
_TIME, _MAYBE_TIME = {"type": "string", "format": "date-time"}, {"type": ["string", "null"], "format": "date-time"}
_TRUE, _MAYBE_NUMBER = {"type": "boolean"}, {"type": ["number", "null"]}
_SNAPSHOT: dict[str, Schema] = {
    "diskNumber": _WHOLE, "format": {"enum": ["raw", "qcow2", "reference"]}, "sha256": _TEXT, "virtualSizeBytes": _BYTES,
    "storedSizeBytes": _BYTES,
}  # fmt: skip


def _list(item: Schema) -> Schema:
    return {"type": "array", "items": item}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


_ERROR = _object(
    code={"type": "integer", "description": "The HTTP status."},
    message=_TEXT,
    status={"type": "string", "description": "The name of the google.rpc.Code."},
    details=_list(_WELL_KNOWN["google.protobuf.Any"]),
)
OURS: dict[str, Schema] = {
    "clonejob.Error": _object(error=_ERROR),
    "clonejob.BeginCycle": _optional(adaptation=_optional(
        licenseType=_TEXT, modifiers={"type": "object", "additionalProperties": _TEXT},
    )),
    "clonejob.AbortCycle": _optional(message=_TEXT),
    "clonejob.DiskReference": {
        "type": "object",
        "properties": {"diskNumber": _WHOLE, "reference": _TEXT, "sizeBytes": _BYTES},
        "required": ["reference", "sizeBytes"],
        "additionalProperties": False,
    },
    "clonejob.Disk": {
        "type": "object",
        "properties": _SNAPSHOT | {
            "replicationCycle": _TEXT, "complete": _TRUE, "receivedBytes": _BYTES,
            "totalBytes": {"type": ["string", "null"]}, "createTime": _TIME,
        },
        "required": ["replicationCycle", "diskNumber", "complete", "format", "receivedBytes", "totalBytes"],
        "additionalProperties": False,
    },
    "clonejob.Event": _object(id=_BYTES, time=_TIME, epoch=_WHOLE, kind=_TEXT, message=_TEXT),
    "clonejob.Events": _object(events=_list(ref("clonejob.Event"))),
    "clonejob.Ledger": _object(ledger=_list(_object(
        position=_WHOLE, step=_TEXT, kind=_TEXT, name=_TEXT, role={"enum": ["product", "scaffold"]}, state=_TEXT,
        uid=_MAYBE_TEXT, detail=_MAYBE_TEXT, intendedTime=_MAYBE_TIME, createdTime=_MAYBE_TIME,
        deletingTime=_MAYBE_TIME, absentTime=_MAYBE_TIME,
    ))),
    "clonejob.Evidence": _object(
        name=_TEXT, verdict={"enum": ["BOOTED", "NO_BOOT", "UNKNOWN"]}, seconds=_MAYBE_NUMBER,
        firstOutputSeconds=_MAYBE_NUMBER, detail=_TEXT, time=_MAYBE_TIME, requireBoot=_TRUE,
        console=_or_null(_object(path=_TEXT, sha256=_TEXT, sizeBytes=_BYTES)),
        screenshot=_or_null(_object(path=_TEXT, sha256=_TEXT, sizeBytes=_BYTES)),
        summary=_or_null(_object(sha256=_TEXT, sizeBytes=_BYTES)),
        consoleEnd=_TEXT, missing={"type": "object", "additionalProperties": _TEXT},
    ),
    "clonejob.BootProofs": _object(bootProofs=_list(_object(
        replicationCycle=_TEXT, cloneJob=_TEXT, verdict=_TEXT, time=_TIME, seconds=_MAYBE_NUMBER,
        consoleSha256=_MAYBE_TEXT, screenshotSha256=_MAYBE_TEXT,
    ))),
    "clonejob.Progress": _object(
        name=_TEXT, state=_TEXT, verdict=_MAYBE_TEXT, error={"type": ["object", "null"]}, cleanupDetail=_MAYBE_TEXT,
        staleWrites=_WHOLE | {"description": "Writes refused because of an old epoch or lease."},
        replicationCycle=_TEXT, target=_TEXT, createTime=_TIME, stateTime=_TIME, endTime=_MAYBE_TIME,
        steps=_list(_object(kind=_TEXT, startTime=_MAYBE_TIME, endTime=_MAYBE_TIME, progress={"type": "object"})),
    ),
    "clonejob.Plan": _object(
        migratingVm=_TEXT, ready=_TRUE, target=_MAYBE_TEXT, cloneMode=_MAYBE_TEXT,
        replicationCycle=_or_null(_object(
            name=_TEXT, cycleNumber=_WHOLE, endTime=_MAYBE_TIME, snapshots=_list(_object(**_SNAPSHOT)),
        )),
        steps=_list(_object(kind=_TEXT, reason=_TEXT)),
        resources=_list(_object(kind=_TEXT, name=_TEXT, role=_TEXT, step=_TEXT)),
        blockers=_list(_object(reason=_TEXT, subject=_TEXT, message=_TEXT, action=_TEXT)),
    ),
    "clonejob.SetCloneMode": _object(cloneMode=_TEXT),
    "clonejob.CloneMode": _object(
        targetProject=_TEXT, target=_TEXT, cloneMode=_TEXT, usedCloneMode=_MAYBE_TEXT, cloneModes=_list(_TEXT),
    ),
    "clonejob.Explanation": _object(
        name=_TEXT, state=_TEXT, cloneMode=_MAYBE_TEXT, summary=_TEXT,
        waitsFor=_or_null(_object(
            reason=_TEXT, message=_TEXT, since=_MAYBE_TIME, until=_MAYBE_TIME, holder=_MAYBE_TEXT, attempts=_WHOLE,
        )),
        failure=_or_null(_object(
            code=_TEXT, message=_TEXT, action=_TEXT, step=_MAYBE_TEXT, attempts=_WHOLE, time=_MAYBE_TIME,
        )),
        cleaned=_list(_object(kind=_TEXT, name=_TEXT, absentTime=_MAYBE_TIME, detail=_MAYBE_TEXT)),
        left=_list(_object(kind=_TEXT, name=_TEXT, role=_TEXT, state=_TEXT)),
        kept=_list(_object(kind=_TEXT, name=_TEXT, uid=_MAYBE_TEXT)),
        next=_list(_TEXT),
    ),
    "clonejob.AuditRequest": _optional(
        target={"type": "string", "description": "Only this target."},
        quarantineS={"type": "number", "minimum": 0, "maximum": 604800},
        inventories={"type": "integer", "minimum": 2, "maximum": 1000},
    ),
    "clonejob.Orphan": _object(
        target=_TEXT, kind=_TEXT, name=_TEXT, uid=_TEXT, status=_TEXT, jobId=_TEXT, jobName=_MAYBE_TEXT,
        jobState=_MAYBE_TEXT, why=_TEXT, meaning=_TEXT, firstSeen=_MAYBE_TIME, lastSeen=_MAYBE_TIME,
        goodInventories=_WHOLE, deletable=_TRUE, proven=_TRUE, next=_TEXT,
    ),
    "clonejob.Audit": _object(
        time=_TIME, quarantineS={"type": "number"}, inventories=_WHOLE,
        targets=_list(_object(name=_TEXT, good=_TRUE, things=_WHOLE, detail=_TEXT)),
        orphans=_list(ref("clonejob.Orphan")),
        deleted=_list(ref("clonejob.Orphan")),
        missing=_list(_object(
            target=_TEXT, kind=_TEXT, name=_TEXT, uid=_MAYBE_TEXT, jobId=_TEXT, jobName=_TEXT, state=_TEXT,
            deletedTime=_MAYBE_TIME,
        )),
        strangers=_list(_object(
            target=_TEXT, kind=_TEXT, name=_TEXT, uid=_TEXT, jobName=_MAYBE_TEXT, why=_TEXT, meaning=_TEXT,
        )),
        cleanups=_list(_object(
            jobName=_TEXT, state=_TEXT, verdict=_TEXT, target=_TEXT, since=_MAYBE_TIME, ageS={"type": "number"},
            attempts=_WHOLE, detail=_TEXT, nextLook=_MAYBE_TIME,
        )),
        elsewhere=_WHOLE,
    ),
}  # fmt: skip
