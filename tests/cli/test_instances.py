"""The user's own hand on clones, on real targets; no service runs."""

from __future__ import annotations

import json
import os
import sys
from types import SimpleNamespace

import pytest
from instance_lab import instance_of, one_line

from targets.base import ResourceKind, ResourceRef
from tasks import steps
from tasks.services import Services
from worker.cli import clones, instances, output
from worker.composition import build_runtime
from worker.settings import load_settings


@pytest.fixture
def asked(monkeypatch):
    """A terminal, with the answer to the question."""

    def answer(text):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True, readline=lambda *_: text + "\n"))
        monkeypatch.setattr("click.termui.visible_prompt_func", lambda *_: text)

    return answer


def test_list_shows_every_clone(clonejob, lab):
    job = lab.clone("web-1")
    listed = clonejob("instance", "list")
    assert listed.code == 0
    head, row = listed.out.splitlines()
    assert head.split() == ["INSTANCE", "TARGET", "STATUS", "JOB", "ID", "BOOT"]
    assert row.split() == [instance_of(job), "simulated", "ready", job.id, "BOOTED"]
    (found,) = json.loads(clonejob("--json", "instance", "list", "--target", "simulated").out)
    disks = found.pop("disks")
    assert found == {
        "name": instance_of(job), "target": "simulated", "status": "ready", "detail": "", "jobId": job.id,
        "boot": "BOOTED",
    }  # fmt: skip
    assert [disk["kind"] for disk in disks] == ["disk"]
    assert json.loads(clonejob("instance", "list", "--target", "local", "--json").out) == []


def test_console_prints_what_the_guest_said_and_nothing_that_steers_a_terminal(clonejob, lab, monkeypatch):
    name = instance_of(lab.clone("web-1", hostname="h1"))
    shown = clonejob("instance", "console", name)
    assert (shown.code, shown.out) == (
        0,
        "clonejob guest: power on\nclonejob guest: BOOTED hostname=h1 data=simulated\n",
    )
    assert json.loads(clonejob("instance", "console", name, "--json").out)["console"].endswith("\r\n")
    assert output.plain("a\x1b[2Jb\x1b]0;evil\x07\r\n\tc\x9b") == "ab]0;evil\n\tc\n"
    assert output.plain("") == ""


def test_delete_takes_the_instance_and_its_disks_and_nothing_else(clonejob, lab):
    first, second = lab.clone("web-1"), lab.clone("web-2")
    name = instance_of(first)
    lab.targets["simulated"].clear()
    result = clonejob("instance", "delete", name, "--yes", "--json")
    assert result.code == 0, result.err
    deleted = json.loads(result.out)
    assert [part["kind"] for part in deleted["deleted"]] == ["instance", "disk"]
    assert lab.names() == sorted(row.name for row in second.ledger if row.role == "product")
    order = [call.kind for call in lab.targets["simulated"].calls() if call.op == "delete" and call.phase == "effect"]
    assert order == ["instance", "disk"]
    again = clonejob("instance", "delete", name, "--yes")
    assert (again.code, "has no instance" in one_line(again)) == (4, True)
    assert lab.runtime.store.get_job(first.id).state == "SUCCEEDED"


def test_what_only_carries_the_label_is_left_alone_and_named(clonejob, lab, asked):
    job, target = lab.clone("web-1"), lab.targets["simulated"]
    labels = target.find(ResourceRef(ResourceKind.INSTANCE, instance_of(job))).labels
    decoys = [target.foreign(ResourceKind.DISK, "decoy-disk", labels),
              target.foreign(ResourceKind.INSTANCE, "a-decoy", labels)]  # fmt: skip
    listed = [row.split()[0] for row in clonejob("instance", "list").out.splitlines()[1:]]
    assert listed == ["a-decoy", instance_of(job)]
    never = f"carries the label but job {job.id} never made it"
    result = clonejob("instance", "delete", "a-decoy", "--yes")
    assert (result.code, one_line(result)) == (5, f"error: instance a-decoy {never}; nothing was deleted\n")
    assert len(lab.names()) == 4
    asked("n")
    assert f"left alone: disk decoy-disk {never}\n" in clonejob("instance", "delete", instance_of(job)).err
    result = clonejob("instance", "delete", instance_of(job), "--yes")
    name = instance_of(job)
    assert result.out.splitlines() == [
        f"deleted instance {name}, disk {name}-disk0 from target simulated",
        f"left alone: instance a-decoy {never}",
        f"left alone: disk decoy-disk {never}",
    ]
    assert [target.find(decoy.ref) for decoy in decoys] == decoys
    result = clonejob("instance", "delete", job.id, "--yes")
    assert (result.code, "nothing was deleted; left alone: instance a-decoy" in one_line(result)) == (5, True)


