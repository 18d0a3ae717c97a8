"""A client of a live service: submits jobs, asks for their pages, and says what must exist afterwards."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import httpx
import kombu.exceptions
import redis
from google.api_core import exceptions
from google.cloud import vmmigration_v1
from live_machines import FOLDERS, Vm, Watcher, vms_below

from targets.guest import build_disk
from targets.qemu import QemuTarget
from targets.simulated import SimulatedTarget
from targets.snapshot_store import FileSnapshotStore

PARENT = "projects/clonejob/locations/global"
SOURCE = f"{PARENT}/sources/s"
TERMINAL = {"SUCCEEDED", "FAILED", "CANCELLED"}
_NOT_NOW = (
    OSError,
    httpx.TransportError,
    exceptions.ServiceUnavailable,
    redis.RedisError,
    kombu.exceptions.OperationalError,
)


def until(what: str, holds: Callable[[], object], timeout_s: float = 30.0) -> object:
    """Wait until ``holds`` gives something true; gives that. While the service is restarted its errors count as no."""
    deadline = time.monotonic() + timeout_s
    while True:
        found: object = None
        with contextlib.suppress(*_NOT_NOW):
            found = holds()
        if found:
            return found
        assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s in vain until {what}"
        time.sleep(0.05)


class Client:
    """What can be asked of a service that runs in ``folder``."""

    folder: Path
    data_dir: Path
    local: Path
    watcher: Watcher
    http: httpx.Client
    grpc: vmmigration_v1.VmMigrationClient
    rest: vmmigration_v1.VmMigrationClient

    # Jobs

    def import_vm(self, vm_id: str, *, target: str = "local", **disk: object) -> str:
        """A VM with one successful cycle, made the first time; its name."""
        name = f"{SOURCE}/migratingVms/{vm_id}"
        self._make("sources", "sourceId=s", {})
        defaults = {"targetProject": f"{PARENT}/targetProjects/{target}", "zone": "local-a"}
        self._make("sources/s/migratingVms", f"migratingVmId={vm_id}", {"computeEngineTargetDefaults": defaults})
        image = build_disk(self.folder / "disks" / f"{vm_id}.raw", size_bytes=2**20, **disk)
        cycle = self._post(f"/clonejob/v1/{name}/replicationCycles", {})["name"]
        answer = self.http.put(f"/clonejob/v1/{cycle}/disks/0?format=raw", content=image.read_bytes())
        assert answer.status_code == 200, answer.text
        self._post(f"/clonejob/v1/{cycle}:finish", {})
        return name

    def _make(self, collection: str, query: str, body: object) -> None:
        answer = self.http.post(f"/v1/{PARENT}/{collection}?{query}", json=body)
        assert answer.status_code in (200, 409), answer.text

    def _post(self, path: str, body: object) -> dict:
        answer = self.http.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def submit(self, vm: str, job_id: str, *, client: str = "grpc") -> str:
        """Create a clone job through the official client; its name."""
        create = getattr(self, client).create_clone_job
        return create(parent=vm, clone_job_id=job_id, clone_job={}).result(timeout=30).name

    def page(self, job: str, page: str) -> dict:
        """progress, ledger or events of a job."""
        answer = self.http.get(f"/clonejob/v1/{job}/{page}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def state(self, job: str) -> str:
        return self.page(job, "progress")["state"]

    def ledger(self, job: str) -> dict[tuple[str, str], str]:
        return {(row["kind"], row["name"]): row["state"] for row in self.page(job, "ledger")["ledger"]}

    def events(self, job: str) -> list[str]:
        return [event["kind"] for event in self.page(job, "events")["events"]]

    def wait_ended(self, jobs: Iterable[str], timeout_s: float = 45.0) -> list[str]:
        """Until all have ended; their states."""
        jobs = list(jobs)
        until("the jobs have ended", lambda: {self.state(job) for job in jobs} <= TERMINAL, timeout_s)
        return [self.state(job) for job in jobs]

    def wait_booting(self, job: str) -> None:
        """Until the job waits for its instance to boot."""

        def booting() -> bool:
            step = self.page(job, "progress")["steps"][-1]
            return "to boot" in step["progress"].get("detail", "")

        until(f"{job} waits for the boot", booting)

    def leases(self) -> dict[str, int]:
        """Process id of the worker at work, by job; read from the SQLite file."""
        with contextlib.closing(sqlite3.connect(f"file:{self.data_dir}/clonejob.sqlite3?mode=ro", uri=True)) as rows:
            found = rows.execute("SELECT name, lease_owner FROM clone_jobs WHERE lease_owner IS NOT NULL").fetchall()
        return {name: int(owner.split("/")[0].rpartition(":")[2]) for name, owner in found}

    # What exists

    def vms(self) -> list[Vm]:
        return vms_below(self.local)

    def vms_named(self, prefix: str) -> list[Vm]:
        return [vm for vm in self.vms() if vm.name.startswith(prefix)]

    def inventory(self, prefix: str = "") -> list[tuple[str, str, str]]:
        """Kind, name and status by a target object of our own."""
        target = QemuTarget(self.local, FileSnapshotStore(self.data_dir / "snapshots"))
        seen = [(str(each.ref.kind), each.ref.name, str(each.status)) for each in target.inventory()]
        return sorted(each for each in seen if each[1].startswith(prefix))

    def files(self, prefix: str) -> list[str]:
        """What lies in the target's folders under names with that prefix, half-made things included."""
        entries = [entry for folder in FOLDERS.values() for entry in (self.local / folder).iterdir()]
        return sorted(str(entry) for entry in entries if entry.name.lstrip(".").startswith(prefix))

    def simulated(self) -> SimulatedTarget:
        return SimulatedTarget(self.data_dir / "targets" / "simulated")

    # What must be so

    def assert_one_clone(self, job: str, prefix: str, *, made_once: bool = True) -> Vm:
        """The job has exactly one instance, never had two at once, and nothing else; its machine.

        ``made_once``: nothing was half made and then made anew, as a call that took longer than its limit would leave it.
        """
        assert self.state(job) == "SUCCEEDED"
        ledger = self.ledger(job)
        assert {(kind, state) for (kind, _), state in ledger.items()} == {
            ("adapted_image", "ABSENT"),
            ("disk", "KEPT"),
            ("instance", "KEPT"),
        }
        kept = sorted((kind, name, "ready") for (kind, name), state in ledger.items() if state == "KEPT")
        assert self.inventory(prefix) == kept
        assert self.files(prefix) == sorted(str(self.local / FOLDERS[kind] / name) for kind, name, _ in kept)
        machines = self.vms_named(prefix)
        assert [vm.name for vm in machines] == [name for kind, name, _ in kept if kind == "instance"]
        for kind, name, _ in kept:
            assert not made_once or len(self.watcher.uids[kind, name]) == 1, f"{kind} {name} was created more than once"
        assert self.watcher.most_at_once[machines[0].name] == 1
        created = [each["message"] for each in self.page(job, "events")["events"] if each["kind"] == "resource_created"]
        assert set(created) == {f"{kind} {name}" for kind, name in ledger}
        assert not made_once or len(created) == len(ledger)
        console = (self.local / "instances" / machines[0].name / "serial.log").read_text()
        assert f"BOOTED hostname={machines[0].name} " in console
        return machines[0]

    def assert_nothing_left(self, job: str, prefix: str, state: str = "CANCELLED") -> None:
        """The job ended so, and neither a process nor a file of it is left."""
        assert self.state(job) == state
        assert set(self.ledger(job).values()) == {"ABSENT"}
        assert self.vms_named(prefix) == []
        assert self.inventory(prefix) == []
        assert self.files(prefix) == []
