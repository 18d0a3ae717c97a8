"""What ``clonejob doctor`` says of targets that cannot work here."""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from targets import qemu_network, qemu_user
from worker.doctor_check import Check
from worker.doctor_targets import target_checks
from worker.settings import load_settings

GCE = {"type": "compute_engine", "project": "acme", "zone": "europe-west1-b"}
EC2 = {"type": "ec2", "region": "eu-west-1", "subnet": "subnet-0a"}


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Check]]:
    """What is told of one target, on a machine without credentials."""
    for name in [each for each in os.environ if each.startswith(("AWS_", "GOOGLE_", "CLOUDSDK_"))]:
        monkeypatch.delenv(name)
    for name, value in {
        "HOME": tmp_path, "CLOUDSDK_CONFIG": tmp_path, "NO_GCE_CHECK": "true", "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": tmp_path / "no", "AWS_SHARED_CREDENTIALS_FILE": tmp_path / "no",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))

    def checks(**target: Any) -> list[Check]:
        return list(target_checks(load_settings(data_dir=tmp_path, targets={"t": target})))

    return checks


def test_an_unknown_user_of_qemu(told):
    (check,) = told(type="qemu", run_as="no-such-user")
    assert (check.name, check.status) == ("target t", "fail")
    assert check.detail == "run_as: there is no user 'no-such-user' on this machine"
    assert "run_as" in check.action


def test_a_user_that_only_root_can_become(told, monkeypatch):
    monkeypatch.setattr(qemu_user.os, "geteuid", lambda: 12345)
    (check,) = told(type="qemu", run_as="nobody")
    assert (check.status, "needs a worker that is root" in check.detail) == ("warn", True)


def test_the_user_that_we_are_is_fine(told):
    assert [check.status for check in told(type="qemu", run_as=getpass.getuser())] == ["ok"]


def test_a_missing_bridge(told):
    bridged = {"prod": {"mode": "bridge", "bridge": "br-none"}, "test": {"mode": "isolated"}}
    (check,) = told(type="qemu", networks=bridged)
    assert (check.status, check.detail) == ("fail", "network prod: br-none does not exist on this machine")
    assert "ip link add br-none type bridge" in check.action
    (loopback,) = told(type="qemu", networks={"prod": {"mode": "bridge", "bridge": "lo"}})
    assert loopback.detail == "network prod: lo is no bridge"


@pytest.mark.parametrize(
    ("rules", "status"),
    [(None, "warn"), ("allow br1\n", "warn"), ("deny br0", "warn"), ("# ours\nallow br0\n", "ok"), ("allow all", "ok"),
     ("include /etc/qemu/more.conf", "ok")],
)  # fmt: skip
def test_a_bridge_that_qemus_helper_may_not_use(told, tmp_path, monkeypatch, rules, status):
    (tmp_path / "net/br0/bridge").mkdir(parents=True)
    monkeypatch.setattr(qemu_network, "_INTERFACES", tmp_path / "net")
    monkeypatch.setattr(qemu_network, "_HELPER_RULES", tmp_path / "bridge.conf")
    if rules is not None:
        (tmp_path / "bridge.conf").write_text(rules)
    (check,) = told(type="qemu", networks={"prod": {"mode": "bridge", "bridge": "br0"}})
    assert check.status == status
    assert ("allow br0" in check.action) == (status == "warn")


def test_clouds_without_credentials(told):
    (google,) = told(**GCE)
    assert (google.status, google.detail) == ("fail", "There are no credentials for Compute Engine")
    assert google.action.startswith("name a service account's key file with credentials_file, or run gcloud auth")
    (amazon,) = told(**EC2)
    assert (amazon.status, amazon.detail) == ("fail", "there are no AWS credentials here")
    assert "AWS_ACCESS_KEY_ID" in amazon.action


def test_a_key_file_that_is_none(told, tmp_path):
    (tmp_path / "key.json").write_text("{}")
    for file in ("key.json", "no-such.json"):
        (check,) = told(**GCE, credentials_file=str(tmp_path / file))
        assert (check.status, check.detail) == ("fail", "There are no credentials for Compute Engine")


def test_clouds_with_credentials(told, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    (amazon,) = told(**EC2)
    (google,) = told(**GCE, endpoint="http://127.0.0.1:9")
    assert (amazon.status, google.status) == ("ok", "ok")
    assert "only a call to it tells" in amazon.detail
    monkeypatch.setenv("AWS_PROFILE", "no-such")
    (unknown,) = told(**EC2)
    assert (unknown.status, "no-such" in unknown.detail) == ("fail", True)
