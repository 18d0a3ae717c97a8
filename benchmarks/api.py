"""GetCloneJob, ListCloneJobs and CreateCloneJob per second over gRPC and REST, with 1 and with 16 connections.

    python benchmarks/api.py [--rounds 5] [--seconds 0.5] [--creates 100] [--database sqlite] [--broker] [--quick]

One client process, and three servers that it asks in turns:

``ours``        the service, with its database;
``same_stack``  our own two front ends with all that they do for a call (routing, gate, limits, audit, transcoding) and,
                behind them, a handler that returns a constant CloneJob. The bar of GetCloneJob is read against this one,
                because it was set as "a bare handler on the same stack that returns a constant": what is left between
                the two is what a get costs by itself, database included;
``plain``       grpc.aio and uvicorn alone, which answer every call with the same bytes. No bar is read against it; it is
                here so that a slow front end cannot hide in the denominator: ``same_stack_*_to_plain`` is its price.

They are measured in turns, so a round's ratio says more than its absolute figures, which drift with the machine;
``cpu_us`` is what a call took of the server process's own time, which others' load changes least. The database is PostgreSQL at 127.0.0.1:5432 (a fresh one, dropped at the end), or SQLite if there is none.
Every create is of another VM, put into the database beforehand, because a VM has one running clone job at most. The
messages that a create sends to the broker are left out; with ``--broker`` the embedded broker takes them. Prints one
JSON document on stdout.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # python -P does not

import psutil
import psycopg
import sqlalchemy as sa

from benchmarks import api_parts
from benchmarks.api_parts import JOBS, LIST_VM, SOURCE, Silent, job_name, make_runtime, vm_name
from models.schema import MigratingVm, ReplicationCycle, Snapshot
from models.states import CycleState, VmState
from tasks.plan import plan_job
from tasks.services import Request, Services

PARENT = "projects/p/locations/global"
BODY = {
    "computeEngineTargetDefaults": {
        "targetProject": f"{PARENT}/targetProjects/simulated",
        "machineType": "e2-small",
        "labels": {"env": "test"},
    }
}
WHAT = ("get", "list", "create")
CONSTANT = ("same_stack", "plain")
VIA = ("grpc", "rest")
CONNECTIONS = (1, 16)
BARS = {
    "get_at_least_half_of_same_stack": 0.5,
    "creates_per_s": 400.0,
    "rest_16_not_slower_than_1": 1.0,
}


def main() -> int:
    """Measure and print."""
    size = _arguments()
    signal.signal(signal.SIGTERM, _stop)
    started = time.monotonic()
    document = measure(size)
    document["seconds"] = round(time.monotonic() - started, 1)
    print(json.dumps(document, indent=2))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="rounds of everything (default 5)")
    parser.add_argument("--seconds", type=float, default=0.5, help="of each measurement of reads (default 0.5)")
    parser.add_argument("--creates", type=int, default=100, help="creates of each measurement (default 100)")
    parser.add_argument("--database", choices=["postgresql", "sqlite"], help="default: PostgreSQL if it answers")
    parser.add_argument("--postgres", default="postgresql://127.0.0.1:5432/postgres")
    parser.add_argument("--broker", action="store_true", help="publish to the embedded broker instead of nowhere")
    parser.add_argument("--what", action="append", choices=WHAT, help="measure only this (may be repeated)")
    parser.add_argument("--profile", default="", help="write profiles of the server here; the figures are then no good")
    parser.add_argument("--quick", action="store_true", help="one short round: shows that it works, no more")
    given = parser.parse_args()
    if given.quick:
        given.rounds, given.seconds, given.creates = 1, 0.1, 10
    return given


def _stop(*_: Any) -> NoReturn:
    raise SystemExit(143)  # through every finally, so that nothing is left


def measure(size: argparse.Namespace) -> dict[str, Any]:
    """The whole document."""
    what = size.what or list(WHAT)
    load_before = os.getloadavg()[0]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="clonejob-bench-")))
        database = stack.enter_context(_database(size, folder))
        _fill(database, folder, (size.rounds + 1) * size.creates * len(VIA) * len(CONNECTIONS))
        options = {"database": database, "folder": str(folder), "broker": "", "profile": size.profile}
        if size.broker:
            from worker.broker import running_broker

            options["broker"] = stack.enter_context(running_broker(folder))
        servers = {
            "ours": stack.enter_context(_server("serve", json.dumps(options))),
            "same_stack": stack.enter_context(_server("same_stack", json.dumps(options | {"profile": ""}))),
            "plain": stack.enter_context(_server("plain")),
        }
        ask = stack.enter_context(_client())
        rounds = []
        fresh = 0
        for number in range(size.rounds + 1):  # the first one warms up
            found: dict[str, dict[str, float]] = {}
            for via in VIA:
                for connections in CONNECTIONS:
                    where = f"{via}_{connections}"
                    for each in [*CONSTANT, *what] if number % 2 else [*what, *CONSTANT]:
                        server = servers.get(each, servers["ours"])
                        creates = each == "create"
                        work = {"via": via, "connections": connections, "what": each,
                                "seconds": 0 if creates else size.seconds,  # a VM takes one create, a job many gets
                                "first": fresh if creates else 0, "distinct": size.creates if creates else JOBS,
                                "port": server.ports[via]}  # fmt: skip
                        fresh += size.creates if each == "create" else 0
                        before = server.cpu_seconds()
                        figures = ask(work)
                        took = server.cpu_seconds() - before
                        found[f"{each}_{where}"] = {**figures, "cpu_us": 1e6 * took / figures.pop("calls")}
            if number:
                rounds.append(found)
            print(f"round {number} of {size.rounds}", file=sys.stderr, flush=True)
    return {
        "benchmark": "api",
        "database": database.partition(":")[0],
        "publisher": "embedded broker" if size.broker else "sends nothing",
        "parameters": {"rounds": size.rounds, "seconds": size.seconds, "creates": size.creates},
        "machine": {"cpu_count": os.cpu_count(), "python": platform.python_version(), "platform": platform.platform(),
                    "load_1m_before": load_before, "load_1m_after": os.getloadavg()[0]},
        **_summary(rounds, what),
    }  # fmt: skip


def _summary(rounds: list[dict[str, dict[str, float]]], what: list[str]) -> dict[str, Any]:
    figures: dict[str, dict[str, Any]] = {
        name: {
            "per_s": _spread([each[name]["per_s"] for each in rounds]),
            "p50_ms": _spread([each[name]["p50_ms"] for each in rounds])["median"],
            "p99_ms": _spread([each[name]["p99_ms"] for each in rounds])["median"],
            "cpu_us": _spread([each[name]["cpu_us"] for each in rounds])["median"],
        }
        for name in rounds[0]
    }
    ratios = {}
    for where in (f"{via}_{connections}" for via in VIA for connections in CONNECTIONS):
        for each in what:
            for constant in CONSTANT:
                ratios[f"{each}_{where}_to_{constant}"] = _ratio(rounds, f"{each}_{where}", f"{constant}_{where}")
        ratios[f"same_stack_{where}_to_plain"] = _ratio(rounds, f"same_stack_{where}", f"plain_{where}")
    for via in VIA:
        for each in what:
            ratios[f"{each}_{via}_16_to_1"] = _ratio(rounds, f"{each}_{via}_16", f"{each}_{via}_1")
    bars: dict[str, Any] = {"bars": BARS}
    if "get" in what:
        bars["get_at_least_half_of_same_stack"] = {
            f"{via}_{n}": ratios[f"get_{via}_{n}_to_same_stack"]["median"] >= BARS["get_at_least_half_of_same_stack"]
            for via in VIA for n in CONNECTIONS
        }  # fmt: skip
    if "create" in what:
        best = max(figures[f"create_{via}_{n}"]["per_s"]["median"] for via in VIA for n in CONNECTIONS)
        bars["creates_per_s"] = {"best": best, "met": best >= BARS["creates_per_s"]}
    bars["rest_16_not_slower_than_1"] = {each: ratios[f"{each}_rest_16_to_1"]["median"] >= 1.0 for each in what}
    return {"figures": figures, "ratios": ratios, "bars": bars}


def _ratio(rounds: list[dict[str, dict[str, float]]], ours: str, theirs: str) -> dict[str, float]:
    return _spread([each[ours]["per_s"] / each[theirs]["per_s"] for each in rounds])


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(values), 3), "min": round(min(values), 3), "max": round(max(values), 3)}


# What is measured on


@contextlib.contextmanager
def _database(size: argparse.Namespace, folder: Path) -> Iterator[str]:
    """The URL of a fresh database, which is dropped at the end."""
    if size.database == "sqlite":
        yield f"sqlite:///{folder}/db.sqlite3"
        return
    try:
        admin = psycopg.connect(size.postgres, autocommit=True, connect_timeout=3)
    except psycopg.OperationalError as error:
        if size.database == "postgresql":
            raise
        print(f"no PostgreSQL at {size.postgres} ({error}); SQLite instead", file=sys.stderr)
        yield f"sqlite:///{folder}/db.sqlite3"
        return
    name = f"clonejob_bench_{uuid.uuid4().hex[:12]}"
    with admin:
        admin.execute(f"CREATE DATABASE {name}")
        try:
            yield f"{size.postgres.rpartition('/')[0]}/{name}"
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _fill(database: str, folder: Path, vms: int) -> None:
    """A VM with 60 ended clone jobs, which are read in turns, and as many VMs as there will be creates."""
    runtime = make_runtime(database, folder, Silent())
    services = Services(runtime)
    services.sources.create(PARENT, "s", {}, Request())
    services.target_projects.create(PARENT, "simulated", {"project": "simulated"}, Request())
    now = dt.datetime.now(dt.UTC)
    names = [LIST_VM, *(vm_name(number) for number in range(vms))]
    engine = runtime.store.engine
    with engine.begin() as connection:
        connection.execute(sa.insert(MigratingVm), [
            {"name": name, "parent": SOURCE, "body": BODY, "state": VmState.ACTIVE, "state_time": now,
             "create_time": now, "update_time": now, "extension_count": 0} for name in names
        ])  # fmt: skip
        connection.execute(sa.insert(ReplicationCycle), [
            {"name": f"{name}/replicationCycles/cycle-1", "parent": name, "cycle_number": 1,
             "state": CycleState.SUCCEEDED, "adaptation": None, "error": None, "start_time": now, "end_time": now}
            for name in names
        ])  # fmt: skip
        connection.execute(sa.insert(Snapshot), [
            {"cycle": f"{name}/replicationCycles/cycle-1", "disk_number": 0, "store_key": f"key-{number}",
             "format": "raw", "virtual_size_bytes": 512, "stored_size_bytes": 512, "sha256": "0" * 64,
             "create_time": now} for number, name in enumerate(names)
        ])  # fmt: skip
    _jobs(runtime, now)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE")
    engine.dispose()


def _jobs(runtime: Any, now: dt.datetime) -> None:
    """Jobs as they look when they have succeeded: steps that have ended, a ledger of four rows."""
    from sqlalchemy.orm import Session

    from models.states import JobState, Verdict

    with Session(runtime.store.engine, expire_on_commit=False) as session, session.begin():
        vm = session.get(MigratingVm, LIST_VM)
        cycle = session.get(ReplicationCycle, f"{LIST_VM}/replicationCycles/cycle-1")
        assert vm is not None
        assert cycle is not None
        for number in range(JOBS):
            job = plan_job(job_id=uuid.uuid4().hex, name=job_name(number), vm=vm, cycle=cycle, target="simulated",
                           now=now + dt.timedelta(seconds=number))  # fmt: skip
            job.state, job.verdict, job.end_time, job.wake_at = JobState.SUCCEEDED, Verdict.SUCCEED, now, None
            for step in job.steps:
                step.start_time = step.end_time = now
            session.add(job)


@dataclass(frozen=True, slots=True)
class _Server:
    ports: dict[str, int]
    process: psutil.Process

    def cpu_seconds(self) -> float:
        """What it has used so far, of all its threads."""
        times = self.process.cpu_times()
        return float(times.user + times.system)


@contextlib.contextmanager
def _server(*arguments: str) -> Iterator[_Server]:
    """A server in a process of its own."""
    with _process(*arguments) as child:
        assert child.stdout is not None
        line = child.stdout.readline()
        if not line:
            raise SystemExit(f"the server did not start: {arguments}")
        yield _Server(json.loads(line), psutil.Process(child.pid))


@contextlib.contextmanager
def _client() -> Iterator[Any]:
    """The client process, as a function from work to its figures."""
    with _process("client") as child:

        def ask(work: dict[str, Any]) -> Any:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write(json.dumps(work) + "\n")
            child.stdin.flush()
            line = child.stdout.readline()
            if not line:
                raise SystemExit(f"the client failed at {work}")
            return json.loads(line)

        yield ask


@contextlib.contextmanager
def _process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(Path(api_parts.__file__)), *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CLONEJOB_")}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as child:
        try:
            yield child
        finally:
            child.terminate()


if __name__ == "__main__":
    sys.exit(main())
