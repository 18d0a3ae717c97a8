"""What the EC2 target refuses before anything is made, what it asks EC2 for, and what it makes of EC2's refusals."""

from __future__ import annotations

import base64
import dataclasses
import email
import socket
import time

import pytest
from standins.ec2.fixtures import kit, stand_in
from standins.ec2.kit import CLONE, IMAGE

from targets.base import AdaptedImageSpec, BootVerdict, Owner, ResourceKind, ResourceRef, Snapshot
from targets.errors import RefusedError, SourceGoneError, TransientError, UnsupportedError


# Before anything is made


def plan(kit, **details):
    return [kit.image(details=details), kit.instance(details=details)]


def test_check_accepts_a_good_plan_and_makes_nothing(kit):
    kit.target.check(plan(kit))
    assert kit.stand_in.effects == [] and kit.target.inventory() == []
    probes = [action for action, params in kit.stand_in.calls if params.get("DryRun") == "true"]
    assert probes == ["RegisterImage", "RunInstances"]


def test_check_refuses_what_ec2_cannot_do_and_says_what_to_do(kit):
    raw = Snapshot("cycle-1/disk0.raw", "raw", 1, "")
    adapted = AdaptedImageSpec(ResourceRef(ResourceKind.ADAPTED_IMAGE, "c-adapted"), Owner("job-1", 1), raw, "web-1")
    for specs, words in (
        ([adapted], "skip_os_adaptation"),
        ([kit.image(snapshots=(raw,))], "registered by reference"),
        ([kit.image(snapshots=kit.snapshots * 7)], "1 to 12 disks"),
        ([kit.instance(machine_type="cray-1")], "instance_types"),
        ([kit.instance(metadata={"user-data": "x" * 17000})], "16 KiB"),
        (plan(kit, secureBoot=True), "secureBoot"),
        (plan(kit, bootConversion="BIOS_TO_EFI", diskReplicaZones=["b"]), "bootConversion.*diskReplicaZones"),
        (plan(kit, enableVtpm=True), "enableVtpm"),
        (plan(kit, networkInterfaces=[{"externalIp": "203.0.113.7"}]), "externalIp"),
    ):
        with pytest.raises(UnsupportedError, match=words):
            kit.target.check(specs)
    assert kit.stand_in.calls == []


def test_check_sees_that_a_snapshot_is_gone(kit):
    kit.stand_in.user.delete_snapshot(SnapshotId=kit.snapshots[0].key)
    with pytest.raises(SourceGoneError, match=kit.snapshots[0].key):
        kit.target.check(plan(kit))
    with pytest.raises(SourceGoneError):
        kit.target.create(kit.image())


@pytest.mark.parametrize("told", [512, 9 << 30])
def test_check_sees_that_a_snapshot_has_another_size(kit, told):
    first, *rest = kit.snapshots
    kit.snapshots = (dataclasses.replace(first, virtual_size_bytes=told), *rest)
    with pytest.raises(SourceGoneError, match=f"has 8 GiB, and {told} bytes were told.*size in bytes: {8 << 30}"):
        kit.target.check(plan(kit))


def test_an_isolated_target_needs_groups_that_let_nothing_out(kit):
    for groups, words in (
        ((), "has no security group.*create-security-group"),
        ((kit.stand_in.open_group,), f"{kit.stand_in.open_group} has rules that let traffic out"),
        ((kit.stand_in.closed_group, kit.stand_in.open_group), "revoke-security-group-egress"),
        (("sg-00000000",), "sg-00000000.*create-security-group"),
    ):
        with pytest.raises(UnsupportedError, match=words):
            kit.connect(security_groups=groups).check(plan(kit))
    kit.connect(security_groups=(kit.stand_in.open_group,), isolated=False).check(plan(kit))


