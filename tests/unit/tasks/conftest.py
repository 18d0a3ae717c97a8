"""Worlds of the auditor's tests; a hook at the I/O points."""

import pytest
from harness import World

from models import io_points


@pytest.fixture
def cloud(tmp_path, database_url):
    """A service on a target that cannot refuse late calls."""
    world = World(tmp_path, database_url, keeps_tombstones=False)
    world.set_up(policy={"skipOsAdaptation": True})
    yield world
    world.close()


@pytest.fixture
def hook():
    yield io_points.install_hook
    io_points.install_hook(None)
