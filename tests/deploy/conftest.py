"""The files of a deployment, and the processes that they describe."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from conftest import missing
from guarantee.chaos.postgres import why_not


def pytest_collection_modifyitems(items):
    """On a loaded machine a whole service takes minutes to start."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.timeout(400))


@pytest.fixture(scope="module")
def servers():
    """Whatever the services of the compose file are, installed here."""
    if reason := why_not():
        missing(reason)
    for program, package in (("redis-server", "redis-server"), ("haproxy", "haproxy"), ("qemu-img", "qemu-utils"),
                             ("wget", "wget")):  # fmt: skip
        if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
            missing(f"{program} is not installed; make compose-tools, or install the package {package}")


@pytest.fixture(scope="module")
def open_folder():
    """A folder that PostgreSQL's user may enter, gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix="clonejob-compose-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)
