"""Names are not unique on EC2: two jobs may take one at the same moment."""

from __future__ import annotations

import dataclasses

import pytest
from standins.ec2.fixtures import kit, stand_in
from standins.ec2.hands import conformance_stage
from standins.ec2.kit import CLONE

from targets.base import Status
from targets.conformance import CHECKS, Outcome, run_check
from targets.ec2.target import Ec2Target
from targets.errors import ConflictError, RefusedError


def taken_at_once(kit, *, leaves_volumes=False):
    """The list shows the first job's instance only after the second one's worker has started its own, and died."""
    first = kit.clone()
    kit.target.create(kit.image("d-boot", "job-2"))
    kit.stand_in.leaves_volumes = leaves_volumes
    kit.stand_in.hide(first.uid, 60)
    second = kit.target.create(kit.instance(job_id="job-2", image="d-boot"))
    kit.stand_in.hide(first.uid, 0)
    assert kit.stand_in.instances() == {first.uid: "job-1", second.uid: "job-2"}
    return first, second


def test_of_two_jobs_under_one_name_each_finds_and_deletes_its_own(kit):
    first, second = taken_at_once(kit)
    assert kit.connect().find(CLONE, "job-1").uid == first.uid
    seen = kit.connect().find(CLONE, "job-2")
    assert (seen.uid, seen.status) == (second.uid, Status.FAILED) and "job-1" in seen.detail
    with pytest.raises(RefusedError, match="same moment"):
        kit.connect().create(kit.instance(job_id="job-2", image="d-boot"))
    kit.target.delete(CLONE, job_id="job-2", uid=second.uid)
    assert kit.stand_in.instances() == {first.uid: "job-1"}
    assert kit.target.find(CLONE, "job-2").job_id == kit.target.find(CLONE, "job-1").job_id == "job-1"


def test_what_is_left_of_a_jobs_own_instance_is_found_beside_anothers(kit):
    first, second = taken_at_once(kit, leaves_volumes=True)
    kit.target.delete(CLONE, job_id="job-2", uid=second.uid)
    left = kit.target.find(CLONE, "job-2")
    assert (left.job_id, left.uid, left.status) == ("job-2", second.uid, Status.FAILED) and "left of" in left.detail
    kit.target.delete(CLONE, job_id="job-2", uid=left.uid)
    assert kit.target.find(CLONE, "job-2") == kit.target.find(CLONE, "job-1")
    assert kit.stand_in.instances() == {first.uid: "job-1"} and len(kit.stand_in.volumes()) == len(kit.snapshots)


def test_the_kit_finds_a_target_that_looks_by_name_alone(kit):
    class ByNameAlone(Ec2Target):
        def find(self, ref, job_id=None):
            return super().find(ref)

    check = next(each for each in CHECKS if each.name == "of_two_jobs_under_one_name_each_finds_its_own")
    stage = conformance_stage(kit.stand_in)
    broken = dataclasses.replace(stage, connect=lambda: ByNameAlone(kit.options(), call_timeout_s=10))
    found = run_check(broken, check)
    assert found.outcome is Outcome.FAILED and "find what is of" in found.detail
    for uid in kit.stand_in.instances():  # the broken target cannot remove what it does not find
        kit.stand_in.user.terminate_instances(InstanceIds=[uid])


def test_of_two_jobs_that_take_a_name_at_once_the_younger_yields(kit):
    """Names are not unique on EC2: both have looked, both start."""
    kit.target.create(kit.image())
    kit.target.create(kit.image("d-boot", "job-2"))
    older = []

    def meanwhile():
        older.append(kit.connect().create(kit.instance(job_id="job-2", image="d-boot")))

    kit.stand_in.freeze()
    kit.stand_in.before("RunInstances", meanwhile)
    with pytest.raises(ConflictError, match="another job"):
        kit.target.create(kit.instance())
    assert kit.stand_in.instances() == {older[0].uid: "job-2"}
    assert kit.target.find(CLONE) == older[0]
