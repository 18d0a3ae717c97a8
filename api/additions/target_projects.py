"""How the clones of a target project get their disks: a choice that the contract's TargetProject has no field for."""

from __future__ import annotations

from typing import Any

from api.names import TARGET_PROJECT, check_name
from tasks.errors import InvalidArgument
from tasks.services import Services
from tasks.services.target_projects import CloneModes

Json = dict[str, Any]
CLONE_MODE_FIELDS = frozenset({"cloneMode"})


def clone_mode(services: Services, name: str, _body: Json) -> Json:
    """What is chosen, what is used and what there is."""
    return _shown(services.target_projects.clone_modes(check_name("name", name, TARGET_PROJECT)))


def set_clone_mode(services: Services, name: str, body: Json) -> Json:
    """Choose; empty: as the target is configured. Jobs that were created before keep theirs."""
    check_name("name", name, TARGET_PROJECT)
    mode = body.get("cloneMode")
    if not isinstance(mode, str):
        raise InvalidArgument("cloneMode", "must be a string; an empty one leaves it to the target's configuration")
    return _shown(services.target_projects.set_clone_mode(name, mode))


def _shown(found: CloneModes) -> Json:
    return {"targetProject": found.name, "target": found.target, "cloneMode": found.chosen,
            "usedCloneMode": found.used or None, "cloneModes": list(found.modes)}  # fmt: skip
