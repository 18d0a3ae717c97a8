"""``clonejob target``: what is configured, what can be, and whether it keeps the protocol. No service runs."""

from __future__ import annotations

import json
import os
import shutil
import sys
from types import SimpleNamespace

import pytest
from conftest import missing
from packages import install

from targets.conformance import CHECKS
from targets.guest import build_disk
from targets.simulated import SimulatedTarget


def left_at(folder):
    return SimulatedTarget(folder).everything()


def test_list_shows_what_is_configured(clonejob, monkeypatch):
    monkeypatch.setenv("CLONEJOB_TARGETS", '{"ec": {"type": "simulated", "boots_from_image": true}}')
    shown = clonejob("target", "list")
    assert (shown.code, shown.out.splitlines()[1].split()) == (0, ["ec", "simulated", "boots_from_image=True"])
    found = json.loads(clonejob("target", "list", "--json").out)
    assert found == [{"name": "ec", "type": "simulated", "options": {"boots_from_image": True}}]


def test_types_shows_who_brings_what(clonejob, configured):
    rows = [line.split() for line in clonejob("target", "types").out.splitlines()]
    assert rows[0] == ["TYPE", "PACKAGE", "VERSION", "OPTIONS"]
    assert ["provider", "acme-targets", "2.0", "-"] in rows
    found = {each["type"]: each for each in json.loads(clonejob("target", "types", "--json").out)}
    assert found["simulated"]["options"] == {"boots_from_image": "Start instances from an image of all their disks."}
    assert found["simulated"]["package"] == "clonejob"


def test_types_shows_what_is_wrong_with_a_package(clonejob, tmp_path, monkeypatch):
    site = tmp_path / "site"
    site.mkdir()
    install(site, "acme-broken", "0.1", "acme_broken", "import no_such_sdk", broken="Options")
    monkeypatch.syspath_prepend(site)
    shown = clonejob("target", "types")
    assert shown.code == 0
    assert "acme-broken" in shown.out
    assert "No module named 'no_such_sdk'; repair or uninstall that package" in shown.out
    assert clonejob("target", "list").code == 0


def test_a_sound_target_passes(clonejob, configured):
    shown = clonejob("target", "check", "simulated")
    assert shown.code == 0, shown.out + shown.err
    lines = shown.out.splitlines()
    assert len(lines) == len(CHECKS) + 1
    assert "0 failed" in lines[-1]
    assert lines[-1].endswith("nothing is left")
    assert left_at(configured / "simulated") == []


def test_json_has_every_check_with_its_rule(clonejob, configured):
    shown = clonejob("--json", "target", "check", "forgetful", "--only", "delete")
    assert shown.code == 1
    report = json.loads(shown.out)
    checks = {each["name"]: each for each in report["checks"]}
    assert set(checks) == {check.name for check in CHECKS if "delete" in check.name}
    wrong = checks["delete_with_another_uid_is_refused"]
    assert wrong["outcome"] == "failed"
    assert "ConflictError was due" in wrong["detail"]
    assert (wrong["source"], wrong["left"]) == ("R9, Target.delete", [])
    assert checks["delete_twice_does_no_harm"]["outcome"] == "passed"
    assert sum(report["counts"].values()) == len(checks)
    assert report["left"] == []


def test_a_fault_is_shown_with_its_rule(clonejob, configured):
    shown = clonejob("target", "check", "forgetful", "--only", "delete_with_another_uid")
    assert shown.code == 1
    first, rule, total = shown.out.splitlines()
    assert (
        first.startswith("failed          delete_with_another_uid_is_refused: delete of disk kit-")
        or "adapted" in first
    )
    assert "rule: What stands there with another uid" in rule
    assert rule.endswith("(R9, Target.delete)")
    assert "0 passed, 1 failed, 0 not applicable" in total


def test_what_cannot_be_removed_is_named_and_an_error(clonejob, configured):
    shown = clonejob("target", "check", "protected", "--only", "the_uid_stays")
    assert shown.code == 1
    told = [line for line in shown.err.splitlines() if line.startswith("left behind: ")]
    standing = left_at(configured / "protected")
    assert standing
    assert len(told) == len(standing)
    assert all(
        any(f"{each.ref} of job {each.job_id}: Deletion protection is on." in line for line in told)
        for each in standing
    )
    assert shown.out.splitlines()[-1].endswith(f"{len(standing)} left behind, see above")


def test_the_end_of_the_process_removes_what_was_made(clonejob, configured):
    shown = clonejob("target", "check", "ended", "--only", "the_uid_stays")
    assert (shown.code, shown.err.strip()) == (130, "error: interrupted")
    target = SimulatedTarget(configured / "ended")
    assert "instance" in {call.kind for call in target.calls() if call.op == "create" and call.phase == "effect"}
    assert target.everything() == []
    assert not list((configured.parent / "snapshots").rglob("*.raw"))


