"""Holding a job's lease while a step or a clean-up works on it."""

from __future__ import annotations

import logging
import threading
import uuid
from types import TracebackType

from sqlalchemy.exc import DBAPIError

from models.store import Lease, StaleWrite
from tasks.runtime import Runtime

logger = logging.getLogger(__name__)


class DrainingError(Exception):
    """The worker has been told to stop: what is at work hands its job back, between two calls, for another worker."""


def new_owner(runtime: Runtime) -> str:
    """An owner that no other claim has: the worker's name for people, a random part for the WHERE."""
    return f"{runtime.worker_name()}/{uuid.uuid4().hex[:12]}"


class HeldLease:
    """Renews the lease in a thread until the block ends, and hears there of a verdict.

    The thread asks every ``lease_s / 3``, at most every second, so that a cancel is heard within a second. A process
    that was frozen (SIGSTOP, a paused VM) may wake up with a lease that is long over, before its thread has noticed:
    so ``check`` renews by itself when the last renewal is older than one interval. Call it before each provider call:
    a call that takes longer than the limit is hung, and then the thread lets the lease run out.
    """

    def __init__(self, runtime: Runtime, lease: Lease) -> None:
        self.lease = lease
        self._runtime = runtime
        self._interval_s = min(runtime.store.timing.lease_s / 3, 1.0)
        self._renewed_at = self._checked_at = runtime.monotonic()
        self._ended = threading.Event()
        self._lost = threading.Event()
        self._thread = threading.Thread(target=self._renew_until_ended, name=f"lease-{lease.job_id[:8]}", daemon=True)

    def __enter__(self) -> HeldLease:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._lost.set()  # wakes a waiter
        self._thread.join()

    def check(self) -> None:
        """Raises: StaleWrite if the lease is lost; DrainingError if this worker is about to end."""
        if self._lost.is_set():
            raise StaleWrite(f"the lease on job {self.lease.job_id} is lost")
        self._checked_at = self._runtime.monotonic()
        if self._checked_at - self._renewed_at > self._interval_s:
            self._renew()
        if self._runtime.draining():
            raise DrainingError(f"job {self.lease.job_id} is handed back: this worker ends")

    def wait(self, seconds: float) -> None:
        """Wait, but not longer than the lease is ours. Raises: StaleWrite, DrainingError."""
        if self._lost.wait(seconds):
            raise StaleWrite(f"the lease on job {self.lease.job_id} is lost")
        self.check()

    def _renew(self) -> None:
        self._runtime.store.renew(self.lease)
        self._renewed_at = self._runtime.monotonic()

    def _renew_until_ended(self) -> None:
        limit_s = self._runtime.store.timing.provider_call_limit_s
        while not self._ended.wait(self._interval_s):
            if self._runtime.monotonic() - self._checked_at > limit_s:
                logger.error(
                    "job %s: a call has taken more than %.0f s; its lease runs out", self.lease.job_id, limit_s
                )
                return
            try:
                self._renew()
            except StaleWrite:
                self._lost.set()
                return
            except DBAPIError as error:
                # The lease may run out while the database does not answer; check() and every guarded write will tell.
                logger.warning("lease on job %s was not renewed: %s", self.lease.job_id, error)
