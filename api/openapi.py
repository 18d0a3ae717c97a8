"""The OpenAPI 3.1 document of all of REST, made of the method table, the protobuf descriptors and our own routes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from api.additions import ADDITIONS, EVIDENCE, UPLOADS, Addition, audit, cycles
from api.additions.evidence import MEDIA_TYPES, EvidenceRoute
from api.additions.uploads import UploadRoute
from api.methods import METHODS, Method
from api.names import ID_RULE
from api.openapi_schemas import Components, Schema, ref

_VARIABLE = re.compile(r"\{[\w.]+=([^}]+)\}")
_ITEM = re.compile(r"(\w+)/\*")
_PLAIN = re.compile(r"\{(\w+)\}")
_SEGMENT = "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
_BODIES = {"adaptation": "clonejob.BeginCycle", "message": "clonejob.AbortCycle", "cloneMode": "clonejob.SetCloneMode",
           **dict.fromkeys(audit.FIELDS, "clonejob.AuditRequest"),
           **dict.fromkeys(cycles.DISK_FIELDS, "clonejob.DiskReference")}  # fmt: skip
_ABOUT = """\
The VM Migration v1 contract (`/v1/`, by google.api.http) and the additions of clonejob (`/clonejob/v1/`).

Fields marked as output only in the contract are ignored on input. Each error has the shape `clonejob.Error`, with a
`google.rpc.ErrorInfo` whose `reason` is stable. What the contract has and this service does not answers 501 and is not
listed here. Every call takes `fields` (partial response, such as `fields=name,steps/startTime`) and `alt` (`json`, or
`json;enum-encoding=int`)."""
_RANGE = "bytes FIRST-LAST/TOTAL; bytes */TOTAL to ask how much has arrived. Without it the body is the whole disk."


def document() -> Schema:
    """The whole document."""
    components = Components()
    paths: dict[str, Schema] = {}
    for method in METHODS:
        if method.verb:
            _add(paths, method.path, method.verb, _method(method, components))
    for addition in ADDITIONS:
        _add(paths, addition.path, addition.verb, _addition(addition, components))
    for kept in EVIDENCE:
        _add(paths, kept.path, kept.verb, _evidence(kept))
    for upload in UPLOADS:
        _add(paths, upload.path, upload.verb, _upload(upload))
    health = {"type": "object", "properties": {"status": {"const": "ok"}}, "required": ["status"]}
    paths["/healthz"] = {"get": {
        "operationId": "healthz", "tags": ["service"], "summary": "Whether the service serves.", "security": [],
        "responses": {"200": _json("It does.", health), "default": _error()},
    }}  # fmt: skip
    return {
        "openapi": "3.1.0",
        "info": {"title": "clonejob", "version": "v1", "description": _ABOUT,
                 "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}},
        "servers": [{"url": "/"}],
        "security": [{}, {"bearer": []}],
        "tags": [{"name": name} for name in sorted(_tags(paths))],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": dict(sorted(components.schemas.items())),
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }  # fmt: skip


def template(path: str) -> str:
    """A path of google.api.http in OpenAPI's form: ``{name=projects/*}`` becomes ``projects/{project}``."""
    spread = _VARIABLE.sub(lambda match: match[1], path)
    return _ITEM.sub(lambda match: f"{match[1]}/{{{_singular(match[1])}}}", spread)


def _singular(collection: str) -> str:
    return collection.removesuffix("s")


def _add(paths: dict[str, Schema], path: str, verb: str, operation: Schema) -> None:
    path = template(path)
    item = paths.setdefault(path, {"parameters": [_path_parameter(name) for name in _PLAIN.findall(path)]})
    item[verb.lower()] = operation


def _path_parameter(name: str) -> Schema:
    schema = {"type": "integer", "minimum": 0, "maximum": 63} if name == "disk" else _id_schema(_SEGMENT)
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _id_schema(pattern: str) -> Schema:
    return {"type": "string", "pattern": pattern, "maxLength": 63}


def _method(method: Method, components: Components) -> Schema:
    bound = {name.partition("=")[0].split(".")[0] for name in re.findall(r"\{([^}]+)\}", method.path)}
    fields = [field for field in method.request.DESCRIPTOR.fields if field.name not in bound | {method.body}]
    operation: Schema = {
        "operationId": method.rpc,
        "summary": f"{method.rpc} ({method.service}).",
        "description": f"Permission: `{method.permission}`.",
        "tags": [method.service.rpartition(".")[2]],
        "parameters": [] if method.body == "*" else [_query(field, components) for field in fields],
        "responses": {
            "200": _json("The answer.", components.message(method.response.DESCRIPTOR)),
            "default": _error(),
        },
    }
    if method.body:
        request = method.request.DESCRIPTOR
        kind = request if method.body == "*" else request.fields_by_name[method.body].message_type
        schema = _without(components, request, bound) if method.body == "*" else components.message(kind)
        operation["requestBody"] = {"required": False, "content": {"application/json": {"schema": schema}}}
    return operation


