"""A cooperative scheduler: several actors run the real code, one at a time, and are switched at every I/O point.

Which actor goes on is drawn from a seed, so a schedule that fails can be run again. A point lies outside every database
transaction and every lock of a target, so whoever is stopped there holds nothing.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping

from models import io_points

_LONGEST_S = 60.0


class Schedule:
    """One interleaving. ``trace`` is who ran from point to point; ``seen`` is told of each point before the switch."""

    def __init__(self, seed: int, seen: Callable[[str, str, str], None] | None = None) -> None:
        self.trace: list[str] = []
        self.errors: list[BaseException] = []
        self._random = random.Random(seed)
        self._seen = seen
        self._turns: dict[str, threading.Lock] = {}
        self._me = threading.local()  # an ident is given away again when its thread has ended
        self._over = threading.Event()

    def run(self, actors: Mapping[str, Callable[[], object]]) -> None:
        """Run all actors to their ends. What one raises is in ``errors``."""
        threads = []
        for name, work in actors.items():
            self._turns[name] = threading.Lock()
            self._turns[name].acquire()
            threads.append(threading.Thread(target=self._act, args=(name, work), name=name, daemon=True))
        io_points.install_hook(self._at)
        try:
            for thread in threads:
                thread.start()
            self._wake_one()
            assert self._over.wait(_LONGEST_S), f"the schedule does not end: {self.trace[-20:]}"
            for thread in threads:
                thread.join()
        finally:
            io_points.install_hook(None)

    def _act(self, name: str, work: Callable[[], object]) -> None:
        self._me.name = name
        self._turns[name].acquire()
        try:
            work()
        except BaseException as error:
            self.errors.append(error)
        del self._turns[name]
        if self._turns:
            self._wake_one()
        else:
            self._over.set()

    def _at(self, point: str, phase: str) -> None:
        name = getattr(self._me, "name", None)
        if name is None:  # the thread that renews a lease
            return
        if self._seen is not None:
            self._seen(name, point, phase)
        chosen = self._choose()
        if chosen != name:
            self._turns[chosen].release()
            self._turns[name].acquire()

    def _wake_one(self) -> None:
        self._turns[self._choose()].release()

    def _choose(self) -> str:
        chosen = self._random.choice(sorted(self._turns))
        self.trace.append(chosen)
        return chosen