def test_another_disk_under_the_name_of_the_jobs_is_left_alone(clonejob, lab):
    job, target = lab.clone("web-1"), lab.targets["simulated"]
    row = next(row for row in job.ledger if row.kind == "disk" and row.role == "product")
    ref = ResourceRef(ResourceKind.DISK, row.name)
    again = target.foreign(ResourceKind.DISK, row.name, target.find(ref).labels)
    result = clonejob("instance", "delete", instance_of(job), "--yes", "--json")
    (left,) = json.loads(result.out)["leftAlone"]
    assert (left["name"], left["uid"]) == (row.name, again.uid)
    assert left["why"].endswith(f"never made it: what it made had the uid {row.uid}")
    assert target.find(ref) == again and lab.names() == [row.name]


def test_all_that_carries_the_label_of_an_unknown_job_goes_by_its_id(clonejob, lab, monkeypatch, tmp_path):
    job, target = lab.clone("web-1"), lab.targets["simulated"]
    target.foreign(ResourceKind.DISK, "decoy", target.find(ResourceRef(ResourceKind.INSTANCE, instance_of(job))).labels)
    monkeypatch.setenv("CLONEJOB_DATABASE_URL", f"sqlite:///{tmp_path}/other.sqlite3")
    result = clonejob("instance", "delete", job.id, "--orphan", "--yes")
    assert (result.code, lab.names()) == (0, []), result.err


def test_what_the_ledger_has_no_uid_of_is_not_known_to_be_the_jobs(clonejob, lab):
    job = lab.clone("web-1")
    (clone,) = clones.find_clones(lab.settings, "simulated").clones
    assert clones.sort_out(job, clone) == (clone.parts, ())
    for row in job.ledger:
        row.uid = None
    ours, others = clones.sort_out(job, clone)
    assert not ours and [part for part, _ in others] == list(clone.parts)
    assert all("never saw that it had made it; `clonejob audit` tells more" in why for _, why in others)


def test_a_running_job_is_refused_until_it_has_ended(clonejob, lab):
    job = lab.clone("web-1", until=3)
    assert job.end_time is None
    before = lab.names()
    result = clonejob("instance", "delete", instance_of(job), "--yes")
    assert result.code == 5
    assert "is still running (ACTIVE); cancel the job instead: clonejob cancel web-1/c1" in one_line(result)
    assert lab.names() == before
    steps.run_step(lab.runtime, job.id, job.epoch, 3)
    assert clonejob("instance", "delete", instance_of(job), "--yes").code == 0
    assert lab.names() == []


def test_disks_of_a_running_job_are_refused_by_its_id_too(clonejob, lab):
    job = lab.clone("web-1", until=2)
    assert f"\n{job.id}  simulated  disks only  {job.id}  -\n" in clonejob("instance", "list").out
    assert clonejob("instance", "delete", job.id, "--yes").code == 5
    assert clonejob("instance", "console", job.id).code == 5
    assert len(lab.names()) == 2


def test_without_a_terminal_nothing_is_deleted_unasked(clonejob, lab, monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: False))
    name = instance_of(lab.clone("web-1"))
    result = clonejob("instance", "delete", name)
    assert (result.code, "repeat with --yes" in one_line(result)) == (2, True)
    assert name in lab.names()


def test_the_question_is_answered_by_its_reader(clonejob, lab, asked):
    name = instance_of(lab.clone("web-1"))
    asked("n")
    result = clonejob("instance", "delete", name)
    assert (result.code, "not confirmed; nothing was deleted" in result.err, len(lab.names())) == (1, True, 2)
    asked("y")
    result = clonejob("instance", "delete", name)
    assert (result.code, lab.names()) == (0, [])
    assert result.out == f"deleted instance {name}, disk {name}-disk0 from target simulated\n"


def test_an_interrupted_delete_is_repeated_by_the_job_id(clonejob, lab):
    job = lab.clone("web-1")
    lab.targets["simulated"].remove_by_hand(ResourceRef(ResourceKind.INSTANCE, instance_of(job)))
    assert job.id in clonejob("instance", "list").out
    assert clonejob("instance", "delete", job.id, "--yes").code == 0
    assert lab.names() == []


def test_what_a_delete_waits_for_is_said_when_its_time_is_over(clonejob, lab, monkeypatch):
    job = lab.clone("web-1")
    monkeypatch.setattr(instances, "DELETE_TIMEOUT_S", 0.2)
    lab.targets["simulated"].add_fault(op="delete", kind="instance", fault="slow", delay_s=0.5)
    result = clonejob("instance", "delete", instance_of(job), "--yes")
    assert (result.code, "is not gone after 0 s: it is deleting" in one_line(result)) == (1, True)
    assert len(lab.names()) == 2  # the disks are in use until the instance is gone
    monkeypatch.setattr(instances, "DELETE_TIMEOUT_S", 10.0)
    lab.targets["simulated"].add_fault(op="delete", fault="fail")  # is tried again
    assert clonejob("instance", "delete", instance_of(job), "--yes").code == 0
    assert lab.names() == []


def test_a_refused_call_is_one_line(clonejob, lab):
    name = instance_of(lab.clone("web-1"))
    lab.targets["simulated"].add_fault(op="delete", fault="refuse")
    result = clonejob("instance", "delete", name, "--yes")
    assert (result.code, one_line(result)) == (1, "error: target simulated: delete was refused (scripted fault)\n")


