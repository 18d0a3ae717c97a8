"""Where a VM's clones go: its target defaults are in one of two fields of the contract (oneof ``target_vm_defaults``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from models.schema import MigratingVm

VM_DEFAULTS, DISKS_DEFAULTS = "computeEngineTargetDefaults", "computeEngineDisksTargetDefaults"
# In CloneJob.target_details of a job whose VM has DISKS_DEFAULTS: all that was planned; nothing else is there then.
DISKS_TARGET = "computeEngineDisksTarget"


def target_project_of(body: Mapping[str, Any]) -> str:
    """The name of the target project that a VM's body has, or nothing."""
    given = body.get(VM_DEFAULTS) or body.get(DISKS_DEFAULTS) or {}
    return str(given.get("targetProject", ""))


def target_project() -> sa.ColumnElement[str]:
    """The same in SQL; NULL if there is none."""
    found = (MigratingVm.body[(field, "targetProject")].as_string() for field in (VM_DEFAULTS, DISKS_DEFAULTS))
    return sa.func.coalesce(*found)
