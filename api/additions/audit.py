"""The audit of the targets: what exists that no job accounts for, what is missing, which clean-ups wait.

Both calls are POST: each look is counted, and what is counted becomes proof.
"""

from __future__ import annotations

from typing import Any

from api.additions.jobs import camel
from api.names import LOCATION, check_name
from api.translate import rfc3339
from tasks.audit_report import Audit
from tasks.errors import InvalidArgument
from tasks.orphans import Proof
from tasks.services import Services

Json = dict[str, Any]
FIELDS = frozenset({"target", "quarantineS", "inventories"})
_LONGEST_S, _MOST, _FEWEST = 604_800, 1000, 2


def report(services: Services, name: str, body: Json) -> Json:
    """Hold the inventory of the targets against the database, and report."""
    return _audit(services, name, body, delete=False)


def delete_orphans(services: Services, name: str, body: Json) -> Json:
    """The same, and delete the orphans for which there is proof."""
    return _audit(services, name, body, delete=True)


def _audit(services: Services, name: str, body: Json, *, delete: bool) -> Json:
    check_name("name", name, LOCATION)
    target = body.get("target", "")
    if not isinstance(target, str):
        raise InvalidArgument("target", "must be a string")
    return _json(services.audits.audit(name, target=target, proof=_proof(body), delete=delete))


def _proof(body: Json) -> Proof:
    default = Proof()
    quarantine_s, inventories = (
        body.get("quarantineS", default.quarantine_s),
        body.get("inventories", default.inventories),
    )
    if not _is_within(quarantine_s, 0, _LONGEST_S):
        raise InvalidArgument("quarantineS", f"must be a number of seconds from 0 to {_LONGEST_S}")
    if not _is_within(inventories, _FEWEST, _MOST) or inventories != int(inventories):
        raise InvalidArgument("inventories", f"must be a whole number from {_FEWEST} to {_MOST}")
    return Proof(int(inventories), float(quarantine_s))


def _is_within(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most  # NaN is not


def _json(found: Audit) -> Json:
    return {
        "time": rfc3339(found.time),
        "quarantineS": found.proof.quarantine_s,
        "inventories": found.proof.inventories,
        "targets": [camel(each) for each in found.targets],
        "orphans": [camel(each) for each in found.orphans],
        "deleted": [camel(each) for each in found.deleted],
        "missing": [camel(each) for each in found.missing],
        "strangers": [camel(each) for each in found.strangers],
        "cleanups": [camel(each) for each in found.cleanups],
        "elsewhere": found.elsewhere,
    }
