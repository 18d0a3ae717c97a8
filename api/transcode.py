"""HTTP to request messages and messages to JSON, by the rules of google.api.http and proto3 JSON.

A path variable that the body has as well must be the same there, query parameters may be in camelCase or in proto names,
system parameters (``prettyPrint``, ``key`` …) are accepted and, but for those of ``system_parameters``, ignored (seen on
the wire of the official clients).
"""

from __future__ import annotations

import re
import urllib.parse
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from api.json_text import to_dict
from api.methods import Method
from api.names import shown
from api.texts import check_texts
from tasks.errors import InvalidArgument

Query = list[tuple[str, str]]
_SYSTEM = frozenset({
    "access_token", "alt", "callback", "fields", "key", "oauth_token", "prettyPrint", "quotaUser", "userIp",
    "uploadType", "upload_protocol",
})  # fmt: skip
_BOOLS = {"true": True, "1": True, "false": False, "0": False}
_UNKNOWN = re.compile(r'has no field named "([^"]*)" at "([^"]*)"')
_PARENTS = re.compile(r"Failed to parse (\w+) field")
_PLACE = re.compile(r" at \w+\.([\w.\[\]]*\w)\.*$")  # below the type of the message
_PLAIN = (  # json_format hands on what Python says
    ("must be in [] which is", "must be a list"),
    ("must be in a dict which is", "must be a JSON object"),
    ("parse duration", 'must be a duration in seconds, such as "3.5s"'),
    ("string or bytes-like", "must be a string"),
    ("invalid literal for int", "must be an integer"),
    ("could not convert string to float", "must be a number"),
    ("unhashable type", "has the wrong JSON type"),
    ("object is not", "has the wrong JSON type"),
    ("object has no", "has the wrong JSON type"),
    ("indices must be", "has the wrong JSON type"),
)


def parse_query(raw: bytes) -> Query:
    """The query string as pairs, blanks kept.

    Raises: InvalidArgument if it is not UTF-8 or has too many parameters.
    """
    try:
        return urllib.parse.parse_qsl(
            raw.decode("ascii", "strict"), keep_blank_values=True, errors="strict", max_num_fields=100
        )
    except ValueError:  # UnicodeDecodeError is one
        raise InvalidArgument("query", "is not a legal query string in UTF-8", reason="INVALID_ENCODING") from None


def to_request(method: Method, variables: dict[str, str], query: Query, body: bytes) -> Message:
    """The request message of a REST call.

    Raises: InvalidArgument, which names the field.
    """
    request: Message = method.request()
    if method.body:
        target = request if method.body == "*" else getattr(request, method.body)
        target.SetInParent()
        parse_body(target, body, "" if method.body == "*" else method.body)
    bound = {name.split(".")[0] for name in variables} | {method.body}
    _parse_query_fields(request, query, bound, allowed=method.body != "*", ignored=method.ignored)
    for path, value in variables.items():
        _set(request, path.split("."), value)
    check_texts(request)
    return request


def parse_body(message: Message, body: bytes, prefix: str) -> None:
    """Fill ``message`` from a JSON body; an empty body is an empty message.

    Raises: InvalidArgument, which names the field below ``prefix``.
    """
    text = body.strip()
    if not text:
        return
    if not text.startswith(b"{"):  # json_format takes an empty list for an empty message
        raise InvalidArgument(prefix or "body", "is not a JSON object in UTF-8", reason="INVALID_JSON")
    try:
        json_format.Parse(body, message)
    except json_format.ParseError as error:
        raise _body_error(str(error), prefix, message) from None
    except (UnicodeDecodeError, RecursionError, ValueError, TypeError, AttributeError):
        raise InvalidArgument(prefix or "body", "is not a JSON object in UTF-8", reason="INVALID_JSON") from None


def to_json(message: Message, *, enums_as_integers: bool) -> dict[str, Any]:
    """proto3 JSON of a response."""
    if not enums_as_integers:
        return to_dict(message)
    result: dict[str, Any] = json_format.MessageToDict(message, use_integers_for_enums=True)
    return result


