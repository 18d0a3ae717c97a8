"""What we serve against a discovery document of the service: routes, query parameters, message fields, enum values.

``google-api-python-client`` ships the document; a test compares the differences that are found with ``EXPLAINED``, in
both directions, and ``docs/contract.md`` lists them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from api.methods import METHODS, Method
from api.uncovered import UNCOVERED

Json = dict[str, Any]
_INTEGERS = {"int32": ("integer", "int32"), "int64": ("string", "int64")}
_WELL_KNOWN = {
    "google.protobuf.Timestamp": ("string", "google-datetime"),
    "google.protobuf.Duration": ("string", "google-duration"),
    "google.protobuf.FieldMask": ("string", "google-fieldmask"),
    "google.protobuf.Any": ("object", ""),
    "google.protobuf.Struct": ("object", ""),
}

# Each difference of the document that google-api-python-client 2.202.0 ships (revision 20260521), and why it stays.
_NEWER = "newer than the published types (google-cloud-vm-migration 1.18.0); refused with INVALID_ARGUMENT"
_HA_DISKS = "value COMPUTE_ENGINE_DISK_TYPE_HYPERDISK_BALANCED_HIGH_AVAILABILITY is only in the document"
EXPLAINED: dict[str, str] = {
    f"BootDiskDefaults.diskType: {_HA_DISKS}": _NEWER,
    f"ComputeEngineTargetDefaults.diskType: {_HA_DISKS}": _NEWER,
    "ComputeEngineTargetDefaults.disks is only in the document": _NEWER,
    f"ComputeEngineTargetDetails.diskType: {_HA_DISKS}": _NEWER,
    "ListLocations: query parameter extraLocationTypes is only in the document": "accepted and ignored: there is one kind "
    "of location; google.cloud.location.ListLocationsRequest does not have it either",
    f"PersistentDiskDefaults.diskType: {_HA_DISKS}": _NEWER,
}


def differences(document: Json) -> list[str]:
    """Every difference as one line, in order."""
    theirs = {(m["httpMethod"], _flat(m["flatPath"])): m for m in _methods(document)}
    ours: dict[tuple[str, str], Method] = {(m.verb, _template(m.path)): m for m in METHODS if m.verb}
    refused = {(m.verb, _template(m.path)) for m in UNCOVERED}
    found = [f"{verb} {path} is only in the document" for verb, path in theirs.keys() - ours.keys() - refused]
    found += [f"{verb} {path} is only here" for verb, path in (ours.keys() | refused) - theirs.keys()]
    seen: set[str] = set()
    for route in theirs.keys() & ours.keys():
        found += _compare_method(document, ours[route], theirs[route], seen)
    return sorted(set(found))


def _methods(resource: Json) -> Iterator[Json]:
    yield from resource.get("methods", {}).values()
    for child in resource.get("resources", {}).values():
        yield from _methods(child)


def _flat(path: str) -> str:
    return "/" + re.sub(r"\{[^}]+\}", "*", path)


def _template(path: str) -> str:
    return re.sub(r"\{[^}=]+=([^}]+)\}", r"\1", path)


def _compare_method(document: Json, method: Method, theirs: Json, seen: set[str]) -> Iterator[str]:
    request: Descriptor = method.request.DESCRIPTOR
    in_path = {name.split(".")[0] for name in re.findall(r"\{([^}=]+)=", method.path)}
    query = {
        field.json_name for field in request.fields
        if method.body != "*" and field.name not in in_path and field.name != method.body
    }  # fmt: skip
    wanted = {name for name, each in theirs["parameters"].items() if each["location"] == "query"}
    yield from (f"{method.rpc}: query parameter {name} is only in the document" for name in wanted - query)
    yield from (f"{method.rpc}: query parameter {name} is only here" for name in query - wanted)
    yield from _compare_message(document, theirs["response"]["$ref"], method.response.DESCRIPTOR, seen)
    if method.body and method.body != "*":
        body = request.fields_by_name[method.body].message_type
        yield from _compare_message(document, theirs["request"]["$ref"], body, seen)


def _compare_message(document: Json, schema_id: str, descriptor: Descriptor, seen: set[str]) -> Iterator[str]:
    if schema_id in seen:
        return
    seen.add(schema_id)
    properties: Json = document["schemas"][schema_id].get("properties", {})
    fields = {field.json_name: field for field in descriptor.fields}
    yield from (f"{schema_id}.{name} is only in the document" for name in properties.keys() - fields.keys())
    yield from (f"{schema_id}.{name} is only here" for name in fields.keys() - properties.keys())
    for name in properties.keys() & fields.keys():
        yield from _compare_field(document, f"{schema_id}.{name}", properties[name], fields[name], seen)


def _compare_field(document: Json, path: str, theirs: Json, field: FieldDescriptor, seen: set[str]) -> Iterator[str]:
    message = field.message_type
    if message is not None and message.GetOptions().map_entry:
        value = message.fields_by_name["value"]
        yield from _compare_value(document, path, theirs.get("additionalProperties", {}), value, seen)
    elif field.is_repeated:
        if theirs.get("type") != "array":
            yield f"{path} is a list only here"
        yield from _compare_value(document, path, theirs.get("items", {}), field, seen)
    else:
        yield from _compare_value(document, path, theirs, field, seen)


def _compare_value(document: Json, path: str, theirs: Json, field: FieldDescriptor, seen: set[str]) -> Iterator[str]:
    message = field.message_type
    if message is not None and message.full_name not in _WELL_KNOWN:
        if "$ref" not in theirs:
            yield f"{path} is a message only here"
        else:
            yield from _compare_message(document, theirs["$ref"], message, seen)
        return
    if field.enum_type is not None:
        names = {value.name for value in field.enum_type.values}
        wanted = set(theirs.get("enum", ()))
        yield from (f"{path}: value {name} is only in the document" for name in wanted - names)
        yield from (f"{path}: value {name} is only here" for name in names - wanted)
        return
    kind = (theirs.get("type", ""), theirs.get("format", ""))
    if kind != (expected := _kind(field)):
        yield f"{path} is {' '.join(kind).strip()} in the document, {' '.join(expected).strip()} here"


def _kind(field: FieldDescriptor) -> tuple[str, str]:
    if field.message_type is not None:
        return _WELL_KNOWN[field.message_type.full_name]
    if field.type == FieldDescriptor.TYPE_BOOL:
        return ("boolean", "")
    if field.type == FieldDescriptor.TYPE_INT32:
        return _INTEGERS["int32"]
    if field.type == FieldDescriptor.TYPE_INT64:
        return _INTEGERS["int64"]
    return ("string", "")
