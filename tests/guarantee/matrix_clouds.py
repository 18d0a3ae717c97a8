"""Compute Engine and EC2 in the fault matrix: their stand-ins run as servers, and say what happened.

A project or an account has no place for a tombstone, so a call that lands after clean-up has ended is the residual window of
docs/guarantee.md. A hang here ends after the lease and before clean-up may begin: within the bound that R1 states.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any, ClassVar

import sqlalchemy as sa
from guarantee import judge, matrix_providers
from guarantee.matrix_cells import RECOVERS, SCENARIOS, Scenario
from guarantee.matrix_stages import Row, Stage
from live_service import PARENT, SOURCE, Service


class CloudStage(Stage):
    """One VM for each scenario, whose snapshot lies at the provider."""

    provider_call_limit_s = 4.0
    recordings = 2
    part = "target."
    provider_name: ClassVar[str]
    first_made: ClassVar[str]  # what the worker dies of making that a RECOVERS job loses
    skip_os_adaptation: ClassVar[bool]

    def __init__(self, service: Service, lane: int, provider: Any) -> None:
        super().__init__(service, lane, provider)
        self.provider = provider

    @classmethod
    @contextlib.contextmanager
    def provided(cls) -> Iterator[tuple[Any, dict[str, str]]]:
        with matrix_providers.served(cls.provider_name) as provider:
            yield provider, {"TARGETS": json.dumps({"cloud": provider.options()})}

    def set_up(self) -> None:
        self._vms: dict[Scenario, str] = {}
        for scenario in SCENARIOS:
            self.lost(scenario)

    def vm(self, scenario: Scenario) -> str:
        return self._vms[scenario]

    def lost(self, scenario: Scenario) -> None:
        self._made += 1
        service, vm_id = self.service, f"c{self.lane}-{self._made}"
        service._make("sources", "sourceId=s", {})
        body = {
            "computeEngineTargetDefaults": {"targetProject": f"{PARENT}/targetProjects/cloud"},
            "policy": {"skipOsAdaptation": self.skip_os_adaptation},
        }
        service._make("sources/s/migratingVms", f"migratingVmId={vm_id}", body)
        name = f"{SOURCE}/migratingVms/{vm_id}"
        cycle = service._post(f"/clonejob/v1/{name}/replicationCycles", {})["name"]
        service._post(f"/clonejob/v1/{cycle}:registerDisk", self.provider.disk())
        service._post(f"/clonejob/v1/{cycle}:finish", {})
        self._vms[scenario] = name

    def prepare(self, scenario: Scenario) -> None:
        self.provider.script(scenario.name)

    def base(self, scenario: Scenario) -> list[dict[str, Any]]:
        if scenario is not RECOVERS:
            return []
        lost, dies = super().base(scenario)
        return [lost, dies | {"point": f"target.create.{self.first_made}"}]

    def _is_held(self, row: Row) -> bool:
        return bool(self.provider.is_held(row.id))

    def check(self, job: str, state: str) -> list[str]:
        return [f"the provider says: {each}" for each in self.provider.complaints()]

    def judge(self, engine: sa.Engine, accepted: dict[str, str]) -> judge.Finding:
        return judge.judge(engine, self.provider, final=True, accepted=accepted, calls=self.provider.calls())


class ComputeEngineStage(CloudStage):
    """Snapshots to disks to an instance; the adapted image is an image with licences."""

    provider_name = "ComputeEngineProvider"
    first_made = "disk"
    skip_os_adaptation = False


class Ec2Stage(CloudStage):
    """Snapshots to a temporary image to an instance."""

    provider_name = "Ec2Provider"
    first_made = "boot_image"
    skip_os_adaptation = True
    steps = 2


CLOUDS: dict[str, type[Stage]] = {"compute-engine": ComputeEngineStage, "ec2": Ec2Stage}
