"""The judge itself: it acquits what is right, and each rule that is broken by hand is named."""

from guarantee.judge import judge
from harness import VM

from models.states import JobState
from targets.base import ResourceKind
from tasks.plan import ref_of, spec_of


def rules(world, **options):
    options.setdefault("final", True)
    return {violation.rule for violation in judge(world.engine, world.target, **options).violations}


def succeeded(world):
    job = world.create()
    job = world.run_to_end(job.id)
    assert job.state is JobState.SUCCEEDED
    world.clock.advance(1)
    return job


def cancelled(world):
    job = world.create()
    world.deliver()
    world.deliver()
    world.clock.advance(1)
    world.services.clone_jobs.cancel(job.name)
    job = world.run_to_end(job.id)
    assert job.state is JobState.CANCELLED
    world.clock.advance(1)
    return job


def test_what_is_right_is_acquitted(world):
    succeeded(world)
    job = world.create("clone-2")
    world.deliver()
    world.services.clone_jobs.cancel(job.name)
    world.run_to_end(job.id)
    finding = judge(world.engine, world.target, final=True, accepted={"r": job.name})
    assert finding.violations == []
    assert finding.late_calls == []
    assert finding.jobs == {"SUCCEEDED": 1, "CANCELLED": 1}


def test_a_delete_after_success(light):
    job = succeeded(light)
    row = next(row for row in job.ledger if row.kind == ResourceKind.INSTANCE)
    light.target.delete(ref_of(row), job_id=job.id, uid=row.uid)
    assert rules(light) == {"R2"}


def test_a_late_call_that_finds_nothing_is_counted_and_no_violation(light):
    job = succeeded(light)
    scaffold = next(row for row in job.ledger if row.kind == ResourceKind.ADAPTED_IMAGE)
    light.target.delete(ref_of(scaffold), job_id=job.id, uid="of old")
    finding = judge(light.engine, light.target, final=True)
    assert finding.violations == []
    assert [call.op for call in finding.late_calls] == ["delete"]


def test_something_left_behind(light):
    light.target._keeps_tombstones = False
    job = cancelled(light)
    light.target.create(spec_of(job, job.ledger[0]))
    assert rules(light) == {"R1"}


def test_two_instances_at_once(light):
    job = succeeded(light)
    row = next(row for row in job.ledger if row.kind == ResourceKind.INSTANCE)
    light.target._log.add("create", "effect", kind=row.kind, name="another", job_id=job.id, uid="two", outcome="made")
    assert rules(light) == {"R3", "R2"}


def test_success_without_the_instance(light):
    job = light.create()
    for _ in range(3):
        light.deliver()
    light.clock.advance(1)
    row = light.job(job.id).ledger[-1]
    light.target.remove_by_hand(ref_of(row))
    light.clock.advance(1)
    finding = light.run_to_end(job.id)
    assert finding.state is JobState.FAILED, "a look before success finds that it is gone"
    light.corrupt("UPDATE ledger SET uid = 'other' WHERE job_id = :job", job="none")
    assert rules(light) == set()


def test_a_kept_row_of_another_thing(light):
    succeeded(light)
    lines = [call for call in light.target.calls() if call.uid is None or call.kind != "instance"]
    assert "R4" in rules(light, calls=lines)


def test_a_job_that_does_not_end(light):
    light.create()
    assert rules(light, final=False) == set()
    assert rules(light) == {"R5"}


def test_an_accepted_job_that_is_not_there(light):
    assert rules(light, accepted={"r": f"{VM}/cloneJobs/gone"}) == {"R7"}


def test_a_stranger_deleted(light):
    seen = light.target.foreign(ResourceKind.DISK, "theirs", {"clonejob-id": "j"})
    light.target.delete(seen.ref, job_id="j", uid=seen.uid)
    assert rules(light) == {"R9"}


def test_what_nobody_logged(light):
    succeeded(light)
    light.target.clear()
    assert "LOG" in rules(light)