def test_a_job_that_the_database_does_not_know_needs_a_word_more(clonejob, lab, monkeypatch, tmp_path):
    name = instance_of(lab.clone("web-1"))
    elsewhere = f"sqlite:///{tmp_path}/other.sqlite3"
    monkeypatch.setenv("CLONEJOB_DATABASE_URL", elsewhere)
    result = clonejob("instance", "delete", name, "--yes")
    assert (result.code, "the database does not know clone job" in one_line(result)) == (5, True)
    assert not (tmp_path / "other.sqlite3").exists()
    (tmp_path / "other.sqlite3").touch()
    result = clonejob("instance", "delete", name, "--yes", "--orphan")
    assert (result.code, "does not answer (no such table" in one_line(result)) == (1, True)
    (tmp_path / "other.sqlite3").unlink()
    assert clonejob("instance", "delete", name, "--yes", "--orphan").code == 0
    assert lab.names() == []


def test_what_clonejob_did_not_make_is_not_there(clonejob, lab):
    lab.targets["simulated"].foreign(ResourceKind.INSTANCE, "mine", {"made-by": "a user"})
    assert "mine" not in clonejob("instance", "list").out
    result = clonejob("instance", "delete", "mine", "--yes")
    assert (result.code, "has no instance 'mine' that clonejob made" in one_line(result)) == (4, True)
    assert lab.targets["simulated"].find(ResourceRef(ResourceKind.INSTANCE, "mine")) is not None


def test_one_name_on_two_targets_needs_a_choice(clonejob, lab, monkeypatch):
    monkeypatch.setenv("CLONEJOB_TARGETS", '{"a": {"type": "simulated"}, "b": {"type": "simulated"}}')
    lab.settings = load_settings()
    lab.runtime = build_runtime(lab.settings, lab.runtime.publisher, engine=lab.runtime.store.engine)
    lab.targets, lab.services = lab.runtime.targets, Services(lab.runtime)
    for vm, target in (("web-1", "a"), ("web-2", "b")):
        lab.clone(vm, target, vmName="twin")
    result = clonejob("instance", "delete", "twin", "--yes")
    assert (result.code, "exists on the targets a, b; choose one with --target" in one_line(result)) == (5, True)
    assert clonejob("instance", "delete", "twin", "--yes", "--target", "b").code == 0
    assert (len(lab.names("a")), lab.names("b")) == (2, [])


def test_a_look_makes_no_folder_and_names_what_is_wrong(clonejob, tmp_path):
    result = clonejob("instance", "list")
    assert (result.code, "there is no data folder" in one_line(result)) == (4, True)
    assert list(tmp_path.iterdir()) == []
    result = clonejob("instance", "list", "--target", "moon")
    assert (result.code, "target 'moon' is not configured; there are: local, simulated" in one_line(result)) == (
        2,
        True,
    )


@pytest.fixture
def beside_a_cloud(clonejob, lab, monkeypatch):
    """A clone on a target that works, and beside it EC2 without any credentials."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    name = instance_of(lab.clone("web-1"))
    cloud = {"type": "ec2", "region": "eu-west-1", "subnet": "subnet-0", "endpoint": "http://127.0.0.1:9"}
    monkeypatch.setenv("CLONEJOB_TARGETS", json.dumps({"cloud": cloud, "simulated": {"type": "simulated"}}))
    return name


def test_one_unusable_target_does_not_keep_the_others_from_being_listed(clonejob, beside_a_cloud):
    result = clonejob("instance", "list")
    assert result.code == 1 and f"\n{beside_a_cloud}  simulated  ready" in result.out
    assert "target cloud: " in one_line(result) and "credentials" in one_line(result)
    result = clonejob("instance", "list", "--json")
    assert result.code == 1 and [each["name"] for each in json.loads(result.out)] == [beside_a_cloud]
    assert clonejob("instance", "list", "--target", "simulated").code == 0
    alone = clonejob("instance", "list", "--target", "cloud")
    assert alone.code == 1 and alone.out == "" and one_line(alone).count("target cloud: ") == 1


def test_the_console_is_shown_and_what_was_not_looked_at_is_told(clonejob, beside_a_cloud):
    result = clonejob("instance", "console", beside_a_cloud)
    assert result.code == 1 and "BOOTED" in result.out and "target cloud: " in one_line(result)
    none = clonejob("instance", "console", "nowhere")
    assert none.code == 1 and "whether 'nowhere' is on cloud cannot be told" in one_line(none)


def test_nothing_is_deleted_while_another_target_may_have_the_name(clonejob, lab, beside_a_cloud):
    before = lab.names()
    result = clonejob("instance", "delete", beside_a_cloud, "--yes")
    assert result.code == 1 and "is too on cloud cannot be told" in one_line(result) and lab.names() == before
    assert clonejob("instance", "delete", beside_a_cloud, "--yes", "--target", "simulated").code == 0
    assert lab.names() == []
