"""Stages of Compute Engine and EC2 on their stand-ins, for the conformance kit."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from targets.base import ResourceKind, ResourceRef, Snapshot
from targets.conformance import Hands, Stage

_GIB = 2**30
_SLOW_S = 0.5
_FAMILIES = {ResourceKind.DISK: "disks", ResourceKind.INSTANCE: "instances", ResourceKind.ADAPTED_IMAGE: "images"}
_THROTTLED = {"create": "*.insert", "find": "*.get", "delete": "*.delete", "inventory": "*.*ist"}


@contextlib.contextmanager
def compute_engine(folder: Path) -> Iterator[Stage]:
    from compute_world import target_of
    from standins.compute_engine import StandIn

    stand_in = StandIn()
    targets = []

    def connect():
        targets.append(target_of(stand_in))
        return targets[-1]

    @contextlib.contextmanager
    def foreign(ref: ResourceRef):
        stand_in.foreign(ref)
        try:
            yield
        finally:
            stand_in.remove_by_hand(ref)

    @contextlib.contextmanager
    def scripted(*faults):
        for method, kind, more in faults:
            stand_in.fault(method, kind, **more)
        try:
            yield
        finally:
            stand_in.script.clear()

    def lost_reply(operation: str, ref: ResourceRef):  # a delete names the numeric id, so every name is meant
        return scripted((f"{_FAMILIES[ref.kind]}.{'insert' if operation == 'create' else operation}", "lose", {}))

    def throttled(operation: str):
        answer = {"status": 429, "reason": "rateLimitExceeded", "times": None}
        return scripted((_THROTTLED[operation], "http", answer))

    def slow(ref: ResourceRef):
        more = {"times": None, "delay_s": _SLOW_S}
        return scripted(*((f"{_FAMILIES[ref.kind]}.{verb}", "slow", more) for verb in ("insert", "delete")))

    try:
        snapshot = Snapshot(stand_in.add_snapshot(), "reference", 10 * _GIB, "")
        hands = Hands(
            foreign=foreign, power_off=stand_in.power_off, lost_reply=lost_reply, throttled=throttled, slow=slow
        )
        yield Stage(
            connect, (snapshot,), gone=dataclasses.replace(snapshot, key=f"{snapshot.key}-none"),
            keeps_tombstones=False, patience_s=30, hands=hands,
        )  # fmt: skip
        assert stand_in.everything() == []
    finally:
        for target in targets:
            target.close()
        stand_in.close()


@contextlib.contextmanager
def ec2(folder: Path) -> Iterator[Stage]:
    from standins.ec2 import Ec2StandIn
    from standins.ec2.hands import conformance_stage

    words = {"AWS_ACCESS_KEY_ID": "AKIATEST", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}
    with mock.patch.dict(os.environ, words), Ec2StandIn() as stand_in:
        yield conformance_stage(stand_in)
        assert (stand_in.instances(), stand_in.images(), stand_in.volumes()) == ({}, {}, [])