def test_a_provider_is_asked_for_only_with_a_word_of_consent(clonejob, configured, monkeypatch):
    reference = ("--reference", "projects/p/global/snapshots/web-1", "--size-gb", "20")
    check = ("target", "check", "provider", *reference, "--only", "a_snapshot")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: False))
    refused = clonejob(*check)
    assert refused.code == 2
    assert "repeat with --yes" in refused.err
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True, readline=lambda *_: "n\n"))
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda *_: "n")
    assert clonejob(*check).err.endswith("not confirmed; nothing was made\n")
    assert not configured.exists()
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda *_: "y")
    agreed = clonejob(*check)
    assert agreed.code == 0, agreed.out
    assert "2 passed, 0 failed" in agreed.out
    assert clonejob(*check, "--yes").code == 0


def test_a_target_that_cannot_clone_this_is_told_once(clonejob, configured):
    shown = clonejob("target", "check", "provider", "--yes")
    assert (shown.code, shown.out) == (1, "")
    assert shown.err == (
        "error: target provider cannot clone this: Only snapshots that lie here already can be cloned; "
        "name what to clone with --snapshot or --reference\n"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "target 'nowhere' is not configured; there are: forgetful"),
        (["simulated", "--only", "zzz"], "no check has 'zzz' in its name"),
        (["simulated", "--details", "[1]"], "--details is not a JSON object"),
        (
            ["simulated", "--details", '{"machineTyp": "x"}'],
            "--details: ComputeEngineTargetDetails has no field 'machineTyp'; did you mean machineType",
        ),
        (
            ["simulated", "--details", '{"networkInterfaces": [{"subnet": "x"}]}'],
            "--details: NetworkInterface has no field 'networkInterfaces.subnet'; did you mean subnetwork",
        ),
        (
            ["simulated", "--details", '{"qqq": 1}'],
            "--details: ComputeEngineTargetDetails has no field 'qqq'; there are: ",
        ),
        (["simulated", "--details", '{"zone": 5}'], "--details: Failed to parse zone field"),
        (["simulated", "--snapshot", "a", "--reference", "b"], "give either --snapshot or --reference"),
    ],
)
def test_wrong_arguments_are_usage_errors(clonejob, configured, arguments, said):
    shown = clonejob("target", "check", *arguments)
    assert shown.code == 2
    assert shown.err.startswith(f"error: {said}")
    assert not configured.exists()


def test_an_image_of_ones_own_is_cloned_and_stays(clonejob, configured, tmp_path):
    image = build_disk(tmp_path / "mine.raw", size_bytes=64 * 1024)
    before = image.read_bytes()
    shown = clonejob("target", "check", "simulated", "--snapshot", image, "--skip-os-adaptation", "--only", "plan")
    assert shown.code == 0, shown.err
    made = {call.kind for call in SimulatedTarget(configured / "simulated").calls() if call.phase == "effect"}
    assert made == {"disk", "instance"}
    assert image.read_bytes() == before
    assert not [path for path in (configured.parent / "snapshots").rglob("*") if path.is_file()]
    wrong = clonejob("target", "check", "simulated", "--snapshot", tmp_path / "none.raw")
    assert wrong.code != 0
    assert wrong.err.startswith("error: ")


def test_qemu_is_checked_with_a_guest_that_is_removed_again(clonejob, tmp_path):
    if not all(shutil.which(tool) for tool in ("qemu-system-x86_64", "qemu-img", "qemu-io")):
        missing("QEMU is not installed")
    shown = clonejob("target", "check", "local", "--only", "the_guest_is_seen")
    assert shown.code == 0, shown.out + shown.err
    assert shown.out.startswith("passed          the_guest_is_seen_to_boot\n")
    files = [path.relative_to(tmp_path / "data") for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert not files
    own = os.fsencode(tmp_path)
    assert not [pid for pid in os.listdir("/proc") if pid.isdigit() and own in command_line(pid)]


def command_line(pid: str) -> bytes:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""


def test_the_clone_mode_of_target_projects(clonejob, stub):
    parent = "projects/clonejob/locations/global/targetProjects"
    local, simulated = ({"targetProject": f"{parent}/{name}", "target": name, "cloneMode": "", "usedCloneMode": mode,
                         "cloneModes": modes} for name, mode, modes in
                        (("local", "overlay", ["overlay", "full"]), ("simulated", None, [])))  # fmt: skip
    stub.on(
        "GET", f"/v1/{parent}", {"targetProjects": [{"name": each["targetProject"]} for each in (local, simulated)]}
    )
    for each in (local, simulated):
        stub.on("GET", f"/clonejob/v1/{each['targetProject']}/cloneMode", each)
    chosen = local | {"cloneMode": "full", "usedCloneMode": "full"}
    stub.on("POST", f"/clonejob/v1/{parent}/local:setCloneMode", chosen, local)
    rows = clonejob("target", "clone-mode", "--server", stub.url).out.splitlines()
    assert rows[1].split() == ["local", "local", "overlay", "the", "target", "overlay,", "full"]
    assert rows[2].split() == ["simulated", "simulated", "-", "the", "target", "-"]
    shown = clonejob("target", "clone-mode", "local", "full", "--server", stub.url)
    assert "the target project" in shown.out and json.loads(stub.calls[-1].body) == {"cloneMode": "full"}
    shown = clonejob("target", "clone-mode", "local", "default", "--json", "--server", stub.url)
    assert json.loads(shown.out) == local and json.loads(stub.calls[-1].body) == {"cloneMode": ""}
    assert clonejob("target", "clone-mode", "Local", "--server", stub.url).code == 2
