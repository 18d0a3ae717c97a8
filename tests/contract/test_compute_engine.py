"""The Compute Engine target through Google's own client, against a stand-in that checks every request and behaves."""

from __future__ import annotations

import dataclasses

import pytest
from compute_world import Specs, target_of
from harness import Clock
from standins.compute_engine import StandIn

from targets.base import BootVerdict, Owner, ResourceKind, Status, Target, token
from targets.errors import ConflictError, RefusedError, SourceGoneError, TransientError, UnsupportedError

KINDS = [ResourceKind.ADAPTED_IMAGE, ResourceKind.DISK, ResourceKind.INSTANCE]
METHODS = {
    ResourceKind.ADAPTED_IMAGE: "images",
    ResourceKind.DISK: "disks",
    ResourceKind.INSTANCE: "instances",
}


class Stage:
    """A stand-in on a clock that the test moves, and one target that looks at it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.stand_in = StandIn(self.clock.timestamp)
        self.specs = Specs(self.stand_in.add_snapshot())
        self.targets = []
        self.target = self.connect()

    def connect(self, **options):
        """The target as another worker sees it."""
        self.targets.append(target_of(self.stand_in, **options))
        return self.targets[-1]

    def spec(self, kind, job="job-1", **details):
        match kind:
            case ResourceKind.ADAPTED_IMAGE:
                return self.specs.image(job=job, **details)
            case ResourceKind.DISK:
                return self.specs.disk(job=job, **details)
        self.target.create(self.specs.disk(job=job, **details))
        return self.specs.instance(job=job, **details)

    def slow(self, seconds=30.0):
        for kind in METHODS.values():
            for verb in ("insert", "delete"):
                self.stand_in.project.durations[f"{kind}.{verb}"] = seconds

    def close(self):
        refused = self.stand_in.refused
        for target in self.targets:
            target.close()
        self.stand_in.close()
        assert refused == []


@pytest.fixture
def stage():
    made = Stage()
    yield made
    made.close()


def test_it_keeps_the_protocol(stage):
    assert isinstance(stage.target, Target) and stage.target.boots_from_image is False


@pytest.mark.parametrize("kind", KINDS)
def test_create_starts_and_find_sees_it_become_ready(stage, kind):
    spec = stage.spec(kind, labels={"team": "blue"} if kind is not ResourceKind.ADAPTED_IMAGE else {})
    stage.slow()
    begun = stage.target.create(spec)
    assert begun.status is Status.CREATING
    assert stage.connect().find(spec.ref) == dataclasses.replace(begun, progress_percent=None)
    stage.clock.advance(31)
    ready = stage.target.find(spec.ref)
    assert (ready.status, ready.uid, ready.job_id) == (Status.READY, begun.uid, "job-1")
    again = stage.connect().create(dataclasses.replace(spec, owner=Owner("job-1", 2)))
    assert again == ready and again.labels["clonejob-epoch"] == "1"
    assert len(stage.stand_in.made(kind)) == 1
    assert not [method for method in stage.stand_in.requests if method.endswith(".wait")]


@pytest.mark.parametrize("kind", KINDS)
def test_a_lost_reply_makes_nothing_twice_and_names_the_same_request(stage, kind):
    spec = stage.spec(kind)
    stage.stand_in.fault(f"{METHODS[kind]}.insert", "lose")
    with pytest.raises(TransientError):
        stage.target.create(spec)
    made = stage.connect().create(spec)
    assert made.status is Status.READY and len(stage.stand_in.made(kind)) == 1
    operation = stage.stand_in.project.operations[-1]
    assert operation.request_id == token("job-1", spec.ref.name)


@pytest.mark.parametrize("kind", KINDS)
def test_delete_until_gone_by_numeric_id(stage, kind):
    spec = stage.spec(kind)
    made = stage.target.create(spec)
    stage.slow()
    stage.target.delete(spec.ref, job_id="job-1", uid=made.uid)
    assert stage.target.find(spec.ref).status is Status.DELETING
    stage.target.delete(spec.ref, job_id="job-1", uid=made.uid)  # again, while it goes
    with pytest.raises(TransientError):
        stage.target.create(spec)
    stage.clock.advance(31)
    assert stage.target.find(spec.ref) is None
    stage.target.delete(spec.ref, job_id="job-1", uid=made.uid)
    anew = stage.target.create(spec)
    assert anew.uid != made.uid


def test_a_delete_that_ends_while_it_is_looked_at_is_no_stopped_instance(stage, monkeypatch):
    spec = stage.spec(ResourceKind.INSTANCE)
    made = stage.target.create(spec)
    stage.slow()
    stage.target.delete(spec.ref, job_id="job-1", uid=made.uid)
    run = stage.stand_in.methods.run

    def ends_after_the_first_look(call, fault):
        answer = run(call, fault)
        if call.method == "instances.get":
            stage.clock.advance(31)
        return answer

    monkeypatch.setattr(stage.stand_in.methods, "run", ends_after_the_first_look)
    assert stage.target.find(spec.ref).status is Status.DELETING
    assert stage.target.find(spec.ref) is None


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_ours_is_neither_adopted_nor_deleted(stage, kind):
    spec = stage.spec(kind)
    theirs = stage.stand_in.foreign(spec.ref, {"made-by": "a-user"})
    with pytest.raises(ConflictError):
        stage.target.create(spec)
    assert stage.target.find(spec.ref).job_id is None
    for job_id, uid in (("job-1", theirs.uid), ("job-1", "1")):
        with pytest.raises(ConflictError):
            stage.target.delete(spec.ref, job_id=job_id, uid=uid)
    ours = stage.stand_in.foreign(spec.ref, {"clonejob-id": "job-2"})
    with pytest.raises(ConflictError):
        stage.target.delete(spec.ref, job_id="job-1", uid=ours.uid)
    assert stage.stand_in.resource(spec.ref) is ours


def test_a_delete_that_lands_late_does_not_meet_what_has_the_name_by_then(stage, monkeypatch):
    spec = stage.spec(ResourceKind.DISK)
    made = stage.target.create(spec)
    run = stage.stand_in.methods.run
    replaced = []

    def replace_first(call, fault):
        if call.method == "disks.delete" and not replaced:
            path = next(iter(stage.stand_in.project.resources))
            old = stage.stand_in.project.resources.pop(path)
            replaced.append(dataclasses.replace(old, uid="99999", body={"labels": {}}))
            stage.stand_in.project.resources[path] = replaced[0]
        return run(call, fault)

    monkeypatch.setattr(stage.stand_in.methods, "run", replace_first)
    stage.target.delete(spec.ref, job_id="job-1", uid=made.uid)
    assert stage.stand_in.resource(spec.ref) is replaced[0]


@pytest.mark.parametrize("kind", KINDS)
def test_an_operation_that_ends_in_an_error_is_told_in_its_own_words(stage, kind):
    spec = stage.spec(kind)
    stage.slow()
    method = f"{METHODS[kind]}.insert"
    stage.stand_in.fault(method, "operation", reason="QUOTA_EXCEEDED", message="Quota 'CPUS_ALL_REGIONS' exceeded.")
    assert stage.target.create(spec).status is Status.CREATING
    stage.clock.advance(31)
    assert stage.target.find(spec.ref) is None
    with pytest.raises(RefusedError, match="Quota 'CPUS_ALL_REGIONS' exceeded"):
        stage.connect().create(spec)
    assert len(stage.stand_in.made(kind)) == 1


@pytest.mark.parametrize("kind", [ResourceKind.ADAPTED_IMAGE, ResourceKind.DISK])  # an instance has no such state
def test_what_is_half_made_is_removed_and_made_anew(stage, kind):
    spec = stage.spec(kind)
    stage.stand_in.fault(f"{METHODS[kind]}.insert", "half_made", reason="INTERNAL_ERROR", message="lost a zone")
    with pytest.raises(TransientError, match="lost a zone"):
        stage.target.create(spec)
    assert stage.target.create(spec).status is Status.READY
    assert len(stage.stand_in.everything()) == 1


def test_a_failed_disk_is_found_with_its_reason(stage):
    spec = stage.spec(ResourceKind.DISK)
    stage.slow()
    stage.stand_in.fault("disks.insert", "half_made", reason="INTERNAL_ERROR", message="lost a zone")
    stage.target.create(spec)
    stage.clock.advance(31)
    seen = stage.target.find(spec.ref)
    assert seen.status is Status.FAILED and "lost a zone" in seen.detail


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [(403, "rateLimitExceeded", TransientError), (429, "rateLimitExceeded", TransientError),
     (503, "backendError", TransientError), (403, "quotaExceeded", RefusedError), (403, "forbidden", RefusedError),
     (400, "invalid", RefusedError)],
)  # fmt: skip
def test_http_errors_are_sorted_and_leave_nothing(stage, status, reason, kind):
    spec = stage.spec(ResourceKind.DISK)
    stage.stand_in.fault("disks.insert", "http", status=status, reason=reason, message="in its own words")
    with pytest.raises(kind, match="in its own words"):
        stage.target.create(spec)
    assert stage.target.find(spec.ref) is None
    assert stage.target.create(spec).status is Status.READY


def test_quotas_and_names_that_are_taken(stage):
    stage.stand_in.project.quotas["disks"] = 0
    spec = stage.spec(ResourceKind.DISK)
    with pytest.raises(RefusedError, match="Quota 'DISKS' exceeded"):
        stage.target.create(spec)
    stage.stand_in.project.quotas.clear()
    stage.target.create(stage.specs.disk(job="job-2"))
    with pytest.raises(ConflictError):
        stage.target.create(spec)


def test_two_workers_that_create_at_once_make_one(stage, monkeypatch):
    """The second insert finds the name taken: it looks again, and adopts what is ours."""
    spec, run = stage.spec(ResourceKind.DISK), stage.stand_in.methods.run

    def hide_first(call, fault):
        if call.method == "disks.get" and "disks.insert" not in stage.stand_in.requests:
            stage.stand_in.foreign(spec.ref, spec.owner.labels())
            raise LookupError
        return run(call, fault)

    monkeypatch.setattr(stage.stand_in.methods, "run", hide_first)
    assert stage.target.create(spec).job_id == "job-1"
    assert stage.stand_in.made(ResourceKind.DISK) == []
    stage.stand_in.refused.clear()  # the look that was hidden


def test_an_insert_that_no_get_shows_yet_is_not_absent(stage):
    spec = stage.spec(ResourceKind.DISK)
    stage.slow()
    stage.stand_in.fault("disks.insert", "hidden", delay_s=10)
    stage.target.create(spec)
    with pytest.raises(TransientError, match="about to be created"):
        stage.connect().find(spec.ref)
    again = stage.connect().create(spec)  # the same request id: the operation of the first
    assert again.status is Status.CREATING and len(stage.stand_in.made(ResourceKind.DISK)) == 1
    stage.clock.advance(31)
    assert stage.target.find(spec.ref).status is Status.READY


def test_a_disk_in_use_waits_for_its_instance(stage):
    disk, instance = stage.specs.disk(), stage.specs.instance()
    made, vm = stage.target.create(disk), None
    vm = stage.target.create(instance)
    with pytest.raises(TransientError, match="already being used"):
        stage.target.delete(disk.ref, job_id="job-1", uid=made.uid)
    stage.target.delete(instance.ref, job_id="job-1", uid=vm.uid)
    assert stage.target.find(disk.ref).status is Status.READY  # not deleted with the instance
    stage.target.delete(disk.ref, job_id="job-1", uid=made.uid)
    assert stage.target.find(disk.ref) is None


def test_a_regional_disk_and_its_instance(stage):
    details = {"diskReplicaZones": ["europe-west1-c"]}
    disk = stage.specs.disk(**details)
    made = stage.target.create(disk)
    assert stage.target.find(disk.ref) == made and "regionDisks.insert" in stage.stand_in.requests
    vm = stage.target.create(stage.specs.instance(**details))
    assert {seen.uid for seen in stage.target.inventory()} == {made.uid, vm.uid}
    stage.target.delete(vm.ref, job_id="job-1", uid=vm.uid)
    stage.target.delete(disk.ref, job_id="job-1", uid=made.uid)
    assert stage.target.find(disk.ref) is None and stage.stand_in.everything() == []


def test_parts_must_be_ready_and_ours(stage):
    with pytest.raises(RefusedError, match="not ready"):
        stage.target.create(stage.specs.instance())
    stage.target.create(stage.specs.disk(job="job-2"))
    with pytest.raises(RefusedError, match="not ready"):
        stage.target.create(stage.specs.instance())
    with pytest.raises(RefusedError, match="not ready"):
        stage.target.create(stage.specs.disk("c-disk1", image="c-adapted"))


def test_sources_are_looked_at_before_and_when_they_are_used(stage):
    spec = stage.spec(ResourceKind.DISK)
    stage.target.check([spec, stage.specs.instance()])
    image = dataclasses.replace(spec.snapshot, key=stage.stand_in.add_image())
    stage.target.check([dataclasses.replace(spec, snapshot=image)])
    for told in (11 << 30, 9 << 30, 512):
        wrong = dataclasses.replace(spec.snapshot, virtual_size_bytes=told)
        with pytest.raises(SourceGoneError, match=f"has 10 GiB, and {told} bytes were told.*size in bytes: {10 << 30}"):
            stage.target.check([dataclasses.replace(spec, snapshot=wrong)])
    within = dataclasses.replace(spec.snapshot, virtual_size_bytes=(10 << 30) - 512)  # providers count whole GiB
    stage.target.check([dataclasses.replace(spec, snapshot=within)])
    stage.stand_in.methods.sources.clear()
    for call in (lambda: stage.target.check([spec]), lambda: stage.target.create(spec)):
        with pytest.raises(SourceGoneError):
            call()
    uploaded = dataclasses.replace(spec.snapshot, key="cycle-1/disk0", format="raw")
    with pytest.raises(UnsupportedError, match="--reference"):
        stage.target.check([dataclasses.replace(spec, snapshot=uploaded)])
    assert stage.stand_in.calls() == [] or stage.stand_in.everything() == []


def test_the_inventory_goes_through_all_pages_and_names_only_what_is_labelled(stage):
    stage.stand_in.methods.page_size = 2
    for number in range(5):
        stage.target.create(stage.specs.disk(f"c-disk{number}"))
    stage.target.create(stage.specs.image())
    stage.stand_in.foreign(stage.specs.disk("theirs").ref)
    assert sorted(seen.ref.name for seen in stage.target.inventory()) == [
        "c-adapted", *(f"c-disk{number}" for number in range(5)),
    ]  # fmt: skip
    stage.stand_in.project.list_lag_s = 60
    assert stage.target.inventory() == []  # a list may be old; find is not
    assert stage.target.find(stage.specs.disk().ref) is not None


@pytest.mark.parametrize(("state", "method"), [("TERMINATED", "instances.start"), ("SUSPENDED", "instances.resume")])
def test_an_instance_that_does_not_run_is_started_again(stage, state, method):
    spec = stage.spec(ResourceKind.INSTANCE)
    made = stage.target.create(spec)
    stage.stand_in.power_off(spec.ref)
    stage.stand_in.resource(spec.ref).status = state
    assert stage.target.find(spec.ref).status is Status.STOPPED
    assert stage.target.create(spec).uid == made.uid
    assert stage.target.find(spec.ref).status is Status.READY and method in stage.stand_in.requests


def test_boot_evidence(stage):
    spec = stage.spec(ResourceKind.INSTANCE)
    assert stage.target.boot_report(spec.ref).verdict is BootVerdict.WAITING
    stage.target.create(spec)
    for console, verdict in (
        ("Booting the kernel", BootVerdict.WAITING),
        ("x" * 20_000 + "\nweb-1 login: ", BootVerdict.BOOTED),
        ("BdsDxe: No bootable option or device was found.", BootVerdict.NO_BOOT),
    ):
        stage.stand_in.methods.consoles["*"] = console
        report = stage.target.boot_report(spec.ref)
        assert report.verdict is verdict and console.endswith(report.console) and len(report.console) <= 8192
    assert stage.connect(boot_pattern="the kernel").boot_report(spec.ref).verdict is not BootVerdict.BOOTED
    assert stage.target.screenshot(spec.ref) is None
    stage.stand_in.fault("instances.getSerialPortOutput", "http")
    with pytest.raises(TransientError):
        stage.target.boot_report(spec.ref)


def test_a_screenshot_needs_a_display(stage):
    target = stage.connect(virtual_display=True)
    spec = stage.spec(ResourceKind.INSTANCE)
    assert target.screenshot(spec.ref) is None
    target.create(spec)
    assert target.screenshot(spec.ref).startswith(b"\xff\xd8")


def test_no_call_outlasts_its_time(stage):
    """After the call's time no request is begun any more: a process that was frozen makes nothing when it wakes up."""
    late = target_of(stage.stand_in, call_timeout_s=0.01)
    stage.targets.append(late)
    with pytest.raises(TransientError, match="took too long"):
        late.create(stage.spec(ResourceKind.DISK))
    assert stage.stand_in.requests == []


def test_nobody_there_is_worth_another_try(stage):
    gone = StandIn()
    target = target_of(gone)
    gone.close()
    stage.targets.append(target)
    with pytest.raises(TransientError, match="could not be reached"):
        target.find(stage.specs.disk().ref)
