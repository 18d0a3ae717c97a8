"""The tests of this folder run real services; on a failure the ends of their logs are shown."""

from __future__ import annotations

import pathlib
import shutil
import sys

import pytest
from conftest import missing

sys.path.append(str(pathlib.Path(__file__).parent))
pytest.register_assert_rewrite("live_service")

import live_service  # noqa: E402


def pytest_collection_modifyitems(items):
    """On a loaded machine a service alone may take three minutes to start."""
    here = pathlib.Path(__file__).parent
    for item in items:
        if here in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(400))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.failed:
        for service in live_service.running:
            report.sections += service.tails()


@pytest.fixture(scope="session", autouse=True)
def qemu():
    for program in ("qemu-system-x86_64", "qemu-img", "qemu-io"):
        if shutil.which(program) is None:
            missing(f"{program} is not installed; make qemu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("process")


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """The service of a file that needs no other settings; a test may kill it, but leaves it running. Not for the session:
    it would compute beside all the tests that come after, and be a child that they did not start."""
    folder = tmp_path_factory.mktemp("shared") / "s"
    with live_service.running_service(folder, WORKERS=3, LEASE_S=2, PROVIDER_CALL_LIMIT_S=4) as service:
        yield service
