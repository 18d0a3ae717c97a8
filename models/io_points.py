"""Named I/O points: every call to the database, the broker or a target in a job's path passes one of these.

A point has a stable name (``store.claim_step``, ``broker.publish.chain``, ``target.create.disk``) and a hook that is
called before and after the real call. In production the hook is empty; fault tests install one that raises, hangs,
loses the reply or kills the process at exactly that place. ``models/io_table.py`` numbers the points.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")

Hook = Callable[[str, str], None]  # (point, "before" | "after"); may raise

_names: set[str] = set()
_hook: Hook | None = None
_here = threading.local()


def install_hook(hook: Hook | None) -> None:
    """Set the process-wide hook, or remove it with None. Only the composition root and tests call this."""
    global _hook
    _hook = hook


def has_hook() -> bool:
    """Whether something watches the points, or makes them fail."""
    return _hook is not None


def names() -> frozenset[str]:
    """Every point that this process has defined so far."""
    return frozenset(_names)


def register(name: str) -> str:
    """Make a name known without calling it yet; for points whose names are made at run time."""
    _names.add(name)
    return name


def call(name: str, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call ``function`` as the I/O point ``name``. An error raised by the 'after' hook means: done, reply lost."""
    hook = _hook
    if hook is None:
        return function(*args, **kwargs)
    opened = open_points()
    _here.open = (*opened, name)
    try:
        hook(name, "before")
        result = function(*args, **kwargs)
        hook(name, "after")
    finally:
        _here.open = opened
    return result


def open_points() -> tuple[str, ...]:
    """The points that this thread is inside of, outermost first; known only while a hook is installed."""
    opened: tuple[str, ...] = getattr(_here, "open", ())
    return opened


def io_point(name: str) -> Callable[[Callable[Concatenate[S, P], R]], Callable[Concatenate[S, P], R]]:
    """Decorator for methods whose whole body is one I/O call."""
    register(name)

    def decorate(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
        @functools.wraps(method)
        def wrapped(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
            return call(name, method, self, *args, **kwargs)

        return wrapped

    return decorate
