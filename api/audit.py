"""One line per call: who did what to which resource, how it ended, how long it took. Never a credential or a body."""

from __future__ import annotations

import json
import logging
import re
import time

log = logging.getLogger("clonejob.request")
_PLAIN = re.compile(r"[A-Za-z0-9_./:@*+=-]{1,400}")
_MOST = 200


class Record:
    """One call; ``write`` at its end, and not again."""

    __slots__ = ("_started", "_written", "code", "method", "principal", "resource", "via")

    def __init__(self, via: str, method: str = "-") -> None:
        self.via = via
        self.method = method
        self.principal = "-"
        self.resource = "-"
        self.code = "CANCELLED"  # what it stays when the client goes away in the middle
        self._started = time.perf_counter()
        self._written = False

    def write(self) -> None:
        """The line; the first time only."""
        if self._written:
            return
        self._written = True
        milliseconds = (time.perf_counter() - self._started) * 1000
        log.info(
            "request method=%s principal=%s resource=%s code=%s ms=%.1f via=%s",
            _plain(self.method), _plain(self.principal), _plain(self.resource), self.code, milliseconds, self.via,
        )  # fmt: skip


def _plain(text: str) -> str:
    """As it is if it can forge nothing, else quoted and cut."""
    return text if _PLAIN.fullmatch(text) else json.dumps(text[:_MOST])
