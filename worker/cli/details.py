"""ComputeEngineTargetDetails as JSON on the command line: what nobody would read is refused, not ignored."""

from __future__ import annotations

import difflib
import json
from typing import TYPE_CHECKING, Any

from worker.cli.errors import CliError, ExitCode

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor

Json = dict[str, Any]


def details_of(text: str) -> Json:
    """The details, with the contract's JSON names. Raises: CliError, which names a field that there is not."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise CliError('--details is not a JSON object: write it like {"zone": "europe-west1-b"}', ExitCode.USAGE)
    if not value:
        return {}
    # Takes a second to import, so only for who gives details.
    from google.cloud import vmmigration_v1
    from google.protobuf import json_format

    message = vmmigration_v1.ComputeEngineTargetDetails.pb()()
    _refuse_unknown(message.DESCRIPTOR, value, "")
    try:
        json_format.ParseDict(value, message)
    except json_format.ParseError as error:
        raise CliError(f"--details: {str(error).splitlines()[0].rstrip('.')}", ExitCode.USAGE) from None
    found: Json = json_format.MessageToDict(message)
    return found


def _refuse_unknown(descriptor: Descriptor, value: Json, path: str) -> None:
    fields = {name: field for field in descriptor.fields for name in (field.json_name, field.name)}
    for name, part in value.items():
        if name not in fields:
            near = difflib.get_close_matches(name, sorted({field.json_name for field in descriptor.fields}), cutoff=0.5)
            there = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(_names(descriptor))}"
            raise CliError(f"--details: {descriptor.name} has no field {(path + name)[:80]!r}; {there}", ExitCode.USAGE)
        inner = fields[name].message_type
        if inner is None or inner.GetOptions().map_entry:
            continue
        for each in part if isinstance(part, list) else [part]:
            if isinstance(each, dict):
                _refuse_unknown(inner, each, f"{path}{name}.")


def _names(descriptor: Descriptor) -> list[str]:
    return sorted(field.json_name for field in descriptor.fields)
