"""How much a user may attach to a resource: labels by the rules of Compute Engine, metadata by those of the contract."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tasks.errors import InvalidArgument

MOST_LABELS, MOST_LABEL_CHARACTERS = 64, 63
MOST_METADATA_CHARACTERS = 64 << 10  # of all keys and values (contract)
_KEY, _VALUE = re.compile(r"[a-z][a-z0-9_-]{0,62}"), re.compile(r"[a-z0-9_-]{0,63}")


def check_labels(field: str, labels: Mapping[str, str]) -> None:
    """Raises: InvalidArgument."""
    if len(labels) > MOST_LABELS:
        raise InvalidArgument(field, f"has {len(labels)} labels; at most {MOST_LABELS} are allowed")
    for key, value in sorted(labels.items()):  # a map has no order on the wire; the same request names the same key
        if not _KEY.fullmatch(key):
            raise InvalidArgument(field, f"key {key[:80]!r} must be a lower-case letter and at most"
                                         f" {MOST_LABEL_CHARACTERS - 1} of a-z, 0-9, _ and -")  # fmt: skip
        if not _VALUE.fullmatch(value):
            raise InvalidArgument(field, f"the value of {key} must be at most {MOST_LABEL_CHARACTERS} of a-z, 0-9, _"
                                         f" and -, not {value[:80]!r}")  # fmt: skip


def check_metadata(field: str, metadata: Mapping[str, str]) -> None:
    """Raises: InvalidArgument."""
    size = sum(len(key) + len(value) for key, value in metadata.items())
    if size > MOST_METADATA_CHARACTERS:
        raise InvalidArgument(field, f"has {size} characters; at most {MOST_METADATA_CHARACTERS} are allowed")


def check_attached(resource: str, body: Mapping[str, Any]) -> None:
    """Labels of a resource, and labels and metadata of its target defaults. Raises: InvalidArgument."""
    check_labels(f"{resource}.labels", body.get("labels", {}))
    defaults, field = body.get("computeEngineTargetDefaults") or {}, f"{resource}.compute_engine_target_defaults"
    check_labels(f"{field}.labels", defaults.get("labels", {}))
    check_metadata(f"{field}.metadata", defaults.get("metadata", {}))
