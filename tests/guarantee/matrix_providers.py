"""The clouds' stand-ins for the fault matrix, each a server process of its own: what a scenario makes them do, and what a
judge reads of them. Their log and inventory are written where things happen, on the provider's side of the wire."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Iterator
from multiprocessing.managers import BaseManager
from typing import Any

from targets.base import LABEL_JOB_ID, Observed, ResourceKind, ResourceRef, Status
from targets.simulated_log import Call

Json = dict[str, Any]
GIB = 1 << 30
_HELD_S = 600.0
_EC2_KINDS = {"image": ResourceKind.BOOT_IMAGE, "instance": ResourceKind.INSTANCE}


class ComputeEngineProvider:
    """One project of Compute Engine."""

    def __init__(self) -> None:
        from standins.compute_engine import StandIn
        from standins.compute_engine.server import PROJECT, ZONE

        self._stand_in = StandIn()
        self._reference = self._stand_in.add_snapshot()
        self._options = {
            "type": "compute_engine",
            "project": PROJECT,
            "zone": ZONE,
            "endpoint": self._stand_in.endpoint,
        }

    def options(self) -> Json:
        """The target's own, for CLONEJOB_TARGETS."""
        return self._options

    def disk(self) -> Json:
        """A disk by reference, as it is registered."""
        return {"diskNumber": 0, "reference": self._reference, "sizeBytes": str(10 * GIB)}

    def script(self, scenario: str) -> None:
        """Behave as a life of a job needs it (``matrix_cells``)."""
        stand_in = self._stand_in
        stand_in.script.clear()
        stand_in.project.durations = {}
        match scenario:
            case "runs":  # the step gives its slot back
                stand_in.project.durations = {"disks.insert": 1.2}
            case "is cancelled":
                stand_in.fault("instances.insert", "slow", delay_s=_HELD_S, times=None)
            case "fails":
                stand_in.fault("instances.insert", "http", status=403, reason="forbidden", times=None)
                stand_in.fault("disks.delete", "http", status=503)  # clean-up has to wait
            case "cancel races success":
                stand_in.project.durations = {"images.delete": 0.2}

    def is_held(self, job_id: str) -> bool:
        """Whether an instance of the job is being made."""
        there = list(self._stand_in.project.resources.values())
        return any(each.collection == "instances" and each.status == "PROVISIONING"
                   and each.body.get("labels", {}).get(LABEL_JOB_ID) == job_id for each in there)  # fmt: skip

    def calls(self) -> list[Call]:
        """What came to exist and what went."""
        return self._stand_in.calls()

    def everything(self) -> list[Observed]:
        """All that exists."""
        return self._stand_in.everything()

    def complaints(self) -> list[str]:
        """Requests that the API's description refuses, and what nobody accounts for."""
        return list(self._stand_in.refused)

    def close(self) -> None:
        """End the server."""
        self._stand_in.close()


class Ec2Provider:
    """One account of EC2."""

    def __init__(self) -> None:
        from standins.ec2 import Ec2StandIn

        self._stand_in = stand_in = Ec2StandIn()
        self._reference = stand_in.make_snapshot()
        stand_in.forget()
        self._options = {
            "type": "ec2", "region": stand_in.region, "subnet": stand_in.subnet, "endpoint": stand_in.endpoint,
            "security_groups": [stand_in.closed_group], "settle_s": 0.5,
        }  # fmt: skip

    def options(self) -> Json:
        """The target's own, for CLONEJOB_TARGETS."""
        return self._options

    def disk(self) -> Json:
        """A disk by reference, as it is registered."""
        return {"diskNumber": 0, "reference": self._reference, "sizeBytes": str(8 * GIB)}

    def script(self, scenario: str) -> None:
        """Behave as a life of a job needs it (``matrix_cells``)."""
        stand_in = self._stand_in
        stand_in.faults.clear()
        stand_in.start_s, stand_in.launch_s = 0.0, 0.0
        match scenario:
            case "runs":
                stand_in.start_s = 0.6
            case "is cancelled":
                stand_in.launch_s = _HELD_S
            case "fails":
                stand_in.fail("RunInstances", "refuse", code="VcpuLimitExceeded", times=None)
                stand_in.fail("DeregisterImage", "busy")

    def is_held(self, job_id: str) -> bool:
        """Whether an instance of the job is being made."""
        stand_in = self._stand_in
        return any(owner == job_id and stand_in.clock() < stand_in.ready_at(uid)
                   for uid, owner in stand_in.instances().items())  # fmt: skip

    def calls(self) -> list[Call]:
        """What came to exist and what went."""
        found, names = [], {}
        for effect in list(self._stand_in.effects):
            kind = _EC2_KINDS.get(effect.kind)
            if kind is None or effect.what not in ("made", "gone"):
                continue
            name = names.setdefault(effect.id, effect.name)
            op = "create" if effect.what == "made" else "delete"
            found.append(Call(effect.time, 0, op, "effect", kind, name, effect.job_id, None, effect.id, effect.what))
        return found

    def everything(self) -> list[Observed]:
        """All that exists."""
        standing: dict[str, Call] = {}
        for call in self.calls():
            if call.outcome == "made":
                standing[str(call.uid)] = call
            else:
                standing.pop(str(call.uid), None)
        there = {*self._stand_in.instances(), *self._stand_in.images()}
        assert there == set(standing), (there, standing)  # the log and the inventory say the same
        return [
            Observed(ResourceRef(ResourceKind(str(call.kind)), str(call.name)), uid, Status.READY,
                     {LABEL_JOB_ID: str(call.job_id)})
            for uid, call in standing.items()
        ]  # fmt: skip

    def complaints(self) -> list[str]:
        """Volumes that outlived their instance."""
        alive, backend = self._stand_in.instances(), self._stand_in.backend
        return [f"volume {each.id} is left" for each in list(backend.volumes.values())
                if each.attachment is None or each.attachment.instance.id not in alive]  # fmt: skip

    def close(self) -> None:
        """End the server."""
        self._stand_in.close()


class _Servers(BaseManager):
    """Starts the process, and passes calls on to what lives there."""


for _provider in (ComputeEngineProvider, Ec2Provider):
    _Servers.register(_provider.__name__, _provider)


@contextlib.contextmanager
def served(name: str) -> Iterator[Any]:
    """The provider of that class in a process of its own, which ends with the block. Raises what starting it raises."""
    # boto3 takes credentials from the environment only; these are nobody's.
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "AKIATEST",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with _Servers(ctx=multiprocessing.get_context("spawn")) as servers:
        provider = getattr(servers, name)()
        try:
            yield provider
        finally:
            provider.close()
