"""The published description of the API, and the check of a request against it.

It ships with google-api-python-client. What it does not know is refused: paths, verbs, query parameters, fields of a body,
types, values of an enumeration, and fields that the API only ever answers with.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

Json = dict[str, Any]
_INTEGERS = {"int32": 32, "uint32": 32, "int64": 64, "uint64": 64}


class BadRequest(Exception):
    """The request is not one that the description knows; ``reason`` as in the API's errors."""

    def __init__(self, message: str, reason: str = "invalid") -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Call:
    """A request that the description knows. ``method`` is such as ``disks.insert``."""

    method: str
    path: Mapping[str, str]
    query: Mapping[str, str]
    body: Json


class Description:
    """One discovery document."""

    def __init__(self, document: Json) -> None:
        self.schemas = document["schemas"]
        self.base = document["basePath"].strip("/").split("/")
        self._common = document["parameters"]
        self._by_shape: dict[tuple[str, int], list[tuple[list[str], str, Json]]] = {}
        for name, method in _methods(document["resources"]):
            segments = method["path"].split("/")
            self._by_shape.setdefault((method["httpMethod"], len(segments)), []).append((segments, name, method))

    def check(self, verb: str, path: str, query: Mapping[str, list[str]], body: bytes) -> Call:
        """Raises: BadRequest, LookupError for a path that is unknown."""
        segments = [unquote(each) for each in path.strip("/").split("/")]
        if segments[: len(self.base)] != self.base:
            raise LookupError(path)
        name, method, variables = self._match(verb, segments[len(self.base) :])
        for key, value in variables.items():
            pattern = method["parameters"][key].get("pattern")
            if pattern and not re.fullmatch(pattern, value):
                raise BadRequest(f"Invalid value for field '{key}': '{value}'. Must be a match of regex '{pattern}'")
        return Call(name, variables, self._query(method, query), self._body(name, method, body))

    def _match(self, verb: str, segments: list[str]) -> tuple[str, Json, dict[str, str]]:
        for template, name, method in self._by_shape.get((verb, len(segments)), ()):
            pairs = list(zip(template, segments, strict=True))
            if all(want == got or want.startswith("{") for want, got in pairs):
                return name, method, {want.strip("{+}"): got for want, got in pairs if want.startswith("{")}
        raise LookupError("/".join(segments))

    def _query(self, method: Json, query: Mapping[str, list[str]]) -> dict[str, str]:
        known = {**self._common, **{k: v for k, v in method["parameters"].items() if v["location"] == "query"}}
        for key, values in query.items():
            if key not in known:
                raise BadRequest(f"Unknown query parameter '{key}'", "invalidParameter")
            for value in values:
                self._scalar(f"parameter '{key}'", known[key], _typed(known[key], value))
        return {key: values[-1] for key, values in query.items()}

    def _body(self, name: str, method: Json, raw: bytes) -> Json:
        if "request" not in method:
            if raw:
                raise BadRequest(f"{name} takes no body")
            return {}
        try:
            body = json.loads(raw or b"{}")
        except ValueError:
            raise BadRequest("Parse error", "parseError") from None
        self._value("", {"$ref": method["request"]["$ref"]}, body)
        for field, schema in self.schemas[method["request"]["$ref"]]["properties"].items():
            if f"compute.{name}" in schema.get("annotations", {}).get("required", ()) and field not in body:
                raise BadRequest(f"Required field '{field}' not specified", "required")
        return body

    def _value(self, where: str, schema: Json, value: Any) -> None:
        if "$ref" in schema:
            schema = self.schemas[schema["$ref"]]
        kind = schema.get("type")
        if kind == "object":
            self._object(where, schema, value)
        elif kind == "array":
            if not isinstance(value, list):
                raise BadRequest(f"Invalid value for field '{where}': not a list")
            for at, each in enumerate(value):
                self._value(f"{where}[{at}]", schema["items"], each)
        elif kind != "any":
            self._scalar(f"field '{where}'", schema, value)

    def _object(self, where: str, schema: Json, value: Any) -> None:
        if not isinstance(value, dict):
            raise BadRequest(f"Invalid value for field '{where}': not an object")
        properties, more = schema.get("properties", {}), schema.get("additionalProperties")
        for key, each in value.items():
            inner = properties.get(key, more)
            place = f"{where}.{key}" if where else key
            if inner is None:
                raise BadRequest(f'Invalid JSON payload received. Unknown name "{place}": Cannot find field.')
            if key in properties and "[Output Only]" in inner.get("description", "")[:40]:
                raise BadRequest(f"Invalid value for field '{place}': it is output only")
            self._value(place, inner, each)

    @staticmethod
    def _scalar(where: str, schema: Json, value: Any) -> None:
        kind, shape = schema["type"], schema.get("format", "")
        if kind == "string" and shape in _INTEGERS:
            fits = isinstance(value, str) and re.fullmatch(r"-?[0-9]+", value) is not None
        elif kind == "string":
            fits = isinstance(value, str)
        elif kind == "boolean":
            fits = isinstance(value, bool)
        elif kind == "integer":
            fits = isinstance(value, int) and not isinstance(value, bool)
        else:
            fits = isinstance(value, int | float) and not isinstance(value, bool)
        if not fits:
            raise BadRequest(f"Invalid value for {where}: {value!r} is no {kind} {shape}".rstrip())
        if "enum" in schema and value not in schema["enum"]:
            raise BadRequest(f"Invalid value for {where}: {value!r}")
        if kind == "string" and "pattern" in schema and not re.fullmatch(schema["pattern"], value):
            raise BadRequest(f"Invalid value for {where}: {value!r}. Must be a match of regex '{schema['pattern']}'")


def _typed(schema: Json, text: str) -> Any:
    """A query parameter's text as a value of its type, or as it is."""
    if schema["type"] == "boolean" and text in ("true", "false"):
        return text == "true"
    if schema["type"] == "integer" and re.fullmatch(r"-?[0-9]+", text):
        return int(text)
    return text


def _methods(resources: Json, prefix: str = "") -> Iterator[tuple[str, Json]]:
    for name, resource in resources.items():
        for method, body in resource.get("methods", {}).items():
            yield f"{prefix}{name}.{method}", {"parameters": {}, **body}
        yield from _methods(resource.get("resources", {}), f"{prefix}{name}.")


@functools.cache
def compute_v1() -> Description:
    """The description of Compute Engine's v1."""
    import googleapiclient

    folder = Path(googleapiclient.__file__).parent / "discovery_cache" / "documents"
    return Description(json.loads((folder / "compute.v1.json").read_text()))
