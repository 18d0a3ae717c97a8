"""What exists on EC2 of instances: the instances of one life of one name, and volumes that outlived theirs.

AWS lists a terminated instance for about an hour; it counts as gone once its volumes are gone too. Instances that share a
client token are one resource to us: there is more than one only where the token is not honoured, and then none of them
can be told to be the clone. So they are shown as one FAILED instance until all are gone, under the uid of the oldest.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from targets.base import LABEL_JOB_ID, Observed, ResourceKind, ResourceRef, Status
from targets.ec2.client import Calls
from targets.ec2.tags import DISPLAY_TAG, NAME_TAG, by_tag, labels_of, life_of, tags_of

_LIVE = {"pending": Status.CREATING, "running": Status.READY, "stopping": Status.STOPPED, "stopped": Status.STOPPED}
_ASKED_FOR = ("Client.UserInitiatedShutdown", "Client.InstanceInitiatedShutdown")


@dataclass(frozen=True, slots=True)
class Instance:
    """One instance as AWS lists it. ``life`` is None if its client token is none of ours."""

    id: str
    state: str
    tags: Mapping[str, str]
    life: int | None
    launch_time: dt.datetime
    reason_code: str
    reason: str

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Instance:
        """From DescribeInstances or RunInstances."""
        tags, reason = tags_of(raw), raw.get("StateReason", {})
        life = life_of(tags.get(LABEL_JOB_ID, ""), tags.get(NAME_TAG, ""), raw.get("ClientToken", ""))
        return cls(raw["InstanceId"], raw["State"]["Name"], tags, life, raw["LaunchTime"], reason.get("Code", ""),
                   reason.get("Message", ""))  # fmt: skip

    @property
    def live(self) -> bool:
        """Whether it still has to be terminated."""
        return self.state in _LIVE

    @property
    def gone(self) -> bool:
        """Whether AWS only remembers it."""
        return self.state == "terminated"


@dataclass(frozen=True, slots=True)
class Group:
    """The instances of one life of one name of one job, oldest first: one, if the client token is honoured."""

    name: str
    job_id: str
    life: int
    members: tuple[Instance, ...]

    @property
    def live(self) -> list[str]:
        """Ids of those that still have to be terminated."""
        return [each.id for each in self.members if each.live]

    @property
    def launch_time(self) -> dt.datetime:
        """When the first of them was started, to the second."""
        return self.members[0].launch_time

    @property
    def gone(self) -> bool:
        """Whether AWS only remembers them."""
        return all(each.gone for each in self.members)

    @property
    def died_of(self) -> str:
        """Why AWS ended what nobody asked it to end, if more of the same would not help; "" otherwise."""
        asked = [each for each in self.members if not each.reason_code.startswith("Client.")
                 or each.reason_code in _ASKED_FOR]  # fmt: skip
        return "" if asked or not self.gone else self.members[0].reason or self.members[0].reason_code

    def observed(self) -> Observed:
        """The group as one resource."""
        first = self.members[0]
        ref = ResourceRef(ResourceKind.INSTANCE, self.name)
        labels = labels_of(first.tags, ours=True)
        if len(self.members) > 1 and self.live:
            ids = ", ".join(f"{each.id} ({each.state})" for each in self.members)
            return Observed(ref, first.id, Status.FAILED, labels,
                            f"EC2 did not honour the client token and made {len(self.members)} instances: {ids}")  # fmt: skip
        one = next((each for each in self.members if each.live), first)
        return Observed(ref, first.id, _LIVE.get(one.state, Status.DELETING), labels,
                        "" if one.state == "running" else one.reason or f"is {one.state}")  # fmt: skip


def listed(calls: Calls, filters: Sequence[Mapping[str, Any]]) -> list[Instance]:
    """The instances that AWS lists, also those that it only remembers."""
    found = calls.pages("describe_instances", "Reservations", Filters=list(filters))
    return [Instance.of(raw) for reservation in found for raw in reservation.get("Instances", ())]


def groups_of(instances: Iterable[Instance]) -> list[Group]:
    """Those that are ours, oldest group first."""
    found: dict[tuple[str, str, int], list[Instance]] = defaultdict(list)
    for each in instances:
        if each.life is not None:
            found[each.tags[NAME_TAG], each.tags[LABEL_JOB_ID], each.life].append(each)
    groups = [Group(*key, tuple(sorted(members, key=_age))) for key, members in found.items()]
    return sorted(groups, key=lambda group: _age(group.members[0]))


def _age(instance: Instance) -> tuple[dt.datetime, str]:
    return instance.launch_time, instance.id


@dataclass(frozen=True, slots=True)
class View:
    """All that stands under one name, as one job sees it: what is its own comes before what others have there."""

    name: str
    job_id: str | None
    groups: tuple[Group, ...]
    foreign: tuple[Instance, ...]
    volumes: tuple[Mapping[str, Any], ...]

    @classmethod
    def of(cls, calls: Calls, name: str, job_id: str | None = None) -> View:
        """Look: at instances of ours first, at volumes and at others of that name only when there are none of the job."""
        groups = groups_of(listed(calls, by_tag(NAME_TAG, name)))
        living = [group for group in groups if not group.gone]
        if any(job_id in (None, group.job_id) for group in living):
            return cls(name, job_id, tuple(groups), (), ())
        left = volumes(calls, by_tag(NAME_TAG, name))
        mine = [each for each in left if tags_of(each)[LABEL_JOB_ID] == job_id]
        if mine or living:
            return cls(name, job_id, tuple(groups), (), tuple(mine))
        others = [each for each in listed(calls, by_tag(DISPLAY_TAG, name)) if each.life is None and not each.gone]
        return cls(name, job_id, tuple(groups), tuple(sorted(others, key=_age)), () if others else tuple(left))

    @property
    def group(self) -> Group | None:
        """What is shown: the job's own group that is not gone; without any of its own, the oldest."""
        living = [group for group in self.groups if not group.gone]
        mine = [group for group in living if group.job_id == self.job_id]
        if not mine and self.volumes:
            return None  # what outlived the job's own instance comes before an instance of somebody else
        return next(iter(mine or living), None)

    def observed(self) -> Observed | None:
        """What stands under the name, None if nothing is left of it."""
        if self.group is not None:
            return self._yielding(self.group)
        if self.foreign:
            return _foreign(self.name, self.foreign[0])
        return _left_over(self.name, self.volumes, self.groups)

    def rivals(self, group: Group) -> list[Group]:
        """Living groups of other jobs that were started no later: EC2 tells times to the second."""
        return [each for each in self.groups
                if each.job_id != group.job_id and each.live and each.launch_time <= group.launch_time]  # fmt: skip

    def _yielding(self, group: Group) -> Observed:
        """Two jobs that took the name at the same moment both found it free. Whichever worker looks, now or after
        another one died, gets the same answer: the younger one's cannot be the clone."""
        seen = group.observed()
        rivals = self.rivals(group) if group.job_id == self.job_id else []
        if not rivals or not group.live:
            return seen
        why = f"an instance of this name was started for another job at the same moment ({rivals[0].job_id})"
        return replace(seen, status=Status.FAILED, detail=why)


