"""Pruning snapshots: what no job and no clone needs any more goes, and what stays says why."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from models.schema import ReplicationCycle
from targets.adaptation_keeper import AdaptationKeeper
from targets.errors import TransientError
from targets.snapshot_holder import SnapshotHolder
from targets.snapshot_links import clones_of
from targets.snapshot_store import SnapshotStoreError
from tasks.errors import InvalidArgument
from tasks.runtime import Runtime
from tasks.services.references import FORMAT, remove_file


@dataclass(frozen=True, slots=True)
class CycleReport:
    """One cycle. ``kept`` says why its snapshots stay and is empty if they went; ``freed_bytes`` of the disk then."""

    cycle: str
    kept: str
    freed_bytes: int = 0


class SnapshotService:
    """The snapshot store, as its operator sees it."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._catalog = runtime.catalog

    def prune(self, *, keep: int = 1, dry_run: bool = False) -> list[CycleReport]:
        """Remove the snapshots of every older cycle that no running job has pinned and no clone uses.

        ``keep``: how many of each VM's latest successful cycles stay. A dry run changes nothing and says the same.
        Raises: InvalidArgument; TransientError of a target that cannot be looked at: nothing is removed then.
        """
        if keep < 1:
            raise InvalidArgument(
                "keep", "must be at least 1: the latest successful cycle is what a clone is made from"
            )
        held = self._held()
        reports = []
        for stored in self._catalog.stored_cycles(keep):
            why = stored.needed or self._used(stored.cycle, held)
            if not why and not dry_run:
                why = self._catalog.mark_pruned(stored.cycle.name, keep)
            if why:
                reports.append(CycleReport(stored.cycle.name, why))
            else:
                reports.append(self._removed(stored.cycle, dry_run=dry_run))
        self._drop_adaptations(set(), dry_run=dry_run)  # what was left half made
        return reports

    def _held(self) -> AbstractSet[str]:
        holders = [target for target in self._runtime.targets.values() if isinstance(target, SnapshotHolder)]
        return {key for holder in holders for key in holder.held_snapshots()}

    def _used(self, cycle: ReplicationCycle, held: AbstractSet[str]) -> str:
        """A disk that is linked after this look keeps its own name of the file: removing the store's harms nobody."""
        paths = [self._runtime.snapshots.path(each.store_key) for each in cycle.snapshots if each.format != FORMAT]
        clones = max((clones_of(path) for path in paths), default=0)
        old = sum(each.store_key in held for each in cycle.snapshots)
        count = max(clones, old)
        return "" if not count else f"{count} clone{'s' if count > 1 else ''} need{'' if count > 1 else 's'} it"

    def _drop_adaptations(self, keys: AbstractSet[str], *, dry_run: bool) -> int:
        """A result is no disk's only holder of its data: a disk that uses one has its own name of it."""
        keepers = [target for target in self._runtime.targets.values() if isinstance(target, AdaptationKeeper)]
        return sum(keeper.drop_adaptations(keys, dry_run=dry_run) for keeper in keepers)

    def _removed(self, cycle: ReplicationCycle, *, dry_run: bool) -> CycleReport:
        # First: when the rows are gone, nobody would look for them.
        try:
            freed = self._drop_adaptations({each.store_key for each in cycle.snapshots}, dry_run=dry_run)
        except TransientError as error:
            return CycleReport(cycle.name, f"{error} Prune again")
        for snapshot in cycle.snapshots:
            is_file = snapshot.format != FORMAT
            size = self._runtime.snapshots.allocated_bytes(snapshot.store_key) if is_file else 0
            if not dry_run:
                try:
                    remove_file(self._runtime, snapshot)
                except SnapshotStoreError as error:
                    return CycleReport(cycle.name, f"{error} Prune again", freed)
                self._catalog.forget_pruned(snapshot)
            freed += size
        return CycleReport(cycle.name, "", freed)
