"""The tests of this folder adapt guests; a missing program skips on a laptop and fails in CI."""

from __future__ import annotations

import linux_guest
import pytest
from conftest import missing


@pytest.fixture(scope="session")
def tools():
    gone = linux_guest.missing_tools()
    if gone:
        missing(f"{', '.join(gone)} not found; run: make linux-guest-tools")


@pytest.fixture(scope="session")
def guest_disk(tools, tmp_path_factory):
    """A Linux guest that comes from another platform, raw; only read."""
    return linux_guest.build(tmp_path_factory.mktemp("guest") / "guest.img")
