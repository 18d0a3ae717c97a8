"""docs/adding-a-target.md, word by word: its package is installed, listed, checked, tested, and a clone job runs on it."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from targets.conformance import CHECKS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "adding-a-target.md").read_text()
CLI = [sys.executable, "-P", "-m", "worker.cli"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


class Installed:
    """The page's package in a folder on the path, and its target's configuration, as the page has them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clones, self.data_dir = folder, folder / "clones", folder / "data"
        [toml] = blocks("toml")
        self.module, self.tests = blocks("python")
        project = tomllib.loads(toml)["project"]
        site = folder / "site"
        info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        info.mkdir(parents=True)
        info.joinpath("METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        )
        points = project["entry-points"]["clonejob.targets"]
        lines = [f"{name} = {value}" for name, value in points.items()]
        info.joinpath("entry_points.txt").write_text("\n".join(["[clonejob.targets]", *lines, ""]))
        (module,) = {value.partition(":")[0] for value in points.values()}
        (site / f"{module}.py").write_text(self.module)
        [setting] = re.findall(r"^export (CLONEJOB_\w+='.*')$", PAGE, re.MULTILINE)
        name, _, value = shlex.split(setting)[0].partition("=")
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith("CLONEJOB_")}
        self.environment |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{site}", "CLONEJOB_DATA_DIR": str(self.data_dir)}
        self.environment["CLONEJOB_WORKERS"] = "1"
        self.environment[name] = value.replace("/srv/clones", str(self.clones))

    def run(self, *command: str, code: int = 0) -> str:
        done = subprocess.run(command, env=self.environment, cwd=self.folder, capture_output=True, text=True)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def clonejob(self, line: str) -> str:
        """A line of the page."""
        assert f"\n{line}\n" in PAGE
        program, *arguments = shlex.split(line)
        assert program == "clonejob"
        return self.run(*CLI, *arguments)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    return Installed(tmp_path_factory.mktemp("adding"))


def test_the_whole_target_has_less_than_120_lines_of_code(installed):
    code = [line for line in installed.module.splitlines() if line.strip()]
    assert len(code) < 120


def test_its_type_is_listed_with_its_package(installed):
    lines = [line.split() for line in installed.clonejob("clonejob target types").splitlines()]
    assert ["files", "clonejob-files", "1.0.0", "folder"] in lines
    assert {"qemu", "simulated"} <= {line[0] for line in lines}


def test_it_keeps_the_protocol(installed):
    before = sorted(installed.clones.rglob("*.*"))
    printed = installed.clonejob("clonejob target check nas").splitlines()
    assert len(printed) == len(CHECKS) + 1
    assert re.fullmatch(r"target nas \(files\): (\d+) passed, 0 failed, .*; nothing is left", printed[-1]), printed[-1]
    assert sum(line.startswith("passed ") for line in printed) >= 50
    assert sorted(installed.clones.rglob("*.*")) == before


def test_its_own_tests_pass_with_the_hands_of_its_owner(installed):
    path = installed.folder / "test_files.py"
    path.write_text(installed.tests)
    # Only what needs those hands: the command has run the others.
    options = [
        "-q",
        "-rs",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(installed.folder),
        "-k",
        "user_made or half_made",
    ]
    printed = installed.run(sys.executable, "-m", "pytest", *options, str(path))
    due = [check for check in CHECKS if "user_made" in check.name or "half_made" in check.name]
    assert re.search(rf"^{len(due)} passed, {len(CHECKS) - len(due)} deselected", printed, re.MULTILINE), printed


def test_a_clone_job_runs_on_it(installed):
    disk = installed.folder / "disk.raw"
    content = os.urandom(510) + b"\x55\xaa"
    disk.write_bytes(content)
    log = installed.folder / "up.log"
    command = [*CLI, "up", "--rest-port", "0", "--grpc-port", "0"]
    with log.open("wb") as out:
        up = subprocess.Popen(
            command, env=installed.environment, cwd=installed.folder, stdout=out, stderr=out, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 180
        while not any(line.startswith("ready ") for line in log.read_text().splitlines()):
            assert up.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        installed.clonejob("clonejob vm import web-1 --disk disk.raw --target nas --skip-os-adaptation")
        installed.clonejob("clonejob submit web-1 --wait")
        [clone] = json.loads(installed.run(*CLI, "instance", "list", "--json"))
    finally:
        up.terminate()
        assert up.wait(60) == 0
    assert clone["target"] == "nas"
    [instance] = [json.loads(path.read_text()) for path in installed.clones.glob("instance/*.json")]
    [name] = instance["disks"]
    assert (installed.clones / "disk" / f"{name}.raw").read_bytes() == content
    assert instance["labels"]["clonejob-id"] == clone["jobId"]
