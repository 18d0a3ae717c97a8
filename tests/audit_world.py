"""What the auditor's tests share: a target without tombstones, late calls, looks."""

from models.orphans import OrphanStore
from models.states import JobState
from targets.base import LABEL_EPOCH, LABEL_JOB_ID
from tasks.audit import audit
from tasks.orphans import Proof
from tasks.target_calls import TargetCalls

TWICE = Proof(inventories=2, quarantine_s=60)


def labels(job, epoch=1):
    return {LABEL_JOB_ID: getattr(job, "id", job), LABEL_EPOCH: str(epoch)}


def cancelled(world, job_id="clone-1"):
    """A job that made its disk and instance, and was cancelled before it had succeeded."""
    job = world.create(job_id)
    world.deliver()
    world.deliver()
    world.services.clone_jobs.cancel(job.name)
    job = world.run_to_end(job.id)
    assert job.state is JobState.CANCELLED
    assert not [each for each in world.target.inventory() if each.job_id == job.id]
    return job


def succeeded(world, job_id="clone-1"):
    job = world.create(job_id)
    world.run()
    return world.job(job.id)


def lands_late(world, job):
    """What the call of a frozen worker leaves when it lands after the end: a real create of the job's own disk."""
    return TargetCalls(world.runtime, job.target).create(job, job.ledger[0])


def look(world, *, delete=False, proof=TWICE, pause_s=60.0, **more):
    world.clock.advance(pause_s)
    return audit(world.runtime, proof=proof, delete=delete, **more)


def deletes(world):
    return [call for call in world.target.calls() if call.op == "delete" and call.phase == "effect"]


def whys(found):
    return [each.why for each in found.orphans]


def proven(world):
    job = cancelled(world)
    seen = lands_late(world, job)
    for _ in range(2):
        found = look(world)
    assert found.orphans[0].proven
    return job, seen, OrphanStore(world.engine, clock=world.clock)
