"""The EC2 target against moto and its layer, through the protocol."""

from __future__ import annotations

import dataclasses

import pytest
from standins.ec2.fixtures import kit, stand_in
from standins.ec2.hands import conformance_stage
from standins.ec2.kit import CLONE, IMAGE

from targets.base import LABEL_EPOCH, Status, Target
from targets.conformance import CHECKS, Outcome, run_check
from targets.ec2.target import Ec2Target
from targets.errors import ConflictError, RefusedError, TransientError


def test_a_clone_is_made_from_all_the_snapshots_and_goes_whole(kit):
    assert isinstance(kit.target, Target)
    image, clone = kit.target.create(kit.image()), kit.target.create(kit.instance(machine_type="e2-small"))
    assert (image.status, clone.status) == (Status.READY, Status.READY)
    assert kit.target.find(IMAGE) == image and kit.connect().find(CLONE) == clone
    assert clone.labels == {"team": "blue", "clonejob-id": "job-1", "clonejob-epoch": "1"}
    (request,) = kit.stand_in.requests("RegisterImage")
    asked = [request[f"BlockDeviceMapping.{n}.Ebs.SnapshotId"] for n in (1, 2)]
    assert asked == [each.key for each in kit.snapshots]
    assert [request[f"BlockDeviceMapping.{n}.Ebs.DeleteOnTermination"] for n in (1, 2)] == ["true", "true"]
    (request,) = kit.stand_in.requests("RunInstances")
    assert (request["InstanceType"], request["NetworkInterface.1.AssociatePublicIpAddress"]) == ("t3.small", "false")
    assert sorted(each.snapshot_id for each in kit.stand_in.backend.volumes.values()) == sorted(asked)
    assert {each.ref for each in kit.target.inventory()} == {IMAGE, CLONE}
    kit.delete_until_gone(IMAGE)
    assert kit.target.find(CLONE) == clone
    kit.delete_until_gone(CLONE)
    assert kit.target.inventory() == []
    assert (kit.stand_in.instances(), kit.stand_in.images(), kit.stand_in.volumes()) == ({}, {}, [])
    assert all(key in kit.stand_in.backend.snapshots for key in asked)


def test_create_again_returns_what_is_there(kit):
    image, clone = kit.target.create(kit.image()), kit.target.create(kit.instance())
    assert kit.connect().create(kit.image(epoch=2)).uid == image.uid
    again = kit.connect().create(kit.instance(epoch=2))
    assert (again.uid, again.labels[LABEL_EPOCH]) == (clone.uid, "1")
    assert len(kit.stand_in.made("instance")) == len(kit.stand_in.made("image")) == 1


# Replies that are lost, tokens that are not honoured, lists that lag


@pytest.mark.parametrize("honours_tokens", [True, False])
@pytest.mark.parametrize(("action", "kind"), [("RegisterImage", "image"), ("RunInstances", "instance")])
def test_a_lost_reply_makes_nothing_twice(kit, honours_tokens, action, kind):
    kit.stand_in.honours_tokens = honours_tokens
    kit.stand_in.fail(action, "lose_reply")
    clone = kit.clone()
    assert clone.status is Status.READY
    assert len(kit.stand_in.made(kind)) == 1 and kit.stand_in.faults[0].times == 0


def test_what_a_lost_reply_made_and_no_list_shows_yet_is_not_made_again(kit):
    kit.target.create(kit.image())
    kit.stand_in.freeze()
    kit.stand_in.lag_s = 60
    kit.stand_in.fail("RunInstances", "lose_reply")
    with pytest.raises(TransientError):
        kit.target.create(kit.instance())
    assert kit.target.find(CLONE) is None
    again = kit.connect().create(kit.instance())  # the token answers with the same instance
    assert again.status is Status.CREATING
    with pytest.raises(TransientError, match="IdempotentParameterMismatch"):  # another epoch, another request
        kit.connect().create(kit.instance(epoch=2))
    kit.stand_in.advance(61)
    assert kit.target.create(kit.instance(epoch=2)).uid == again.uid
    assert len(kit.stand_in.made("instance")) == 1