def test_a_group_that_was_opened_after_the_check_stops_the_launch(kit):
    kit.target.check(plan(kit))
    kit.target.create(kit.image())
    kit.stand_in.user.authorize_security_group_egress(
        GroupId=kit.stand_in.closed_group, IpPermissions=[{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
    )
    with pytest.raises(RefusedError, match="let traffic out"):
        kit.target.create(kit.instance())
    assert kit.stand_in.instances() == {}


def test_check_says_when_a_permission_is_missing(kit):
    kit.stand_in.refuse_dry_runs("RunInstances", "UnauthorizedOperation")
    with pytest.raises(RefusedError, match="docs/ec2.md"):
        kit.target.check(plan(kit))
    kit.stand_in.refuse_dry_runs("RunInstances", "InvalidAMIID.NotFound")  # says nothing about permission
    kit.target.check(plan(kit))


def test_what_the_details_ask_for_reaches_ec2(kit):
    details = {
        "bootOption": "COMPUTE_ENGINE_BOOT_OPTION_EFI", "enableVtpm": True, "diskType": "COMPUTE_ENGINE_DISK_TYPE_STANDARD",
        "encryption": {"kmsKey": "arn:aws:kms:eu-west-1:1:key/k"}, "serviceAccount": "sa@example.com",
        "networkInterfaces": [{"subnetwork": "regions/r/subnetworks/tests", "externalIp": "ephemeral"}],
    }  # fmt: skip
    other = kit.stand_in.user.describe_subnets()["Subnets"][1]["SubnetId"]
    target = kit.connect(isolated=False, subnets={"tests": other}, instance_types={"e2-medium": "m5.large"})
    target.create(kit.image(details=details))
    target.create(kit.instance(details=details, machine_type="e2-medium", metadata={"startup-script": "#!/bin/sh\n:"}))
    (image,), (clone,) = kit.stand_in.requests("RegisterImage"), kit.stand_in.requests("RunInstances")
    assert (image["BootMode"], image["TpmSupport"], image["EnaSupport"]) == ("uefi", "v2.0", "true")
    assert image["BlockDeviceMapping.1.Ebs.VolumeType"] == "gp2" and "BlockDeviceMapping.1.Ebs.KmsKeyId" not in image
    for number in (1, 2):
        assert clone[f"BlockDeviceMapping.{number}.Ebs.KmsKeyId"] == "arn:aws:kms:eu-west-1:1:key/k"
        assert clone[f"BlockDeviceMapping.{number}.DeviceName"] == image[f"BlockDeviceMapping.{number}.DeviceName"]
    assert (clone["InstanceType"], clone["NetworkInterface.1.SubnetId"]) == ("m5.large", other)
    assert clone["NetworkInterface.1.AssociatePublicIpAddress"] == "true"
    assert clone["MetadataOptions.HttpTokens"] == "required"
    data = base64.b64decode(clone["UserData"]).decode()
    assert 'hostname: "web-1"' in _decoded(data) and "#!/bin/sh" in _decoded(data)


def _decoded(text):
    return "".join(part.get_payload(decode=True).decode() for part in email.message_from_string(text).walk()
                   if not part.is_multipart())  # fmt: skip


# When the API does not do what it is asked


def test_what_ec2_refuses_is_told_in_its_own_words(kit):
    for code, error in (
        ("VcpuLimitExceeded", RefusedError),
        ("UnauthorizedOperation", RefusedError),
        ("InvalidParameterValue", RefusedError),
        ("InvalidSnapshot.NotFound", SourceGoneError),
        ("IncorrectState", TransientError),
    ):
        kit.stand_in.fail("RegisterImage", "refuse", code=code)
        with pytest.raises(error, match=f"{code}.*told to refuse") as raised:
            kit.target.create(kit.image())
        assert raised.value.retryable is (error is TransientError)
    assert kit.stand_in.effects == []


@pytest.mark.parametrize("fault", ["busy", "lose_reply"])
def test_every_call_can_be_told_to_come_back(kit, fault):
    kit.clone()
    kit.stand_in.fail(".*", fault, times=None)
    for call in (lambda: kit.target.find(CLONE), kit.target.inventory, lambda: kit.target.boot_report(CLONE),
                 lambda: kit.target.delete(CLONE, job_id="job-1", uid="i-1"), lambda: kit.target.create(kit.instance()),
                 lambda: kit.target.find(IMAGE), lambda: kit.target.check(plan(kit))):  # fmt: skip
        with pytest.raises(TransientError):
            call()


def test_a_call_that_is_throttled_is_repeated_and_then_given_back(kit):
    kit.stand_in.fail("DescribeImages", "throttle", times=3)
    assert kit.target.find(IMAGE) is None and kit.stand_in.faults[0].hits == 3
    kit.stand_in.fail("DescribeImages", "throttle", times=None)
    with pytest.raises(TransientError, match="RequestLimitExceeded"):
        kit.target.find(IMAGE)


def test_an_instance_that_aws_ends_at_its_start_fails_with_the_reason(kit):
    kit.target.create(kit.image())
    kit.stand_in.end_at_start("Client.VolumeLimitExceeded", "Volume limit exceeded.")
    with pytest.raises(RefusedError, match="Volume limit exceeded"):
        kit.target.create(kit.instance())
    assert kit.target.find(CLONE) is None
    assert len(kit.stand_in.made("instance")) == 1


def test_a_server_that_says_nothing_costs_no_more_than_the_limit(kit):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = kit.connect(endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}", call_timeout_s=1.5)
        began = time.monotonic()
        with pytest.raises(TransientError):
            target.create(kit.image())
        assert time.monotonic() - began < 5  # the limit, and a busy machine


def test_nobody_listens(kit):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with pytest.raises(TransientError, match="cannot be reached"):
        kit.connect(endpoint=f"http://127.0.0.1:{port}").find(CLONE)


def test_without_credentials_it_says_where_to_put_them(kit, monkeypatch, tmp_path):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(RefusedError, match=r"needs credentials.*docs/ec2.md"):
        kit.connect().find(CLONE)


# The guest


def test_the_console_says_whether_it_booted(kit):
    kit.clone()
    for console, verdict in (
        ("Debian 12 web-1 ttyS0\n\nweb-1 login: ", BootVerdict.BOOTED),
        ("[ 0.0] Linux version", BootVerdict.WAITING),
        ("SeaBIOS\nNo bootable device.", BootVerdict.NO_BOOT),
        ("", BootVerdict.WAITING),
    ):
        kit.stand_in.console = console
        report = kit.target.boot_report(CLONE)
        assert (report.verdict, report.console) == (verdict, console) and "system ok" in report.detail
    assert kit.target.screenshot(CLONE) is None


def test_another_word_for_booted(kit):
    kit.clone()
    kit.stand_in.console = "READY TO SERVE\n"
    assert kit.connect(boot_pattern="READY TO SERVE").boot_report(CLONE).verdict is BootVerdict.BOOTED
    assert kit.target.boot_report(ResourceRef(ResourceKind.INSTANCE, "none")).verdict is BootVerdict.WAITING
