"""The only writer of a job's state, verdict, lease and ledger.

Every write is guarded: it names in its WHERE what it believes (epoch, lease owner, verdict, state), and a write whose
belief is out of date changes no row, is counted in ``stale_writes`` and raises ``StaleWrite`` (R8). The rows are
locked while a write decides, so that what it read is still so when it commits; the WHERE holds even without the lock.
"""

from __future__ import annotations

from models.store.base import (
    ActiveJobExists,
    CancelRefused,
    Clock,
    CyclePruned,
    JobExists,
    Lease,
    NotReady,
    Settled,
    StaleWrite,
    Timing,
    VmNotCloneable,
    utc_now,
)
from models.store.creating import CreateWrites
from models.store.ledger import LedgerWrites
from models.store.reconciling import ReconcilerWrites
from models.store.steps import StepWrites
from models.store.verdict import VerdictWrites

__all__ = [
    "ActiveJobExists",
    "CancelRefused",
    "Clock",
    "CyclePruned",
    "JobExists",
    "JobStore",
    "Lease",
    "NotReady",
    "Settled",
    "StaleWrite",
    "Timing",
    "VmNotCloneable",
    "utc_now",
]  # fmt: skip


class JobStore(CreateWrites, StepWrites, VerdictWrites, LedgerWrites, ReconcilerWrites):
    """Guarded writes on clone jobs. Thread-safe; one instance per process."""
