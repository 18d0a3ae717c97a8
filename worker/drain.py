"""A worker that is told to stop (SIGTERM) hands back what it runs, so that another one goes on at once.

Celery's warm shutdown stops taking messages and waits for the tasks at work. These hear of it here, at their next look
at their lease, give it back and send their own message again (``tasks/lease.py: DrainingError``). A call to a target that
is under way is waited for: nobody else may touch the job while it may still land.
"""

from __future__ import annotations

import math
import mmap
import signal
from typing import Any

from celery.signals import worker_shutting_down

_OVER_THE_CALL_LIMIT_S = 10.0  # for the writes that follow a call, and for sending
# One byte that the children of a prefork pool share with their parent: SIGTERM reaches the parent alone.
_flag = mmap.mmap(-1, 1)


def is_draining() -> bool:
    """Whether this worker has been told to stop."""
    return _flag[0] != 0


def limit_s(provider_call_limit_s: float) -> int:
    """Seconds after which a draining worker ends, whatever it does: a call that takes longer than its limit is hung."""
    return math.ceil(provider_call_limit_s + _OVER_THE_CALL_LIMIT_S)


def drain_on_shutdown(provider_call_limit_s: float) -> None:
    """Have this process drain when Celery begins to shut down."""

    def begin(**_: Any) -> None:
        _flag[0] = 1
        # The alarm's default action ends the process even where its main thread hangs; the kernel then ends the
        # children of its pool, and what they held is found by its lease.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(limit_s(provider_call_limit_s))

    worker_shutting_down.connect(begin, weak=False, dispatch_uid="clonejob-drain")
