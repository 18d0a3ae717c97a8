"""Types of targets come from clonejob and from other packages, and one package's fault is not another's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from packages import install

from targets.registry import UnknownTargetTypeError, options_of, type_names, types
from worker.settings import SettingsError, load_settings

GOOD = """
from targets.registry import TargetOptions

class Options(TargetOptions):
    size: int = 1

    def make(self, place):
        raise NotImplementedError
"""


@pytest.fixture
def site(tmp_path, monkeypatch):
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    yield folder
    for name in [name for name in sys.modules if name.startswith("brought_")]:
        del sys.modules[name]


def by_name():
    return {each.name: each for each in types()}


def test_a_package_brings_a_type(site):
    install(site, "acme-cloud", "2.1", "brought_good", GOOD, acme="Options")
    assert "acme" in type_names()
    found = by_name()["acme"]
    assert (found.package, found.version, found.problem) == ("acme-cloud", "2.1", "")
    assert options_of("acme", {"size": 3}).size == 3
    assert by_name()["qemu"].package == "clonejob"
    problems = settings_problems({"a": {"type": "acme", "size": "x"}})
    assert problems.startswith("CLONEJOB_TARGETS.a: type acme: size: ")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import no_such_module", "No module named 'no_such_module'"),
        ("raise SystemError('broken')", "SystemError: broken"),
        ("x = 1", "has no attribute 'Options'"),
        ("Options = dict", "is not a class of targets.registry.TargetOptions"),
        ("def Options(): pass", "is not a class of targets.registry.TargetOptions"),
        ("(", "SyntaxError"),
    ],
)
def test_a_package_that_cannot_be_used_is_the_problem_of_its_own_targets_only(site, source, said):
    install(site, "acme-cloud", "2.1", "brought_broken", source, acme="Options")
    install(site, "other", "1.0", "brought_good", GOOD, other="Options")
    found = by_name()
    assert said in found["acme"].problem
    assert "acme-cloud 2.1" in found["acme"].problem
    assert found["acme"].options is None
    assert found["other"].problem == found["qemu"].problem == ""
    good = {"a": {"type": "other"}, "b": {"type": "simulated"}}
    assert set(load_settings(targets=good).targets) == {"a", "b"}
    problem = settings_problems({"c": {"type": "acme"}, **good})
    assert problem.startswith("CLONEJOB_TARGETS.c: type 'acme' (brought_broken:Options) of package acme-cloud 2.1 ")


def test_settings_import_no_package_that_is_not_configured(site):
    install(site, "acme-cloud", "2.1", "brought_broken", "raise SystemExit('imported')", acme="Options")
    load_settings()
    assert "brought_broken" not in sys.modules
    with pytest.raises(UnknownTargetTypeError, match="no type 'none'; there are .*acme"):
        options_of("none", {})


def test_a_type_that_two_packages_bring_is_refused_by_both_names(site):
    install(site, "acme-cloud", "2.1", "brought_good", GOOD, acme="Options")
    install(site, "acme-fork", "3.0", "brought_fork", GOOD, acme="Options")
    with pytest.raises(UnknownTargetTypeError, match="acme-cloud 2.1 and acme-fork 3.0; uninstall all but one"):
        options_of("acme", {})
    problems = {each.package: each.problem for each in types() if each.name == "acme"}
    assert set(problems) == {"acme-cloud", "acme-fork"}
    assert all(problems.values())
    assert "brought_good" not in sys.modules


def test_our_own_types_cannot_be_replaced(site):
    install(site, "acme-cloud", "2.1", "brought_good", GOOD, qemu="Options")
    assert type(options_of("qemu", {})).__name__ == "QemuOptions"
    [theirs] = [each for each in types() if each.package == "acme-cloud"]
    assert theirs.problem == "'qemu' is a type of clonejob's own"


def test_a_package_that_is_on_the_path_twice_counts_once(site, tmp_path, monkeypatch):
    install(site, "acme-cloud", "2.1", "brought_good", GOOD, acme="Options")
    again = tmp_path / "again"
    again.mkdir()
    install(again, "acme-cloud", "2.1", "brought_good", GOOD, acme="Options")
    monkeypatch.syspath_prepend(again)
    assert options_of("acme", {}).size == 1
    assert [each.problem for each in types() if each.name == "acme"] == [""]


def test_the_registry_and_the_settings_import_no_cloud_sdk():
    code = """
import json, sys
import targets.registry, worker.settings
worker.settings.load_settings()
print(json.dumps(sorted({"boto3", "botocore", "google.cloud.compute_v1", "qemu.qmp"} & set(sys.modules))))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], capture_output=True, text=True)
    assert json.loads(done.stdout) == [], done.stderr


def settings_problems(targets) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(targets=targets)
    [problem] = caught.value.problems
    return problem
