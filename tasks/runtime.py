"""What use-cases and steps need, handed in by the composition root; nothing below reads the environment."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from models.catalog import Catalog
from models.store import Clock, JobStore, utc_now
from targets.base import Target
from targets.snapshot_store import FileSnapshotStore
from targets.uploads import PartialUploads
from tasks.evidence import EvidenceStore


class Publisher(Protocol):
    """Sends the hints that there may be work. A message may be lost: the reconciler finds the row.

    No method raises when the broker does not answer; each says whether it was sent.
    """

    def steps(self, job_id: str, epoch: int, first: int, kinds: tuple[str, ...]) -> bool:
        """Send the chain of the steps from position ``first`` on, ending in ``finish``."""

    def cleanup(self, job_id: str, epoch: int) -> bool:
        """Send the clean-up of a cancelled or failed job."""


@dataclass(frozen=True, slots=True)
class Pacing:
    """How steps wait and retry. Units in the names.

    ``inline_wait_s``: how long a step looks again by itself before it gives its worker slot back.
    ``delete_wait_s``: the same for a clean-up, whose deletes are mostly through in a moment.
    ``step_attempts``: claims of one step that may end in a crash or a retryable error before the job fails.
    """

    inline_wait_s: float = 1.0
    delete_wait_s: float = 0.5
    poll_s: float = 1.0
    step_attempts: int = 5
    retry_pause_s: float = 1.0
    retry_pause_max_s: float = 60.0
    step_timeout_s: float = 3600.0
    boot_timeout_s: float = 60.0
    cleanup_pause_s: float = 1.0
    cleanup_pause_max_s: float = 300.0

    def retry_in_s(self, attempt: int) -> float:
        """Growing pause with jitter before attempt number ``attempt + 1``."""
        return _growing(self.retry_pause_s, self.retry_pause_max_s, attempt)

    def cleanup_in_s(self, attempt: int) -> float:
        """Growing pause with jitter before the next look of a clean-up that could not finish."""
        return _growing(self.cleanup_pause_s, self.cleanup_pause_max_s, attempt)


@dataclass(frozen=True, slots=True)
class BootPolicy:
    """How jobs of one target watch their clone boot: for how long, whether a boot is the condition of success, and what
    the console of a booted guest shows (None: the target knows)."""

    timeout_s: float = 60.0
    required: bool = False
    pattern: str | None = None


def _growing(first_s: float, most_s: float, attempt: int) -> float:
    pause_s = min(most_s, first_s * 2.0 ** min(max(attempt - 1, 0), 30))
    return pause_s * random.uniform(0.8, 1.2)  # noqa: S311 - jitter, not a secret


@dataclass(frozen=True)
class Runtime:
    """One per process."""

    store: JobStore
    catalog: Catalog
    snapshots: FileSnapshotStore
    evidence: EvidenceStore
    targets: Mapping[str, Target]
    publisher: Publisher
    page_token_key: bytes = field(repr=False)  # secret; the same in every API process of a service
    pacing: Pacing = field(default_factory=Pacing)
    boot_policies: Mapping[str, BootPolicy] = field(default_factory=dict)  # by target
    clock: Clock = utc_now
    monotonic: Callable[[], float] = time.monotonic  # what a lease and a wait are measured with
    worker_name: Callable[[], str] = lambda: "worker"
    draining: Callable[[], bool] = lambda: False  # whether this worker has been told to stop
    create_operation_ends_with_job: bool = False
    location: str = "global"  # one that is known although nothing is in it yet
    upload_idle_s: float = 86_400.0  # an upload that has not moved for so long is given up
    uploads: PartialUploads = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "uploads", PartialUploads(self.snapshots))

    def boot_policy(self, target: str) -> BootPolicy:
        """How jobs of this target watch their clone boot."""
        return self.boot_policies.get(target) or BootPolicy(self.pacing.boot_timeout_s)
