"""Where one check works: a job id of its own, specs that can be made here, and the removal of all that was made."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from targets.base import (
    AdaptedImageSpec,
    BootImageSpec,
    DiskSpec,
    InstanceSpec,
    Observed,
    Owner,
    ResourceKind,
    ResourceRef,
    ResourceSpec,
    Status,
    Target,
)
from targets.conformance.check import CheckFailedError, NotApplicableError, expect
from targets.conformance.stage import Hands, Stage
from targets.conformance.watched import Notes, WatchedTarget
from targets.errors import UnsupportedError

T = TypeVar("T")
USER_LABELS = {"team": "blue"}
_IMAGES = {True: ResourceKind.BOOT_IMAGE, False: ResourceKind.DISK}


class Bench:
    """One check's own things. Everything is named and labelled ``<prefix>-…``; ``prefix`` is unique to run and check."""

    def __init__(self, stage: Stage, prefix: str) -> None:
        self.stage = stage
        self.prefix = prefix
        self.notes = Notes()
        self._jobs = 0
        self._names = 0
        self.target = self.connect()

    # Ways to the target

    def connect(self) -> Target:
        """The target as another process sees it; a TransientError is tried again, as a step does."""
        return self._watched(self.stage.patience_s)

    def once(self) -> Target:
        """The same, but a TransientError is not tried again."""
        return self._watched(0.0)

    def _watched(self, patience_s: float) -> Target:
        return WatchedTarget(self.stage.connect(), self.notes, patience_s=patience_s, poll_s=self.stage.poll_s)

    @property
    def hands(self) -> Hands:
        """What the target's owner can do."""
        return self.stage.hands

    # Specs

    def job(self) -> str:
        """The id of a job that nobody has used."""
        self._jobs += 1
        return f"{self.prefix}-j{self._jobs}"

    def name(self) -> str:
        """A name that nobody has used."""
        self._names += 1
        return f"{self.prefix}-{self._names}"

    def kinds(self) -> Iterator[ResourceKind]:
        """What can be made here, parts before what needs them."""
        for kind in ResourceKind:
            if self.can_make(kind):
                yield kind

    def can_make(self, kind: ResourceKind) -> bool:
        """Whether this kind is part of a plan here, and supported."""
        if self.stage.kinds is not None:
            return kind in self.stage.kinds
        if kind is not ResourceKind.ADAPTED_IMAGE:
            return kind is ResourceKind.INSTANCE or kind is _IMAGES[self.target.boots_from_image]
        try:
            self.target.check([self.image(self.job(), self.name())])
        except UnsupportedError:
            return False
        return True

    def image(self, job_id: str, name: str) -> AdaptedImageSpec:
        """An adapted image of the first snapshot."""
        ref = ResourceRef(ResourceKind.ADAPTED_IMAGE, name)
        return AdaptedImageSpec(
            ref, Owner(job_id, 1), self.stage.snapshots[0], hostname="kit-guest", details=self._details()
        )

    def disk(self, job_id: str, name: str, *, number: int = 0, adapted_image: str | None = None) -> DiskSpec:
        """A disk of the first snapshot."""
        ref, snapshot = ResourceRef(ResourceKind.DISK, name), self.stage.snapshots[0]
        return DiskSpec(ref, Owner(job_id, 1), number, snapshot, adapted_image, USER_LABELS, self._details())

    def boot_image(self, job_id: str, name: str) -> BootImageSpec:
        """An image of all snapshots."""
        ref = ResourceRef(ResourceKind.BOOT_IMAGE, name)
        return BootImageSpec(ref, Owner(job_id, 1), self.stage.snapshots, USER_LABELS, self._details())

    def instance(self, job_id: str, name: str, *parts: str, machine_type: str | None = None) -> InstanceSpec:
        """An instance of those disks, or of that one boot image."""
        machine = self.stage.machine_type if machine_type is None else machine_type
        boots = self.target.boots_from_image
        return InstanceSpec(
            ResourceRef(ResourceKind.INSTANCE, name),
            Owner(job_id, 1),
            () if boots else parts,
            "kit-guest",
            machine,
            USER_LABELS,
            boot_image=parts[0] if boots else None,
            details=self._details(machine),
        )

    def spec(self, kind: ResourceKind, *, job_id: str | None = None, name: str | None = None) -> ResourceSpec:
        """What can be created at once; the disk or boot image that an instance needs is made here."""
        job_id, name = job_id or self.job(), name or self.name()
        match kind:
            case ResourceKind.ADAPTED_IMAGE:
                return self.image(job_id, name)
            case ResourceKind.DISK:
                return self.disk(job_id, name)
            case ResourceKind.BOOT_IMAGE:
                return self.boot_image(job_id, name)
            case ResourceKind.INSTANCE:
                return self.instance(job_id, name, self.part_of(job_id))  # of its own: a disk runs in one instance

    def part(self, job_id: str, name: str) -> ResourceSpec:
        """What an instance here is made of."""
        return self.spec(_IMAGES[self.target.boots_from_image], job_id=job_id, name=name)

    def part_of(self, job_id: str) -> str:
        """The name of a new READY disk or boot image of this job."""
        return self.make(self.part(job_id, self.name())).ref.name

    def specs(self) -> Iterator[ResourceSpec]:
        """One spec of each kind that can be made here, each of another job."""
        for kind in self.kinds():
            yield self.spec(kind)

    def _details(self, machine_type: str = "") -> Mapping[str, Any]:
        return {**self.stage.details, **({"machineType": machine_type} if machine_type else {})}

    # What steps and clean-up do

    def make(self, spec: ResourceSpec, *, by: Target | None = None) -> Observed:
        """Create, and look until it is READY."""
        seen: Observed | None = (by or self.target).create(spec)
        if seen is not None and seen.status is Status.CREATING:
            seen = self.until(lambda: self.find(spec.ref, spec.owner.job_id), lambda each: each is None or each.status != Status.CREATING,
                              f"{spec.ref} is still CREATING")  # fmt: skip
        if seen is None or seen.status is not Status.READY:
            raise CheckFailedError(f"{spec.ref} was created and is not READY: {shown(seen)}")
        return seen

    def find(self, ref: ResourceRef, job_id: str | None = None) -> Observed | None:
        """What this connection sees."""
        return self.target.find(ref, job_id)

    def must_find(self, ref: ResourceRef) -> Observed:
        """What exists. Raises: CheckFailedError."""
        seen = self.connect().find(ref)
        if seen is None:
            raise CheckFailedError(f"{ref} exists and find() answers None")
        return seen

    def delete(self, seen: Observed) -> None:
        """Start deleting exactly this."""
        self.target.delete(seen.ref, job_id=str(seen.job_id), uid=seen.uid)

    def delete_until_gone(self, ref: ResourceRef, job_id: str) -> None:
        """What clean-up does. Raises: CheckFailedError."""

        def look() -> Observed | None:
            seen = self.find(ref, job_id)
            if seen is not None and seen.status is not Status.DELETING:
                self.target.delete(ref, job_id=job_id, uid=seen.uid)
                seen = self.find(ref, job_id)
            return seen

        self.until(look, lambda seen: seen is None, f"{ref} was deleted and is not gone")

    def delete_until_its_own_is_gone(self, ref: ResourceRef, job_id: str) -> None:
        """What clean-up does where others have the name too. Raises: CheckFailedError."""

        def look() -> Observed | None:
            seen = self.find(ref, job_id)
            if seen is None or seen.job_id != job_id:
                return None
            if seen.status is not Status.DELETING:
                self.target.delete(ref, job_id=job_id, uid=seen.uid)
            return seen

        self.until(look, lambda seen: seen is None, f"{ref} of job {job_id} was deleted and is not gone")

    def mine(self, *job_ids: str, target: Target | None = None) -> list[Observed]:
        """What the inventory shows of these jobs."""
        return [seen for seen in (target or self.connect()).inventory() if seen.job_id in job_ids]

    def listed(self, good: Callable[[list[Observed]], bool], *job_ids: str) -> list[Observed]:
        """What the inventory shows of these jobs once it is as it should be, or at the end of its lag."""
        deadline = time.monotonic() + self.stage.lag_s
        while not good(seen := self.mine(*job_ids)) and time.monotonic() < deadline:
            time.sleep(self.stage.poll_s)
        return seen

    def is_listed(self, ref: ResourceRef, job_id: str, *, due: bool = True) -> bool:
        """Whether the inventory shows it; waits for its lag until that is as it is ``due``."""
        return ref in {seen.ref for seen in self.listed(lambda seen: (ref in {e.ref for e in seen}) is due, job_id)}

    def leave_half_made(self, spec: ResourceSpec) -> None:
        """What a creator leaves that was killed. Raises: NotApplicableError."""
        hand = need(self.hands.leave_half_made, "leave_half_made")
        self.notes.intend(spec.ref, spec.owner.job_id)
        hand(spec)

    def until(self, look: Callable[[], T], good: Callable[[T], bool], what: str) -> T:
        """Look until it is good. Raises: CheckFailedError when ``patience_s`` is over."""
        deadline = time.monotonic() + self.stage.patience_s
        while not good(seen := look()):
            if time.monotonic() > deadline:
                raise CheckFailedError(f"{what} after {self.stage.patience_s:g} s: {shown(seen)}")
            time.sleep(self.stage.poll_s)
        return seen

    def at_once(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        """All calls in threads that start together; their answers. Raises what the first call raised."""
        barrier, answers, errors = threading.Barrier(len(calls)), [], []

        def run(call: Callable[[], T]) -> None:
            barrier.wait()
            try:
                answers.append(call())
            except Exception as error:  # noqa: BLE001 - raised again by the caller
                errors.append(error)

        threads = [threading.Thread(target=run, args=[call]) for call in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return answers


def need(hand: T | None, name: str) -> T:
    """The hand. Raises: NotApplicableError."""
    if hand is None:
        raise NotApplicableError(f"the stage has no hand {name!r}")
    return hand


def shown(seen: object) -> str:
    """An observation in few words."""
    if isinstance(seen, Observed):
        return f"{seen.status} uid {seen.uid} of job {seen.job_id}" + (f" ({seen.detail})" if seen.detail else "")
    return "nothing" if seen is None else str(seen)


def expect_same(first: Observed, second: Observed | None, what: str) -> None:
    """Both must be the same resource with the same labels. Raises: CheckFailedError."""
    if second is None:
        raise CheckFailedError(f"{what}: nothing is there any more")
    expect(first.ref == second.ref, f"{what}: {first.ref} became {second.ref}")
    expect(first.uid == second.uid, f"{what}: {first.ref} had uid {first.uid} and has {second.uid}")
    expect(
        dict(first.labels) == dict(second.labels),
        f"{what}: {first.ref} had labels {dict(first.labels)}, has {dict(second.labels)}",
    )