def _body_error(text: str, prefix: str, message: Message) -> InvalidArgument:
    """json_format speaks of the path in words; the contract wants it as a field. ``message``: as far as it came."""
    if unknown := _UNKNOWN.search(text):
        below = unknown[2].split(".")[1:]  # its path starts with the type of the message
        field = ".".join([*([prefix] if prefix else []), *below, unknown[1]])
        return InvalidArgument(field, "no such field in this message", reason="UNKNOWN_FIELD")
    if text.startswith("Failed to load JSON"):
        return InvalidArgument(prefix or "body", f"is not JSON: {text}", reason="INVALID_JSON")
    path = _within(message, _PARENTS.findall(text))
    if "must be in [" not in text and (place := _PLACE.search(text)):
        path = re.sub(r"\[\w*\]", "", place[1]).split(".")
    return InvalidArgument(".".join(part for part in [prefix, *path] if part) or "body", _plain(text))


def _within(message: Message, path: list[str]) -> list[str]:
    """The whole path: json_format leaves out members of a oneof, which are set in the message by then."""
    found: list[str] = []
    for part in path:
        current: Any = message
        while current is not None and _query_field(current.DESCRIPTOR, part) is None:
            inner = [f for f, value in current.ListFields() if f.containing_oneof and isinstance(value, Message)]
            inner = [f for f in inner if _reaches(getattr(current, f.name), part)]
            if len(inner) != 1:
                return [*found, *path[path.index(part) :]]
            found.append(inner[0].json_name)
            current = getattr(current, inner[0].name)
        found.append(part)
        value = getattr(current, _name(current, part), None)
        message = value if isinstance(value, Message) else _last(value)
        if message is None:
            return [*found, *path[path.index(part) + 1 :]]
    return found


def _reaches(message: Message, name: str) -> bool:
    return _query_field(message.DESCRIPTOR, name) is not None


def _name(message: Message, json_name: str) -> str:
    field = _query_field(message.DESCRIPTOR, json_name)
    return field.name if field is not None else json_name


def _last(value: Any) -> Any:
    """Of a list of messages the one that was being read."""
    try:
        return value[-1] if isinstance(value[-1], Message) else None
    except (TypeError, LookupError, AttributeError):
        return None


def _plain(text: str) -> str:
    """The reason in words for people who do not see this code."""
    for sign, plain in _PLAIN:
        if sign in text:
            return plain
    return _PLACE.sub("", text.rpartition("field: ")[2]).rstrip(".")


def _parse_query_fields(
    request: Message, query: Query, bound: set[str], *, allowed: bool, ignored: frozenset[str]
) -> None:
    seen: dict[str, list[str]] = {}
    for name, value in query:
        if name.startswith("$") or name in _SYSTEM or name in ignored:
            continue
        field = _query_field(request.DESCRIPTOR, name)
        if field is None or field.name in bound or not allowed:
            raise InvalidArgument(name[:80], "no such query parameter for this method", reason="UNKNOWN_FIELD")
        seen.setdefault(field.name, []).append(value)
    for name, values in seen.items():
        field = request.DESCRIPTOR.fields_by_name[name]
        if len(values) > 1 and not field.is_repeated:
            raise InvalidArgument(name, "is given more than once")
        if values != [""]:
            _set_query(request, field, values)


def _query_field(descriptor: Descriptor, name: str) -> FieldDescriptor | None:
    for field in descriptor.fields:
        if name in (field.name, field.json_name):
            return field
    return None


def _set_query(request: Message, field: FieldDescriptor, values: list[str]) -> None:
    converted = [_query_value(field, value) for value in values]
    try:
        json_format.ParseDict({field.json_name: converted if field.is_repeated else converted[0]}, request)
    except json_format.ParseError as error:
        raise InvalidArgument(field.name, f"{shown(values[0])} is not legal here: {_plain(str(error))}") from None
    except UnicodeEncodeError:
        raise InvalidArgument(field.name, "is not legal Unicode", reason="INVALID_ENCODING") from None


def _query_value(field: FieldDescriptor, value: str) -> Any:
    if field.type == FieldDescriptor.TYPE_BOOL:
        return _BOOLS.get(value.lower(), value)
    if field.message_type is not None and field.message_type.full_name == "google.protobuf.FieldMask":
        # proto3 JSON writes masks in camelCase; people write proto names. Both mean the same field.
        return ",".join(_camel(path) for path in value.split(","))
    return value


def _camel(path: str) -> str:
    return re.sub(r"_([a-z0-9])", lambda match: match[1].upper(), path)


def _set(message: Any, path: list[str], value: str) -> None:
    for part in path[:-1]:
        message = getattr(message, part)
    if (given := getattr(message, path[-1])) not in ("", value):  # AIP-134: nobody guesses which one is meant
        raise InvalidArgument(".".join(path), f"is {shown(given)} in the body, and {shown(value)} in the URL")
    setattr(message, path[-1], value)
