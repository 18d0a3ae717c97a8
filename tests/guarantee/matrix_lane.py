"""A lane of the fault matrix: one live service in which one cell after the other is run."""

from __future__ import annotations

import contextlib
import json
import random
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
import sqlalchemy as sa

from guarantee import matrix_cells as cells
from guarantee.matrix_cells import Cell, Place, Scenario
from guarantee.matrix_stages import Row, Stage
from live_service import Service

from models.db import make_engine
from models.schema import CloneJob

SETTINGS = {
    "LEASE_S": cells.LEASE_S,
    "RECONCILE_INTERVAL_S": 0.5,
    "DISPATCH_GRACE_S": 2,
    "POLL_S": 0.3,
    "INLINE_WAIT_S": 1.0,  # long enough that a cancel meets a step at work
    "RETRY_PAUSE_S": 0.3,
    "RETRY_PAUSE_MAX_S": 1,
    "CLEANUP_PAUSE_S": 0.3,
    "CLEANUP_PAUSE_MAX_S": 1,
    "STEP_ATTEMPTS": 10,
    "WORKERS": 2,
}
END_LIMIT_S = 60.0
_NOTE = {"point": "*", "action": "note"}
_CLAIMS = ("store.claim_step", "store.claim_cleanup")
_THE_JOBS_OWN = ("steps", "control")  # processes whose death takes a job's work with it


@dataclass
class Case:
    """What came of one cell, or of a clean run (``cell`` None)."""

    scenario: Scenario
    cell: Cell | None
    lane: int
    job: str = ""
    state: str = ""
    fired_at: float | None = None
    took_s: float = 0.0
    to_end_s: float | None = None  # from the fault to the terminal state
    to_claim_s: float | None = None  # from a SIGKILL to the next claim of the job
    to_restart_s: float | None = None  # from a SIGKILL to the first call of the process that was started instead
    passed: set[tuple[Place, str]] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    stuck: bool = False
    misfired: bool = False