def _without(components: Components, request: Any, bound: Iterable[str]) -> Schema:
    """The body of a method with ``body: "*"``: the request without what stands in the path."""
    properties = {field.json_name: components.field(field) for field in request.fields if field.name not in bound}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _query(field: FieldDescriptor, components: Components) -> Schema:
    schema = components.field(field)
    if field.name.endswith("_id") and field.name != "request_id":
        schema = _id_schema(f"^{ID_RULE}$")
    elif field.name == "request_id":
        schema = {"type": "string", "format": "uuid"}
    elif field.name == "page_size":
        schema = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
    needed = field.name.endswith("_id") and field.name != "request_id"
    return {"name": field.json_name, "in": "query", "required": needed, "schema": schema}


def _addition(addition: Addition, components: Components) -> Schema:
    del components  # its answers are schemas of ours, or messages that a method has added
    about = (addition.handler.__doc__ or "").strip().splitlines()[0]
    operation: Schema = {
        "operationId": f"clonejob.{addition.handler.__module__.rpartition('.')[2]}.{addition.handler.__name__}",
        "summary": about,
        "description": f"Permission: `{addition.permission}`.",
        "tags": ["clonejob"],
        "responses": {"200": _json("The answer.", ref(addition.answer)), "default": _error()},
    }
    if addition.streams:
        operation["description"] += " With `Accept: text/event-stream`: server-sent events (docs/rest.md)."
        operation["responses"]["200"]["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    if addition.verb == "POST":
        name = next((_BODIES[field] for field in addition.fields), None)
        schema = ref(name) if name else {"type": "object", "additionalProperties": False}
        operation["requestBody"] = {"required": False, "content": {"application/json": {"schema": schema}}}
    return operation


def _evidence(route: EvidenceRoute) -> Schema:
    content = {MEDIA_TYPES[route.part].partition(";")[0]: {"schema": {"type": "string"}}}
    return {
        "operationId": f"clonejob.evidence.{route.part}",
        "summary": "What the serial console of a job's clone showed." if route.part == "console"
                   else "What the screen of a job's clone showed.",
        "description": f"Permission: `{route.permission}`. Its SHA-256 is in `ETag` and `Content-Digest`.",
        "tags": ["clonejob"],
        "responses": {"200": {"description": "The file.", "content": content}, "default": _error()},
    }  # fmt: skip


def _upload(route: UploadRoute) -> Schema:
    operation: Schema = {
        "operationId": f"clonejob.uploads.{route.verb.lower()}",
        "summary": "Upload a disk, whole or in chunks." if route.verb == "PUT" else "How much of a disk has arrived.",
        "description": f"Permission: `{route.permission}`. The protocol is described in docs/rest.md.",
        "tags": ["clonejob"],
        "responses": {"200": _json("The disk.", ref("clonejob.Disk")), "default": _error()},
    }
    if route.verb == "HEAD":
        operation["responses"] = {
            "200": {"description": "As GET, without a body."},
            "default": {"description": "As GET."},
        }
    if route.verb == "PUT":
        operation["responses"]["308"] = _json("Not all has arrived yet; `Range` says what has.", ref("clonejob.Disk"))
        operation["parameters"] = [
            {"name": "format", "in": "query", "required": True, "schema": {"enum": ["raw", "qcow2"]}},
            _header("Content-Range", _RANGE, r"^bytes ([0-9]+-[0-9]+|\*)/([0-9]+|\*)$"),
            _header("Content-Digest", "RFC 9530: sha-256=:BASE64: of this body.", "^sha-256=:[A-Za-z0-9+/=]{44}:$"),
            _header("X-Clonejob-Sha256", "SHA-256 of the whole disk.", "^[0-9a-f]{64}$"),
        ]
        operation["requestBody"] = {"content": {"application/octet-stream": {"schema": {"type": "string"}}}}
    return operation


def _header(name: str, about: str, pattern: str) -> Schema:
    return {"name": name, "in": "header", "required": False, "description": about,
            "schema": {"type": "string", "pattern": pattern}}  # fmt: skip


def _json(about: str, schema: Schema) -> Schema:
    return {"description": about, "content": {"application/json": {"schema": schema}}}


def _error() -> Schema:
    return _json("An error.", ref("clonejob.Error"))


def _tags(paths: dict[str, Schema]) -> set[str]:
    operations = (item[verb] for item in paths.values() for verb in item if verb != "parameters")
    return {tag for operation in operations for tag in operation["tags"]}
