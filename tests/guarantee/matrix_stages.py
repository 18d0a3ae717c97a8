"""What a scenario needs of its target: how a job is held, made to fail, and judged."""

from __future__ import annotations

import abc
import contextlib
import datetime as dt
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa

sys.path.append(str(Path(__file__).parents[1] / "process"))

from guarantee import judge
from guarantee.matrix_cells import CANCELLED, FAILS, LEASE_S, RACES, RECOVERS, RUNS, SCENARIOS, Cell, Scenario
from live_service import Service, end_process

from targets.base import ResourceKind, Status

_SLOW_S = 600.0


class Row(NamedTuple):
    """What a case looks at in its job's row."""

    id: str = ""
    state: str = ""
    end_time: dt.datetime | None = None
    verdict: str | None = None
    lease_owner: str | None = None
    current_step: int = 0
    cleanup_detail: str | None = None
    create_time: dt.datetime | None = None


class Stage(abc.ABC):
    """One target in one lane."""

    watches = False
    provider_call_limit_s = 1.5
    recordings = 4
    steps = 3  # adapting, disks, instance; then finish
    part = ""  # of the points' names, where not all are to be broken

    @classmethod
    @contextlib.contextmanager
    def provided(cls) -> Iterator[tuple[Any, dict[str, str]]]:
        """What must run before the service does, for as long as it does, and the settings that name it."""
        yield None, {}

    def __init__(self, service: Service, lane: int, _provider: Any) -> None:
        self.service = service
        self.lane = lane
        self.hang_s = LEASE_S + self.provider_call_limit_s + 1.0  # let go after the limit, and then the lease ends
        self._made = 0

    def set_up(self) -> None:
        """Make what all cases share."""

    @abc.abstractmethod
    def vm(self, scenario: Scenario) -> str:
        """The VM for the next case."""

    def lost(self, scenario: Scenario) -> None:
        """The scenario's VM has a job that does not end."""

    def prepare(self, scenario: Scenario) -> None:
        """Have the target behave as the scenario needs it."""

    def entry(self, cell: Cell) -> dict[str, Any]:
        """What the cell's entry of the fault plan says besides."""
        return {}

    def base(self, scenario: Scenario) -> list[dict[str, Any]]:
        """Faults that belong to the scenario itself."""
        if scenario is not RECOVERS:
            return []
        return [
            {"point": "broker.publish.chain", "role": "api", "phase": "before", "action": "error"},
            {"point": "target.create.disk", "role": "steps", "phase": "after", "action": "kill"},
        ]

    def may_cancel(self, scenario: Scenario, row: Row) -> bool:
        """Whether it is time for the scenario's cancel."""
        if scenario is RACES:
            return row.current_step >= self.steps
        return row.current_step == self.steps - 1 and row.lease_owner is not None and self._is_held(row)

    @abc.abstractmethod
    def _is_held(self, row: Row) -> bool:
        """Whether the job is held where the scenario wants it."""

    def check(self, job: str, state: str) -> list[str]:
        """What is wrong right after the job's end."""
        return []

    @abc.abstractmethod
    def judge(self, engine: sa.Engine, accepted: dict[str, str]) -> judge.Finding:
        """What is wrong at the end of all."""


class SimulatedStage(Stage):
    """One VM for each scenario; the target's own script holds, refuses and loses replies, its own log is the witness."""

    _SCRIPT: dict[Scenario, list[dict[str, Any]]] = {
        RUNS: [{"op": "create", "kind": "disk", "fault": "slow", "delay_s": 1.2}],  # the step gives its slot back
        CANCELLED: [{"op": "create", "kind": "instance", "fault": "slow", "delay_s": _SLOW_S}],
        FAILS: [
            {"op": "create", "kind": "instance", "fault": "refuse"},
            {"op": "delete", "kind": "disk", "fault": "fail", "times": 1},  # clean-up has to wait
        ],
        RACES: [{"op": "delete", "kind": "adapted_image", "fault": "slow", "delay_s": 0.2}],
        RECOVERS: [],
    }

    def set_up(self) -> None:
        self.target = self.service.simulated()
        self._vms: dict[Scenario, str] = {}
        for scenario in SCENARIOS:
            self.lost(scenario)

    def vm(self, scenario: Scenario) -> str:
        return self._vms[scenario]

    def lost(self, scenario: Scenario) -> None:
        self._made += 1
        self._vms[scenario] = self.service.import_vm(f"sim-{self.lane}-{self._made}", target="simulated")

    def prepare(self, scenario: Scenario) -> None:
        self.target.clear_faults()
        for fault in self._SCRIPT[scenario]:
            self.target.add_fault(**{"times": None, **fault})

    def entry(self, cell: Cell) -> dict[str, Any]:
        """The target loses the reply itself, unless its script has something else for that call."""
        scripted = {f"target.{fault['op']}.{fault['kind']}" for fault in self._SCRIPT[cell.scenario]}
        return {} if cell.place.point in scripted else {"script": str(self.target.root)}

    def _is_held(self, row: Row) -> bool:
        return any(
            seen.job_id == row.id and seen.ref.kind is ResourceKind.INSTANCE and seen.status is Status.CREATING
            for seen in self.target.everything()
        )

    def judge(self, engine: sa.Engine, accepted: dict[str, str]) -> judge.Finding:
        return judge.judge(engine, self.target, final=True, accepted=accepted)


class QemuStage(Stage):
    """A VM for each case; the witnesses are QEMU's processes and the target's files."""

    watches = True
    provider_call_limit_s = 4.0
    recordings = 1

    def vm(self, scenario: Scenario) -> str:
        self._made += 1
        slow = {"boot_delay_s": 900} if scenario is CANCELLED else {}
        return self.service.import_vm(f"q{self.lane}-{self._made}", **slow)

    def base(self, scenario: Scenario) -> list[dict[str, Any]]:
        refuse = {"point": "target.create.instance", "phase": "before", "action": "refuse", "times": 1000}
        return [*super().base(scenario), *([refuse] if scenario is FAILS else [])]

    def _is_held(self, row: Row) -> bool:
        return bool(self.service.vms_named(f"q{self.lane}-{self._made}-"))

    def check(self, job: str, state: str) -> list[str]:
        prefix = f"{job.split('/')[-3]}-"
        try:
            if state == "SUCCEEDED":
                machine = self.service.assert_one_clone(job, prefix, made_once=False)
                end_process(machine.pid, machine.uid.encode())
            else:
                self.service.assert_nothing_left(job, prefix, state)
        except AssertionError as wrong:
            return [f"QEMU and its files say: {wrong or 'an assertion of live_client failed'}"]
        return []

    def judge(self, engine: sa.Engine, accepted: dict[str, str]) -> judge.Finding:
        jobs = judge.read_jobs(engine)
        missing = set(accepted.values()) - {job.name for job in jobs}
        found = [judge.Violation("R7", name, "was accepted and does not exist") for name in sorted(missing)]
        found += [judge.Violation("R5", job.name, f"{job.state}") for job in jobs if job.end_time is None]
        return judge.Finding(found, [], {})


STAGES: dict[str, type[Stage]] = {"simulated": SimulatedStage, "qemu": QemuStage}
