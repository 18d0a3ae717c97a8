"""Path templates of google.api.http as regular expressions.

The last segment of a path excludes ``:`` so that ``{name}:cancel`` and ``{name}`` never match the same path
(seen on the wire of the official clients). Matching is done on the undecoded path; each variable is decoded on its own, so that an encoded
slash stays inside its segment and is then refused as an illegal name.
"""

from __future__ import annotations

import functools
import re
import urllib.parse

from tasks.errors import InvalidArgument

_VARIABLE = re.compile(r"\{(?P<field>[\w.]+)(?:=(?P<pattern>[^}]+))?\}")


@functools.cache
def compile_template(template: str) -> tuple[re.Pattern[str], tuple[str, ...]]:
    """The expression for ``/v1/{name=projects/*}:verb`` and the field paths of its groups, in order."""
    fields: list[str] = []
    parts: list[str] = []
    position = 0
    for match in _VARIABLE.finditer(template):
        parts.append(re.escape(template[position : match.start()]))
        position = match.end()
        rest = template[position:]
        parts.append(f"({_segments(match['pattern'] or '*', last='/' not in rest)})")
        fields.append(match["field"])
    parts.append(re.escape(template[position:]))
    return re.compile("".join(parts)), tuple(fields)


def match_path(template: str, raw_path: str) -> dict[str, str] | None:
    """The decoded variables of ``raw_path``, or None if the template does not match it.

    Raises: InvalidArgument if a variable is not UTF-8 once it is decoded.
    """
    expression, fields = compile_template(template)
    match = expression.fullmatch(raw_path)
    if match is None:
        return None
    return {field: _decoded(field, value) for field, value in zip(fields, match.groups(), strict=True)}


def _segments(pattern: str, *, last: bool) -> str:
    parts = [r"[^/]+" if part == "*" else re.escape(part) for part in pattern.split("/")]
    if last and pattern.endswith("*"):
        parts[-1] = r"[^/:]+"
    return "/".join(parts)


def _decoded(field: str, value: str) -> str:
    try:
        return urllib.parse.unquote(value, errors="strict")
    except UnicodeDecodeError:
        raise InvalidArgument(field, "is not UTF-8 once it is URL-decoded", reason="INVALID_ENCODING") from None
