"""The methods of the contract that are not covered: cut-over, groups, image import, disk migration, data centre
connectors, utilization reports and inventories. They answer UNIMPLEMENTED, over REST with HTTP 501.

Generated once from the official client's REST transport (google-cloud-vm-migration 1.18.0); a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass

from api import names
from api.methods import COVERED, LOCATIONS, OPERATIONS, VM_MIGRATION
from tasks.errors import Unimplemented

KNOWN_SERVICES = (VM_MIGRATION, OPERATIONS, LOCATIONS)

# Rpc, verb, path below /v1/; @L, @S and @V stand for the names of a location, a source and a migrating VM.
_TABLE = """
AddGroupMigration POST {group=@L/groups/*}:addGroupMigration
CancelCutoverJob POST {name=@V/cutoverJobs/*}:cancel
CancelDiskMigrationJob POST {name=@S/diskMigrationJobs/*}:cancel
CancelImageImportJob POST {name=@L/imageImports/*/imageImportJobs/*}:cancel
CreateCutoverJob POST {parent=@V}/cutoverJobs
CreateDatacenterConnector POST {parent=@S}/datacenterConnectors
CreateDiskMigrationJob POST {parent=@S}/diskMigrationJobs
CreateGroup POST {parent=@L}/groups
CreateImageImport POST {parent=@L}/imageImports
CreateUtilizationReport POST {parent=@S}/utilizationReports
DeleteDatacenterConnector DELETE {name=@S/datacenterConnectors/*}
DeleteDiskMigrationJob DELETE {name=@S/diskMigrationJobs/*}
DeleteGroup DELETE {name=@L/groups/*}
DeleteImageImport DELETE {name=@L/imageImports/*}
DeleteUtilizationReport DELETE {name=@S/utilizationReports/*}
FetchInventory GET {source=@S}:fetchInventory
FetchStorageInventory GET {source=@S}:fetchStorageInventory
GetCutoverJob GET {name=@V/cutoverJobs/*}
GetDatacenterConnector GET {name=@S/datacenterConnectors/*}
GetDiskMigrationJob GET {name=@S/diskMigrationJobs/*}
GetGroup GET {name=@L/groups/*}
GetImageImport GET {name=@L/imageImports/*}
GetImageImportJob GET {name=@L/imageImports/*/imageImportJobs/*}
GetUtilizationReport GET {name=@S/utilizationReports/*}
ListCutoverJobs GET {parent=@V}/cutoverJobs
ListDatacenterConnectors GET {parent=@S}/datacenterConnectors
ListDiskMigrationJobs GET {parent=@S}/diskMigrationJobs
ListGroups GET {parent=@L}/groups
ListImageImportJobs GET {parent=@L/imageImports/*}/imageImportJobs
ListImageImports GET {parent=@L}/imageImports
ListUtilizationReports GET {parent=@S}/utilizationReports
RemoveGroupMigration POST {group=@L/groups/*}:removeGroupMigration
RunDiskMigrationJob POST {name=@S/diskMigrationJobs/*}:run
UpdateDiskMigrationJob PATCH {disk_migration_job.name=@S/diskMigrationJobs/*}
UpdateGroup PATCH {group.name=@L/groups/*}
UpgradeAppliance POST {datacenter_connector=@S/datacenterConnectors/*}:upgradeAppliance
"""


@dataclass(frozen=True)
class Uncovered:
    """One method of the contract without a handler."""

    rpc: str
    verb: str
    path: str


def _parse() -> tuple[Uncovered, ...]:
    table = _TABLE.replace("@L", names.LOCATION).replace("@S", names.SOURCE).replace("@V", names.MIGRATING_VM)
    rows = (line.split(" ") for line in table.strip().splitlines())
    return tuple(Uncovered(rpc, verb, "/v1/" + path) for rpc, verb, path in rows)


UNCOVERED = _parse()


def not_covered(rpc: str) -> Unimplemented:
    """The answer to a method without a handler: what it was, and what is covered."""
    return Unimplemented(f"{rpc} is not covered by this service; covered are: {COVERED}", metadata={"method": rpc})
