"""Which cycles' snapshots may be pruned, decided under the lock that creating a clone job takes.

A cycle that is marked as pruned is never pinned again (``models/store/creating.py`` looks at the same row), so its files
can be removed after the transaction, by anybody, at any later time: rows of snapshots that are left are files to remove.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from models.catalog_base import CatalogBase
from models.cycles import OPEN
from models.io_points import io_point
from models.schema import CloneJob, MigratingVm, ReplicationCycle, Snapshot
from models.states import CycleState
from models.store.graveyard import PREFIX


@dataclass(frozen=True, slots=True)
class StoredCycle:
    """A cycle that has snapshots, and why it must keep them; empty if it need not."""

    cycle: ReplicationCycle
    needed: str


_WITH_FILES = sa.select(Snapshot.cycle).where(
    Snapshot.format != "reference"
)  # what lies at a provider is not ours to prune


class PruneWrites(CatalogBase):
    """Pruning the snapshots of older cycles."""

    @io_point("catalog.stored_cycles")
    def stored_cycles(self, keep: int) -> Sequence[StoredCycle]:
        """Every cycle with snapshots that are files, those of deleted VMs too, oldest first. ``keep``: how many of each VM's latest
        successful cycles stay, at least 1."""
        cls = ReplicationCycle
        stored = sa.select(cls).where(cls.name.in_(_WITH_FILES)).order_by(cls.parent, cls.cycle_number)
        with self._reader() as session:
            return [StoredCycle(cycle, _needed(session, cycle, keep)) for cycle in session.scalars(stored)]

    @io_point("catalog.mark_pruned")
    def mark_pruned(self, name: str, keep: int) -> str:
        """Decide that no job pins the cycle any more. What is said is why not; empty if it is decided."""
        with self._sessions.begin() as session:
            # The VM first, as in every write that locks both; creating a job locks the same two rows.
            vm = session.get(MigratingVm, name.rsplit("/replicationCycles/", 1)[0], with_for_update=True)
            cycle = session.get(ReplicationCycle, name, with_for_update=True)
            if vm is None or cycle is None:
                return "its VM was deleted meanwhile; prune again"
            if why := _needed(session, cycle, keep):
                return why
            cycle.pruned_time = cycle.pruned_time or self.clock()
            return ""

    @io_point("catalog.forget_pruned")
    def forget_pruned(self, snapshot: Snapshot) -> None:
        """Drop the row of a pruned cycle's snapshot whose file is gone."""
        pruned = sa.select(ReplicationCycle.name).where(ReplicationCycle.pruned_time.is_not(None))
        with self._sessions.begin() as session:
            session.execute(
                sa.delete(Snapshot).where(
                    Snapshot.cycle == snapshot.cycle,
                    Snapshot.disk_number == snapshot.disk_number,
                    Snapshot.cycle.in_(pruned),
                )
            )


def _needed(session: Session, cycle: ReplicationCycle, keep: int) -> str:
    if cycle.pruned_time is not None:
        return ""
    if cycle.state in OPEN:
        return "it is still being uploaded"
    job = session.scalar(sa.select(CloneJob.name).where(CloneJob.cycle == cycle.name, CloneJob.end_time.is_(None)))
    if job is not None:
        return f"the running clone job {job} has pinned it"
    if cycle.state is not CycleState.SUCCEEDED or cycle.parent.startswith(PREFIX):
        return ""
    newer = sa.select(sa.func.count()).where(
        ReplicationCycle.parent == cycle.parent,
        ReplicationCycle.state == CycleState.SUCCEEDED,
        ReplicationCycle.cycle_number > cycle.cycle_number,
    )
    if (session.scalar(newer) or 0) >= max(keep, 1):
        return ""
    return (
        "it is the VM's latest successful cycle" if keep <= 1 else f"it is one of the VM's {keep} latest that succeeded"
    )
