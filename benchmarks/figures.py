"""Numbers out of samples, and what must be known of the machine to read them."""

from __future__ import annotations

import math
import os
import platform
import sqlite3
import statistics
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

Figures = dict[str, float]


def percentile(samples: Sequence[float], percent: float) -> float:
    """By nearest rank: always a sample that was measured. With fewer than 100 samples the 99th is the largest."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def milliseconds(seconds: float) -> float:
    """For people, to the microsecond."""
    return round(seconds * 1000, 3)


def idle_figures(samples_s: Sequence[float]) -> Figures:
    """Latency of single jobs."""
    return {
        "idle_p50_ms": milliseconds(percentile(samples_s, 50)),
        "idle_p99_ms": milliseconds(percentile(samples_s, 99)),
    }


def ratios(ours: Figures, theirs: Figures) -> Figures:
    """Ours divided by theirs, for every figure that both have."""
    return {name: round(ours[name] / value, 3) for name, value in theirs.items() if name in ours}


def summary(rounds: Sequence[Mapping[str, Figures]]) -> dict[str, dict[str, Figures]]:
    """Median, smallest and largest over the rounds, of every figure of every system."""
    return {
        system: {
            name: _spread([each[system][name] for each in rounds])
            for name in rounds[0][system]
        }
        for system in rounds[0]
    }  # fmt: skip


def _spread(values: Sequence[float]) -> Figures:
    return {"median": round(statistics.median(values), 3), "min": min(values), "max": max(values)}


def machine() -> dict[str, Any]:
    """What the figures hang on."""
    return {
        "cpu_count": os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        **{name: metadata.version(name) for name in ("celery", "kombu", "sqlalchemy", "redis", "grpcio")},
    }
