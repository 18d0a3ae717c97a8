"""System parameters of REST that change how an answer is written: ``alt`` and ``fields``, with or without ``$``.

``fields`` is Google's partial response: ``a,b(c,d),e/f`` keeps a, of b the fields c and d, and of e the field f; ``*``
stands for every field, lists are gone through element by element, and names may be in camelCase or proto names. It is
read, and held against the answer's type, before the call is made: a selector that is refused has changed nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from api.names import shown
from tasks.errors import InvalidArgument

Selection = dict[str, "Selection | None"]  # by field; None keeps all of it
_MOST_DEPTH = 20
_TOKEN = re.compile(r"[\w@.*-]+|[,()/]", re.ASCII)
_ALT = {"": False, "json": False, "json;enum-encoding=int": True, "json;enum-encoding=string": False}
_ALT_NAMES, _FIELDS_NAMES = ("alt", "$alt"), ("fields", "$fields")
_FREE = "google.protobuf.Any"  # its fields are those of whatever it holds


@dataclass(frozen=True, slots=True)
class Form:
    """How an answer is to be written; ``selection`` None keeps all of it."""

    enums_as_integers: bool = False
    selection: Selection | None = None

    def shape(self, answer: Any) -> Any:
        """The selected part of the answer's JSON."""
        return answer if self.selection is None else _kept(self.selection, answer)


WHOLE = Form()


def read_form(query: list[tuple[str, str]], descriptor: Descriptor | None) -> Form:
    """The form that the query asks for; ``descriptor`` of the answer, None for JSON that has none.

    Raises: InvalidArgument for another ``alt`` than JSON, and for a selector that is malformed or names no field.
    """
    if not query:
        return WHOLE
    integers, selectors = False, []
    for name, value in query:
        if name in _ALT_NAMES:
            integers = _enums_as_integers(name, value) or integers
        elif name in _FIELDS_NAMES and value:
            selectors.append(value)
    if not selectors:
        return Form(integers)
    selection = _Parser(",".join(selectors)).whole()
    return Form(integers, _checked(selection, descriptor, "") if descriptor is not None else selection)


def _enums_as_integers(name: str, value: str) -> bool:
    try:
        return _ALT[value.lower().replace(" ", "")]
    except KeyError:
        raise InvalidArgument(
            name,
            f"{shown(value)} is not served; answers are JSON: alt=json, or alt=json;enum-encoding=int for enums as"
            " integers",
        ) from None


class _Parser:
    """selector = path *("," path); path = name *("/" name) ["(" selector ")"]."""

    def __init__(self, text: str) -> None:
        self._tokens = _TOKEN.findall(text)[::-1]
        if sum(map(len, self._tokens)) != len(text):
            raise _malformed("only names, commas, slashes and parentheses may stand in it")

    def whole(self) -> Selection:
        found = self._selector(1)
        if self._tokens:
            raise _malformed(f"{shown(self._tokens[-1])} is not expected where it stands")
        return found

    def _selector(self, depth: int) -> Selection:
        found = self._path(depth)
        while self._take(","):
            found = _union(found, self._path(depth)) or {}
        return found

    def _path(self, depth: int) -> Selection:
        if depth > _MOST_DEPTH:
            raise _malformed(f"it is nested more than {_MOST_DEPTH} deep")
        name = self._tokens.pop() if self._tokens else ""
        if name in ("", ",", "(", ")", "/"):
            raise _malformed(f"a name is missing before {shown(name)}" if name else "a name is missing at its end")
        below: Selection | None = None
        if self._take("/"):
            below = self._path(depth + 1)
        elif self._take("("):
            below = self._selector(depth + 1)
            if not self._take(")"):
                raise _malformed("a closing parenthesis is missing")
        return {name: below}

    def _take(self, token: str) -> bool:
        if not self._tokens or self._tokens[-1] != token:
            return False
        self._tokens.pop()
        return True


def _malformed(why: str) -> InvalidArgument:
    return InvalidArgument("fields", f"is no selector such as a,b(c,d),e/f: {why}")


def _union(one: Selection | None, other: Selection | None) -> Selection | None:
    if one is None or other is None:
        return None
    both = {**one, **other}
    return {name: _union(one[name], other[name]) if name in one and name in other else both[name] for name in both}


def _checked(selection: Selection, message: Descriptor, path: str) -> Selection:
    """The selection with the names that fields have in JSON. Raises: InvalidArgument for a name that is no field's."""
    found: Selection = {}
    for name, below in selection.items():
        if name == "*":  # what is below is of different types
            found["*"] = below
            continue
        field = next((each for each in message.fields if name in (each.name, each.json_name)), None)
        if field is None:
            raise InvalidArgument("fields", f"{message.name} has no field {shown(path + name)}", reason="UNKNOWN_FIELD")
        key = field.json_name
        made = below if below is None else _below(field, below, f"{path}{name}/")
        found[key] = _union(found[key], made) if key in found else made
    return found


def _below(field: FieldDescriptor, selection: Selection, path: str) -> Selection:
    message = field.message_type
    if message is not None and message.GetOptions().map_entry:
        value = message.fields_by_name["value"]
        return {
            key: below if below is None else _below(value, below, f"{path}{key}/") for key, below in selection.items()
        }
    if message is None or (message.full_name.startswith("google.protobuf.") and message.full_name != _FREE):
        raise InvalidArgument(
            "fields", f"{shown(path.rstrip('/'))} is a plain value without fields", reason="UNKNOWN_FIELD"
        )
    return selection if message.full_name == _FREE else _checked(selection, message, path)


def _kept(selection: Selection, value: Any) -> Any:
    if isinstance(value, list):
        return [_kept(selection, each) for each in value]
    if not isinstance(value, dict):
        return value
    found = {}
    for key, each in value.items():
        chosen = [selection[name] for name in (key, "*") if name in selection]
        if not chosen:
            continue
        below = chosen[0] if len(chosen) == 1 else _union(*chosen)
        if below is None or isinstance(each, dict | list):
            found[key] = each if below is None else _kept(below, each)
    return found