def volumes(calls: Calls, filters: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Volumes with our tag that exist."""
    found = calls.pages("describe_volumes", "Volumes", Filters=list(filters))
    return [each for each in found if each["State"] != "deleted" and LABEL_JOB_ID in tags_of(each)]


def leftovers(calls: Calls, known: Sequence[Group], filters: Sequence[Mapping[str, Any]]) -> list[Observed]:
    """Volumes that outlived their instances, each as the instance that it belonged to."""
    found: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for each in volumes(calls, filters):
        found[tags_of(each).get(NAME_TAG, "")].append(each)
    present = {group.name for group in known if not group.gone}
    seen = [_left_over(name, left, [group for group in known if group.name == name])
            for name, left in found.items() if name and name not in present]  # fmt: skip
    return [each for each in seen if each is not None]


def _left_over(name: str, left: Sequence[Mapping[str, Any]], groups: Sequence[Group]) -> Observed | None:
    """The uid is that of the instance as long as AWS remembers it, so that clean-up knows it for the same resource."""
    if not left:
        return None
    tags = tags_of(left[0])
    owners = [group for group in groups if group.job_id == tags[LABEL_JOB_ID]]
    uid = owners[-1].members[0].id if owners else left[0]["VolumeId"]
    going = all(each["State"] == "deleting" or _goes_with_its_instance(each) for each in left)
    return Observed(
        ResourceRef(ResourceKind.INSTANCE, name),
        uid,
        Status.DELETING if going else Status.FAILED,
        labels_of(tags, ours=True),
        "left of a terminated instance: " + ", ".join(f"{each['VolumeId']} ({each['State']})" for each in left),
    )


def _goes_with_its_instance(volume: Mapping[str, Any]) -> bool:
    attached = volume.get("Attachments", ())
    return bool(attached) and all(each.get("DeleteOnTermination") for each in attached)


def _foreign(name: str, instance: Instance) -> Observed:
    status = _LIVE.get(instance.state, Status.DELETING)
    copied = instance.tags.get(LABEL_JOB_ID)
    detail = f"carries the tags of job {copied}, but was not started by it" if copied else ""
    return Observed(ResourceRef(ResourceKind.INSTANCE, name), instance.id, status, labels_of(instance.tags, ours=False),
                    detail)  # fmt: skip