def test_twins_are_one_failed_instance_until_both_are_gone(kit):
    """The look by tag and the token fail at once: what was made twice is shown as a whole, and deleted as a whole."""
    kit.target.create(kit.image())
    kit.stand_in.freeze()
    kit.stand_in.honours_tokens, kit.stand_in.lag_s = False, 60
    first, _ = kit.target.create(kit.instance()), kit.target.create(kit.instance())
    kit.stand_in.advance(61)
    assert len(kit.stand_in.instances()) == 2
    with pytest.raises(RefusedError, match="did not honour the client token"):
        kit.target.create(kit.instance())
    seen = kit.target.find(CLONE)
    assert seen.status is Status.FAILED and all(one in seen.detail for one in kit.stand_in.instances())
    assert len(kit.target.inventory()) == 2  # the image and the twins
    kit.stand_in.end_s = 10
    kit.target.delete(CLONE, job_id="job-1", uid=seen.uid)
    going = kit.target.find(CLONE)
    assert (going.status, going.uid) == (Status.DELETING, seen.uid)
    kit.stand_in.advance(11)
    assert kit.target.find(CLONE) is None and kit.stand_in.instances() == {}
    assert first.uid in {effect.id for effect in kit.stand_in.effects if effect.what == "gone"}


def test_an_image_that_was_registered_and_not_tagged_is_ours_and_is_finished(kit):
    kit.stand_in.tags_images = False
    kit.stand_in.fail("CreateTags", "busy")
    with pytest.raises(TransientError):
        kit.target.create(kit.image())  # killed between the two calls
    (left,) = kit.target.inventory()
    assert (left.ref, left.status, left.job_id) == (IMAGE, Status.FAILED, "job-1")
    with pytest.raises(ConflictError):
        kit.target.create(kit.image(job_id="job-2"))
    made = kit.target.create(kit.image())
    assert (made.uid, made.status, made.labels["team"]) == (left.uid, Status.READY, "blue")
    kit.stand_in.fail("CreateTags", "busy", times=None)
    kit.delete_until_gone(IMAGE)
    with pytest.raises(TransientError):
        kit.target.create(kit.image())
    kit.delete_until_gone(IMAGE)  # untagged as it is
    assert kit.stand_in.images() == {}


def test_the_name_of_an_image_that_is_not_listed_yet_is_not_taken_by_another_job(kit):
    kit.stand_in.freeze()
    kit.stand_in.lag_s = 60
    assert kit.target.create(kit.image()).status is Status.CREATING
    with pytest.raises(TransientError, match="Duplicate"):
        kit.target.create(kit.image())
    kit.stand_in.advance(61)
    assert kit.target.create(kit.image()).status is Status.READY
    assert len(kit.stand_in.made("image")) == 1


# Whose it is


def test_what_a_user_made_under_our_name_stays(kit):
    theirs = kit.stand_in.launch_by_hand({"Name": "c-vm"})
    image = kit.stand_in.user.register_image(
        Name="c-boot", RootDeviceName="/dev/sda1",
        BlockDeviceMappings=[{"DeviceName": "/dev/sda1", "Ebs": {"SnapshotId": kit.snapshots[0].key}}],
    )["ImageId"]  # fmt: skip
    for spec, uid in ((kit.instance(), theirs), (kit.image(), image)):
        seen = kit.target.find(spec.ref)
        assert (seen.uid, seen.job_id) == (uid, None)
        with pytest.raises(ConflictError):
            kit.target.create(spec)
        with pytest.raises(ConflictError):
            kit.target.delete(spec.ref, job_id="job-1", uid=uid)
    assert kit.target.inventory() == []
    assert list(kit.stand_in.instances()) == [theirs] and list(kit.stand_in.images()) == [image]


def test_an_instance_with_copied_tags_is_not_ours(kit):
    """The console's "launch more like this" copies tags; a client token is not copied."""
    clone = kit.clone()
    copy = kit.stand_in.launch_by_hand({"Name": "c-vm", "clonejob-name": "c-vm", "clonejob-id": "job-1",
                                        "clonejob-epoch": "1"})  # fmt: skip
    assert kit.target.find(CLONE) == clone
    kit.delete_until_gone(IMAGE)
    kit.target.delete(CLONE, job_id="job-1", uid=clone.uid)
    seen = kit.target.find(CLONE)
    assert (seen.uid, seen.job_id) == (copy, None) and "job-1" in seen.detail
    with pytest.raises(ConflictError):
        kit.target.delete(CLONE, job_id="job-1", uid=copy)
    assert kit.target.inventory() == []
    assert list(kit.stand_in.instances()) == [copy]


