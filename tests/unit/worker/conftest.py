"""Nothing that a test starts may outlive it; no setting of the developer's shell reaches a test."""

from __future__ import annotations

import os

import psutil
import pytest


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch):
    for name in [name for name in os.environ if name.startswith("CLONEJOB_")]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def no_child_left():
    before = set(psutil.Process().children(recursive=True))
    yield
    left = set(psutil.Process().children(recursive=True)) - before
    _, alive = psutil.wait_procs(left, timeout=3)
    for process in alive:
        process.kill()
    assert not alive, f"still running: {alive}"
