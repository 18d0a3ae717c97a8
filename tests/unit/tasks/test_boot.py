"""A clone's boot is watched, its evidence kept, and with require_boot it is the condition of success."""

import hashlib
import json
import struct

import pytest
from harness import VM

from models import io_points
from models.states import JobState, LedgerState
from targets.base import BootReport, BootVerdict
from tasks import boot, evidence
from tasks.errors import NotFound
from tasks.runtime import BootPolicy


class Killed(BaseException):
    """Ends a worker at once: nothing below catches it."""


def boot_of(job):
    return job.steps[-1].progress["boot"]


def kept(world, job):
    folder = world.runtime.evidence._root / job.id
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def policy(world, **values):
    world.runtime.boot_policies["simulated"] = BootPolicy(**values)


def test_a_boot_leaves_evidence_that_the_row_names(world):
    job = world.create()
    world.run()
    job = world.job(job.id)
    assert job.state is JobState.SUCCEEDED
    found, files = boot_of(job), kept(world, job)
    assert (found["verdict"], found["seconds"], found["firstOutputSeconds"]) == ("BOOTED", 0.0, 0.0)
    assert set(files) == {"console.txt", "screen.png", "evidence.json"} == set(found["files"])
    for name, content in files.items():
        expected = {"sizeBytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        assert found["files"][name] == expected
    assert b"BOOTED hostname=" in files["console.txt"]
    width, height = struct.unpack(">II", files["screen.png"][16:24])
    assert files["screen.png"].startswith(b"\x89PNG") and (width, height) == (64, 40)
    summary = json.loads(files["evidence.json"])
    assert summary["job"] == job.name and summary["replicationCycle"] == job.cycle and summary["verdict"] == "BOOTED"
    assert summary["files"]["console.txt"]["sha256"] == found["files"]["console.txt"]["sha256"]
    [proof] = world.runtime.catalog.boot_proofs(VM, 10)
    assert (proof.job, proof.cycle, proof.verdict, proof.seconds) == (job.name, job.cycle, "BOOTED", 0.0)
    assert proof.screen_sha256 == found["files"]["screen.png"]["sha256"]


def test_nothing_is_asked_of_the_target_about_the_boot_once_success_is_committed(world):
    order = []
    io_points.install_hook(lambda point, phase: order.append(point) if phase == "after" else None)
    try:
        world.create()
        world.run()
    finally:
        io_points.install_hook(None)
    last = max(
        order.index(point) for point in order if point.endswith((".boot_report.instance", ".screenshot.instance"))
    )
    assert last < order.index("store.succeed")
    assert not [point for point in order[order.index("store.succeed") + 1 :] if point.startswith("target.")]


@pytest.mark.parametrize("required", [False, True])
def test_a_guest_that_does_not_boot(world, required):
    policy(world, required=required)
    world.target.add_fault(op="boot_report", fault="no_boot", times=None)
    job = world.run_to_end(world.create().id)
    found = boot_of(job)
    assert (found["verdict"], found["seconds"], found["required"]) == ("NO_BOOT", None, required)
    assert kept(world, job)["console.txt"] == b"No bootable device."
    assert [proof.verdict for proof in world.runtime.catalog.boot_proofs(VM, 10)] == ["NO_BOOT"]
    if not required:
        assert job.state is JobState.SUCCEEDED and world.kinds() == ["disk", "instance"]
        return
    assert job.state is JobState.FAILED and world.kinds() == []
    assert {row.state for row in job.ledger} == {LedgerState.ABSENT}
    assert job.error["code"] == "CLONE_ERROR"
    assert "was to boot (require_boot) and did not: boot verdict NO_BOOT, scripted fault" in job.error["message"]
    assert "--evidence" in job.error["action"] and "require_boot" in job.error["action"]
    assert "one that has booted and shows no login prompt needs a boot_pattern of its target" in job.error["action"]
    assert set(kept(world, job)) == {"console.txt", "screen.png", "evidence.json"}  # stays with the failed job


@pytest.mark.parametrize("required", [False, True])
def test_a_guest_that_has_not_booted_in_its_time_and_boots_later(light, required):
    policy(light, timeout_s=5.0, required=required)
    light.target.add_fault(op="boot_report", fault="slow", delay_s=30, times=None)
    job = light.run_to_end(light.create().id)
    found = boot_of(job)
    assert (found["verdict"], found["detail"]) == ("UNKNOWN", "nothing conclusive was seen within 5 s")
    assert found["firstOutputSeconds"] == 0.0 and kept(light, job)["console.txt"] == b"clonejob guest: power on\r\n"
    assert job.state is (JobState.FAILED if required else JobState.SUCCEEDED)
    waited_s = (job.steps[-1].end_time - job.ledger[-1].created_time).total_seconds()
    assert 5 <= waited_s < 10
    before = (boot_of(job), kept(light, job), len(light.target.calls()))
    light.clock.advance(100)
    light.reconcile()
    light.run()
    assert (boot_of(light.job(job.id)), kept(light, job), len(light.target.calls())) == before


def test_a_guest_that_does_not_show_its_targets_pattern_is_told_the_pattern(light):
    policy(light, timeout_s=5.0, required=True, pattern="ready for orders")
    job = light.run_to_end(light.create().id)
    assert job.state is JobState.FAILED
    assert "its target's boot_pattern is 'ready for orders'" in job.error["action"]


def test_a_guest_that_boots_late_but_in_time_passes_the_gate(light):
    policy(light, timeout_s=60.0, required=True)
    light.target.add_fault(op="boot_report", fault="slow", delay_s=12, times=None)
    job = light.run_to_end(light.create().id)
    assert job.state is JobState.SUCCEEDED
    assert (boot_of(job)["seconds"], boot_of(job)["firstOutputSeconds"]) == (12, 0.0)


def test_the_time_to_boot_begins_when_the_instance_is_there(light):
    """A provider that needs long to make it takes nothing from the guest's time."""
    policy(light, timeout_s=10.0, required=True)
    light.target.add_fault(op="create", fault="slow", kind="instance", delay_s=50)
    light.target.add_fault(op="boot_report", fault="slow", delay_s=6, times=None)
    assert light.run_to_end(light.create().id).state is JobState.SUCCEEDED


@pytest.mark.parametrize(
    ("required", "said", "state"),
    [(True, "false", JobState.SUCCEEDED), (False, "TRUE", JobState.FAILED), (False, "treu", JobState.FAILED)],
)
def test_metadata_of_the_vm_wins_over_its_target(light, required, said, state):
    policy(light, required=required)
    vm = light.add_vm("web-2", defaults={"metadata": {boot.REQUIRE_BOOT_KEY: said}})
    light.upload(vm)
    light.target.add_fault(op="boot_report", fault="no_boot", times=None)
    assert light.run_to_end(light.create(vm=vm).id).state is state


def test_each_target_has_its_own_time(light):
    policy(light, timeout_s=1.0)
    assert light.runtime.boot_policy("another").timeout_s == light.runtime.pacing.boot_timeout_s == 60.0
    light.target.add_fault(op="boot_report", fault="slow", delay_s=30, times=None)
    assert boot_of(light.run_to_end(light.create().id))["detail"] == "nothing conclusive was seen within 1 s"


def test_a_watch_that_is_longer_than_a_step_may_take_fails_no_job(light):
    policy(light, timeout_s=10_000.0)
    light.target.add_fault(op="boot_report", fault="slow", delay_s=50_000, times=None)
    job = light.create()
    while light.mail.messages:
        light.deliver()
        light.clock.advance(600)
    job = light.run_to_end(job.id)
    assert job.state is JobState.SUCCEEDED and boot_of(job)["verdict"] == "UNKNOWN"


def test_a_cancel_while_the_boot_is_watched(world):
    policy(world, timeout_s=1000.0, required=True)
    world.target.add_fault(op="boot_report", fault="slow", delay_s=10_000, times=None)
    job = world.create()
    for _ in range(100):
        world.deliver()
        if "boot" in world.job(job.id).steps[-1].progress:
            break
    assert boot_of(world.job(job.id))["verdict"] == "WAITING"
    assert world.runtime.catalog.boot_proofs(VM, 10) == []  # no verdict yet
    world.services.clone_jobs.cancel(job.name)
    job = world.run_to_end(job.id)
    assert job.state is JobState.CANCELLED and world.kinds() == [] and kept(world, job) == {}


@pytest.mark.parametrize("point", ["target.screenshot.instance", "store.note_progress", "store.complete_step"])
@pytest.mark.parametrize("phase", ["before", "after"])
def test_a_worker_that_dies_between_evidence_and_commit(world, point, phase):
    def kill(name, when):
        if (name, when) == (point, phase) and kept(world, job):
            io_points.install_hook(None)
            raise Killed

    job = world.create()
    io_points.install_hook(kill)
    if point == "target.screenshot.instance":  # evidence of an earlier attempt is there
        world.runtime.evidence.keep(job.id, 0, console="old", screen=b"old", summary={})
    try:
        with pytest.raises(Killed):
            world.run()
    finally:
        io_points.install_hook(None)
    job = world.run_to_end(job.id)
    assert job.state is JobState.SUCCEEDED
    files = kept(world, job)
    assert {name: evidence.fact(content) for name, content in files.items()} == boot_of(job)["files"]
    assert len(world.runtime.catalog.boot_proofs(VM, 10)) == 1


def test_a_worker_that_has_lost_the_job_does_not_write_over_the_evidence(light):
    job = light.run_to_end(light.create().id)
    before = kept(light, job)
    with pytest.raises(evidence.EvidenceTakenError):
        light.runtime.evidence.keep(job.id, job.epoch - 1, console="late", screen=None, summary={})
    assert kept(light, job) == before


def test_a_screen_that_cannot_be_had_fails_no_job(light):
    policy(light, required=True)
    light.target.add_fault(op="screenshot", fault="refuse", times=None)
    job = light.run_to_end(light.create().id)
    assert job.state is JobState.SUCCEEDED
    assert set(kept(light, job)) == {"console.txt", "evidence.json"}
    assert boot_of(job)["missing"] == {"screen.png": "screenshot was refused (scripted fault)."}


@pytest.mark.parametrize(
    ("screen", "why"),
    [(b"GIF89a", "no PNG"), (b"\x89PNG\r\n\x1a\n" + bytes(9 * 2**20), "more than 8388608"), (None, "no screen")],
)
def test_a_screen_is_a_png_of_a_size_that_can_be_kept(light, monkeypatch, screen, why):
    monkeypatch.setattr(light.target, "screenshot", lambda _ref: screen)
    job = light.run_to_end(light.create().id)
    assert set(kept(light, job)) == {"console.txt", "evidence.json"} and why in boot_of(job)["missing"]["screen.png"]


def test_a_console_with_anything_in_it(world, monkeypatch):
    """NUL, which PostgreSQL's JSON refuses, half a code point, and more than is kept."""
    text = "\0\x1b[31m" + "\N{SNOWMAN}" * 200_000 + "\udcff"
    monkeypatch.setattr(world.target, "boot_report", lambda _ref: BootReport(BootVerdict.BOOTED, text, 1.5))
    job = world.run_to_end(world.create().id)
    assert job.state is JobState.SUCCEEDED
    assert evidence.CONSOLE_LIMIT_BYTES - 3 < len(kept(world, job)["console.txt"].decode().encode()) <= 256 * 1024
    monkeypatch.setattr(world.target, "boot_report", lambda _ref: BootReport(BootVerdict.BOOTED, "\0 up", 1.5))
    job = world.run_to_end(world.create("clone-2").id)
    assert boot_of(job)["console"] == "\N{REPLACEMENT CHARACTER} up" and kept(world, job)["console.txt"] == b"\0 up"


@pytest.mark.parametrize("errno_", [28, 30])
def test_a_disk_that_takes_no_evidence_fails_no_job(light, monkeypatch, errno_):
    real = evidence._write

    def write(path, content):
        if path.name == ".evidence.json.tmp":
            raise OSError(errno_, "no room")
        real(path, content)

    monkeypatch.setattr(evidence, "_write", write)
    policy(light, required=True)
    job = light.run_to_end(light.create().id)
    assert job.state is JobState.SUCCEEDED and boot_of(job)["verdict"] == "BOOTED"
    assert kept(light, job) == {} and boot_of(job)["files"] == {}
    why = "the disk of the data folder is full" if errno_ == 28 else "it could not be written: no room"
    assert boot_of(job)["missing"] == dict.fromkeys(("console.txt", "screen.png", "evidence.json"), why)


def test_evidence_stays_with_the_record_of_a_deleted_vm(world):
    job = world.run_to_end(world.create().id)
    before = kept(world, job)
    world.services.migrating_vms.delete(VM)
    with pytest.raises(NotFound):
        world.services.clone_jobs.get(job.name)
    assert kept(world, job) == before != {}
    assert world.runtime.catalog.boot_proofs(VM, 10) == []