def test_delete_needs_the_job_and_the_uid(kit):
    for seen in (kit.clone(), kit.target.find(IMAGE)):
        for job_id, uid in (("job-1", "i-0"), ("job-2", seen.uid)):
            with pytest.raises(ConflictError):
                kit.target.delete(seen.ref, job_id=job_id, uid=uid)
        assert kit.target.find(seen.ref) == seen


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


# Lives


def test_the_same_name_later_is_another_instance(kit):
    first = kit.clone()
    kit.delete_until_gone(CLONE)
    second = kit.target.create(kit.instance())
    assert second.uid != first.uid and second.status is Status.READY
    with pytest.raises(ConflictError):
        kit.target.delete(CLONE, job_id="job-1", uid=first.uid)
    tokens = [request["ClientToken"] for request in kit.stand_in.requests("RunInstances")]
    assert len(set(tokens)) == 2


def test_a_token_that_stands_for_a_terminated_instance_is_not_used_again(kit):
    """The list does not show the terminated one, so the look by tag begins with the first life again."""
    first = kit.clone()
    kit.delete_until_gone(CLONE)
    kit.stand_in.freeze()
    kit.stand_in.hide(first.uid, 60)
    second = kit.target.create(kit.instance())
    kit.stand_in.advance(61)
    assert second.uid != first.uid and kit.connect().create(kit.instance()).uid == second.uid
    assert len(kit.stand_in.made("instance")) == 2 and len(kit.stand_in.instances()) == 1


def test_starts_and_ends_take_their_time(kit):
    kit.target.create(kit.image())
    kit.stand_in.freeze()
    kit.stand_in.start_s = kit.stand_in.end_s = 30
    clone = kit.target.create(kit.instance())
    assert clone.status is Status.CREATING and kit.target.find(CLONE).status is Status.CREATING
    assert kit.target.create(kit.instance()).uid == clone.uid
    kit.stand_in.advance(31)
    assert kit.target.find(CLONE).status is Status.READY
    kit.target.delete(CLONE, job_id="job-1", uid=clone.uid)
    kit.target.delete(CLONE, job_id="job-1", uid=clone.uid)
    assert kit.target.find(CLONE).status is Status.DELETING
    with pytest.raises(TransientError, match="being deleted"):
        kit.target.create(kit.instance())
    kit.stand_in.advance(31)
    assert kit.target.find(CLONE) is None


def test_an_instance_is_there_until_its_volumes_are_gone(kit):
    kit.stand_in.leaves_volumes = True
    clone = kit.clone()
    kit.target.delete(CLONE, job_id="job-1", uid=clone.uid)
    left = kit.target.find(CLONE)
    assert (left.status, left.uid, left.job_id) == (Status.FAILED, clone.uid, "job-1") and "vol-" in left.detail
    assert left in kit.target.inventory()
    with pytest.raises(ConflictError):
        kit.target.delete(CLONE, job_id="job-2", uid=clone.uid)
    kit.target.delete(CLONE, job_id="job-1", uid=clone.uid)
    assert kit.target.find(CLONE) is None and kit.stand_in.volumes() == []


def test_a_stopped_instance_is_started_again_as_the_same(kit):
    clone = kit.clone()
    kit.stand_in.user.stop_instances(InstanceIds=[clone.uid])
    assert kit.target.find(CLONE).status is Status.STOPPED
    again = kit.target.create(kit.instance())
    assert (again.uid, again.status) == (clone.uid, Status.READY)


@pytest.mark.parametrize("name", ["c", "9-", "c" * 128])
def test_names_at_the_limits(kit, name):
    image = kit.target.create(kit.image(name, "j" * 63))
    clone = kit.target.create(kit.instance(name, "j" * 63, image=name))
    assert sorted(kit.target.inventory(), key=str) == sorted([image, clone], key=str)
    assert kit.target.find(image.ref) == image


def test_an_image_that_is_missing_or_of_another_job_is_refused(kit):
    kit.target.create(kit.image("d-boot", "job-2"))
    for wrong in ("none", "d-boot"):
        with pytest.raises(RefusedError, match="not ready"):
            kit.target.create(kit.instance(image=wrong))
    assert kit.stand_in.instances() == {}
