"""What the conformance kit needs of EC2: the stage, and what a user or a bad day does."""

from __future__ import annotations

import contextlib

from standins.ec2.kit import GIB, Ec2Kit

from targets.base import ResourceKind, Snapshot
from targets.errors import TransientError

_CALLS = {
    ("create", ResourceKind.BOOT_IMAGE): "RegisterImage",
    ("create", ResourceKind.INSTANCE): "RunInstances",
    ("delete", ResourceKind.BOOT_IMAGE): "DeregisterImage",
    ("delete", ResourceKind.INSTANCE): "TerminateInstances",
}


class Ec2Hands:
    def __init__(self, stand_in):
        self.stand_in, self.kit = stand_in, Ec2Kit(stand_in)

    @contextlib.contextmanager
    def foreign(self, ref):
        user = self.stand_in.user
        if ref.kind is ResourceKind.INSTANCE:
            made = self.stand_in.launch_by_hand({"Name": ref.name})
            yield
            user.terminate_instances(InstanceIds=[made])
            return
        mapping = {"DeviceName": "/dev/sda1", "Ebs": {"SnapshotId": self.kit.snapshots[0].key}}
        made = user.register_image(Name=ref.name, RootDeviceName="/dev/sda1", BlockDeviceMappings=[mapping])["ImageId"]
        yield
        user.deregister_image(ImageId=made)

    def leave_half_made(self, spec):
        """An image that is not tagged yet. RunInstances makes all or nothing."""
        if spec.ref.kind is ResourceKind.INSTANCE:
            self._not_applicable("an instance of EC2 is never half made")
        self.stand_in.tags_images = False
        self.stand_in.fail("CreateTags", "busy")
        with contextlib.suppress(TransientError):
            self.kit.target.create(spec)
        self.stand_in.tags_images = True

    def power_off(self, ref):
        self.stand_in.user.stop_instances(InstanceIds=[self.kit.target.find(ref).uid])

    def made_at_once(self, spec, other):
        """The list does not show the first yet when the second is started, and no worker lives to look again."""
        if spec.ref.kind is ResourceKind.BOOT_IMAGE:
            self._not_applicable("names of images are unique")
        first = self.kit.target.create(spec)
        self.stand_in.hide(first.uid, 3600)
        self.kit.connect().create(other)
        self.stand_in.hide(first.uid, 0)

    @contextlib.contextmanager
    def lost_reply(self, operation, ref):
        """After the lost reply EC2 says no more: otherwise the call itself would look and find what it made."""
        self.stand_in.fail(_CALLS[operation, ref.kind], "go_silent")
        yield
        self.stand_in.faults.clear()

    @contextlib.contextmanager
    def throttled(self, operation):
        self.stand_in.fail(".*", "throttle", times=None)
        yield
        self.stand_in.faults.clear()

    @contextlib.contextmanager
    def slow(self, ref):
        if ref.kind is ResourceKind.BOOT_IMAGE:
            self._not_applicable("EC2 deregisters images at once")
        self.stand_in.start_s = self.stand_in.end_s = 0.3
        yield
        self.stand_in.start_s = self.stand_in.end_s = 0.0

    def _not_applicable(self, why):
        from targets.conformance.check import NotApplicableError

        raise NotApplicableError(why)


def conformance_stage(stand_in):
    """The stage of ``targets.conformance`` for a stand-in."""
    from targets.conformance import Hands, Stage

    own = Ec2Hands(stand_in)
    hands = Hands(foreign=own.foreign, leave_half_made=own.leave_half_made, power_off=own.power_off,
                  lost_reply=own.lost_reply, made_at_once=own.made_at_once, throttled=own.throttled, slow=own.slow)  # fmt: skip
    return Stage(
        connect=own.kit.connect,
        snapshots=own.kit.snapshots,
        gone=Snapshot("snap-00000000000000000", "reference", 8 * GIB, ""),
        kinds=frozenset({ResourceKind.BOOT_IMAGE, ResourceKind.INSTANCE}),
        keeps_tombstones=False,
        boots=True,
        patience_s=10,
        hands=hands,
    )