class Lane:
    """``clonejob up`` with short times; runs cases one at a time, so that a fault meets the job that it is meant for."""

    def __init__(
        self, number: int, folder: Path, database_url: str, stage: type[Stage], seed: int,
        provided: tuple[Any, dict[str, str]] = (None, {}),
    ) -> None:  # fmt: skip
        """``provided``: what ``stage.provided`` gave."""
        self.number = number
        provider, extra = provided
        extra = extra | ({"DATABASE_URL": database_url} if database_url else {})
        program = (str(Path(__file__).parents[1] / "process" / "live_restarts.py"),)
        self.service = Service(
            folder / f"lane-{number}",
            watch=stage.watches,
            program=program,
            PROVIDER_CALL_LIMIT_S=stage.provider_call_limit_s,
            **SETTINGS,
            **extra,
        )
        self.engine = make_engine(database_url or f"sqlite:///{self.service.data_dir}/clonejob.sqlite3")
        self.stage = stage(self.service, number, provider)
        self.accepted: dict[str, str] = {}
        self.outside: list[str] = []
        self._random = random.Random(seed * 1000 + number)
        self._count = 0

    def start(self) -> None:
        """Until it serves and its VMs are there."""
        self.service.start()
        self.stage.set_up()

    def close(self) -> None:
        """Stop; whatever is left of it goes."""
        try:
            if self.service._process and self.service._process.poll() is None:
                self.service.stop()
        finally:
            self.service._remove()
            self.engine.dispose()

    def run(self, scenario: Scenario, cell: Cell | None = None) -> Case:
        """One job with at most one fault."""
        self._count += 1
        case = Case(scenario, cell, self.number)
        started = time.monotonic()
        vm = self.stage.vm(scenario)
        case.job = f"{vm}/cloneJobs/c-{self._count}"
        self.stage.prepare(scenario)
        self._arm(case)
        try:
            self._live(case, vm)
        except TimeoutError as error:
            case.problems.append(str(error))
            case.stuck = True
            self.stage.lost(scenario)
        self._read_marks(case)
        self._check(case)
        case.took_s = time.monotonic() - started
        return case

    def _arm(self, case: Case) -> None:
        self._note_outside()
        plan: list[dict[str, Any]] = []
        if case.cell is not None:
            place, mode = case.cell.place, case.cell.mode
            entry = {"point": place.point, "role": place.role, "phase": mode.phase, "action": mode.action}
            plan.append(entry | {"seconds": self.stage.hang_s} | self.stage.entry(case.cell))
        plan += self.stage.base(case.scenario)
        self.service._write_plan([])
        for mark in self.service.plan.parent.glob("plan.json.*"):
            mark.unlink()
        self.service._write_plan([*plan, _NOTE])

    def _live(self, case: Case, vm: str) -> None:
        deadline = time.monotonic() + END_LIMIT_S
        request = str(uuid.uuid4())
        query = f"cloneJobId={case.job.rpartition('/')[2]}&requestId={request}"
        self._ask(case, f"/v1/{vm}/cloneJobs?{query}", deadline)
        self.accepted[request] = case.job
        if case.scenario in (cells.CANCELLED, cells.RACES):
            for row in self._rows(case, deadline):
                if row.end_time or self.stage.may_cancel(case.scenario, row):
                    break
            if case.scenario is cells.RACES:
                time.sleep(self._random.uniform(0.0, 0.4))
            self._ask(case, f"/v1/{case.job}:cancel", deadline)
        for row in self._rows(case, deadline):
            if row.end_time:
                break
        if case.cell is not None and case.cell.place.point in EVERY_TICK and not self.service.fired():
            time.sleep(2.0)  # the reconciler's own points are passed at its next tick
        if case.cell is not None and case.cell.mode.action == "hang" and self.service.fired():
            time.sleep(
                max(0.0, self._mark().stat().st_mtime + self.stage.hang_s + 0.3 - time.time())
            )  # it has come back

    def _rows(self, case: Case, deadline: float) -> Iterator[Row]:
        while time.monotonic() < deadline:
            yield self.row(case.job)
            time.sleep(0.02)
        row = self.row(case.job)
        raise TimeoutError(f"R5: after {END_LIMIT_S:.0f} s the job is {row}")

    def row(self, job: str) -> Row:
        """The job as committed now."""
        wanted = sa.select(*(getattr(CloneJob, column) for column in Row._fields)).where(CloneJob.name == job)
        with self.engine.connect().execution_options(clonejob_read_only=True) as connection:
            found = connection.execute(wanted).one_or_none()
        return Row(*found) if found else Row()

    def _ask(self, case: Case, path: str, deadline: float) -> None:
        """POST until there is an answer; as a client does that repeats what was not answered."""
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                answer = httpx.post(self.service.rest_url + path, json={}, timeout=2.5, trust_env=False)
                if answer.status_code == 200:
                    return
                if answer.status_code < 500:
                    reason = answer.json().get("error", {}).get("status", "")
                    if not (path.endswith(":cancel") and reason == "FAILED_PRECONDITION"):
                        case.problems.append(f"R7: {path.rpartition('/')[2]} was answered {answer.text[:300]}")
                    elif self.row(case.job).state == "CANCELLED":
                        case.problems.append("a cancelled job's cancel was refused")
                    return
            time.sleep(0.05)
        raise TimeoutError(f"no answer to {path} within {END_LIMIT_S:.0f} s")

    def _mark(self) -> Path:
        return self.service.plan.with_name("plan.json.0.0")

    def _read_marks(self, case: Case) -> None:
        trace = self.service.plan.with_name("plan.json.passed")
        passed = [json.loads(line) for line in trace.read_text().splitlines()] if trace.exists() else []
        case.passed = {(Place(point, role), phase) for _, _, role, point, phase, _ in passed}
        row = self.row(case.job)
        case.state = row.state
        if case.cell is None or not self._mark().exists():
            return
        fired_at = self._mark().stat().st_mtime
        if case.cell.place.role != "api" and case.cell.place.point not in EVERY_TICK:
            if row.create_time is None or fired_at < row.create_time.timestamp():
                case.misfired = True  # a late message of the job before took the fault: the cell is run again
                return
        case.fired_at = fired_at
        if row.end_time is not None:
            case.to_end_s = max(0.0, row.end_time.timestamp() - fired_at)
        if case.cell.mode.action == "kill" and case.cell.place.role in _THE_JOBS_OWN:
            claims = [at for at, _, _, point, phase, outer in passed
                      if point == "store.get_job" and phase == "after" and set(outer) & set(_CLAIMS) and at > fired_at]  # fmt: skip
            case.to_claim_s = min(claims) - fired_at if claims else None
            before = {pid for at, pid, *_ in passed if at <= fired_at}
            back = [at for at, pid, role, *_ in passed
                    if role == case.cell.place.role and pid not in before and at > fired_at]  # fmt: skip
            case.to_restart_s = min(back) - fired_at if back else None

    def _check(self, case: Case) -> None:
        if case.state not in case.scenario.ends and not case.stuck:
            case.problems.append(f"the job ended {case.state}, not {' or '.join(sorted(case.scenario.ends))}")
        if not case.stuck:
            query = sa.text("SELECT verb, method FROM operations WHERE target = :name AND end_time IS NULL")
            with self.engine.connect() as connection:
                waiting = connection.execute(query, {"name": case.job}).all()
            if waiting:
                case.problems.append(f"R5: operations of an ended job still wait: {waiting}")
            case.problems += self.stage.check(case.job, case.state)

    def _note_outside(self) -> None:
        path = self.service.plan.with_name("plan.json.outside")
        if path.exists():
            self.outside += path.read_text().splitlines()

    def stale_writes(self) -> int:
        """How many writes with an old epoch were refused (R8)."""
        with self.engine.connect() as connection:
            return int(connection.execute(sa.text("SELECT sum(stale_writes) FROM clone_jobs")).scalar() or 0)


EVERY_TICK = (
    "broker.publish.reconcile", "store.hold_reconciler", "catalog.expire_vms", "store.due_jobs",
)  # fmt: skip


@contextlib.contextmanager
def database(kind: str, server: str) -> Iterator[str]:
    """The URL of a database of a lane's own; "" is the SQLite file of its folder."""
    if kind == "sqlite":
        yield ""
        return
    name = f"clonejob_faults_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True, connect_timeout=5) as admin:
        admin.execute(f"CREATE DATABASE {name}")
        try:
            yield f"{server.rpartition('/')[0]}/{name}"
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
