"""How long a MigratingVm lives (contract, section 2.5): 100 days, then it is EXPIRED.

Its life can be extended by another 100 days from 14 days before its end (day 86) until 30 days after it (day 130).
"""

from __future__ import annotations

import datetime as dt

from models.schema import MigratingVm
from models.states import VM_METHODS, VmState

LIFE = dt.timedelta(days=100)
EARLY = dt.timedelta(days=14)
LATE = dt.timedelta(days=30)
EXPIRING = frozenset(VmState) - {VmState.EXPIRED, VmState.FINALIZED_EXPIRED}


def expire_time(vm: MigratingVm) -> dt.datetime:
    """When the VM's life ends, as often as it was extended so far."""
    return vm.create_time + LIFE * (1 + (vm.extension_count or 0))


def extension_window(vm: MigratingVm) -> tuple[dt.datetime, dt.datetime]:
    """From when and until when the VM's life can be extended."""
    end = expire_time(vm)
    return end - EARLY, end + LATE


def extendable(vm: MigratingVm, now: dt.datetime) -> bool:
    """Whether ExtendMigration would succeed now."""
    opens, closes = extension_window(vm)
    return vm.state in VM_METHODS["ExtendMigration"][0] and opens <= now < closes


def expired_state(vm: MigratingVm, now: dt.datetime) -> VmState:
    """The state that the VM has by now, if its time is over; else the one that it has."""
    if now < expire_time(vm) or vm.state not in EXPIRING:
        return vm.state
    return VmState.FINALIZED_EXPIRED if vm.state is VmState.FINALIZED else VmState.EXPIRED
