"""A real ``clonejob up`` in a folder of its own, driven and watched from outside.

What exists is read past the service: processes from /proc, files from the target's folders, the inventory from a
``QemuTarget`` of the test's own.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import kombu.exceptions
import psutil
import redis
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import vmmigration_v1
from google.cloud.vmmigration_v1.services.vm_migration import transports

from targets.guest import build_disk
from targets.qemu import QemuTarget
from targets.simulated import SimulatedTarget
from targets.snapshot_store import FileSnapshotStore

ROOT = Path(__file__).parents[2]
PARENT = "projects/clonejob/locations/global"
SOURCE = f"{PARENT}/sources/s"
TERMINAL = {"SUCCEEDED", "FAILED", "CANCELLED"}
FOLDERS = {"adapted_image": "images", "disk": "disks", "instance": "instances"}
SHORT = {
    "LEASE_S": 2,
    "PROVIDER_CALL_LIMIT_S": 3,
    "RECONCILE_INTERVAL_S": 0.5,
    "DISPATCH_GRACE_S": 3,
    "POLL_S": 0.3,
    "INLINE_WAIT_S": 0.5,
    "RETRY_PAUSE_S": 0.5,
    "CLEANUP_PAUSE_S": 0.5,
}
_NOT_NOW = (
    OSError,
    httpx.TransportError,
    exceptions.ServiceUnavailable,
    redis.RedisError,
    kombu.exceptions.OperationalError,
)
_LABEL = b"name=opt/org.clonejob/label,string="

running: list[Service] = []


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


@dataclass(frozen=True)
class Vm:
    """One QEMU process, by its command line."""

    pid: int
    name: str
    uid: str


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def vms_below(folder: Path) -> list[Vm]:
    """The virtual machines whose disks lie below the folder."""
    found = []
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        line = command_line(pid)
        if _LABEL in line and f"file={folder}/".encode() in line:
            label = line.partition(_LABEL)[2].partition(b"\0")[0].decode().split("/")
            found.append(Vm(pid, label[1], label[4]))
    return found


def processes_of(folder: Path) -> dict[int, str]:
    """Every process that has the folder in its command line, its environment or as its working directory."""
    found = {}
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        line = command_line(pid)
        traces = [line]
        with contextlib.suppress(OSError):
            traces += [Path(f"/proc/{pid}/environ").read_bytes(), os.fsencode(os.readlink(f"/proc/{pid}/cwd"))]
        if line and pid != os.getpid() and any(os.fsencode(f"{folder}/") in trace for trace in traces):
            found[pid] = line.replace(b"\0", b" ").decode(errors="replace")[:200]
    return found


class Watcher(threading.Thread):
    """Looks at the target all the time: under which uids each name was ever seen, and how many machines at once."""

    def __init__(self, root: Path) -> None:
        super().__init__(daemon=True)
        self.root = root
        self.uids: dict[tuple[str, str], set[str]] = defaultdict(set)
        self.most_at_once: dict[str, int] = defaultdict(int)
        self._ended = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._ended.wait(0.05):
            self.look()

    def look(self) -> None:
        machines: dict[str, set[str]] = defaultdict(set)
        for vm in vms_below(self.root):
            machines[vm.name].add(vm.uid)
        for name, uids in machines.items():
            self.uids["instance", name] |= uids
            self.most_at_once[name] = max(self.most_at_once[name], len(uids))
        for kind, folder in FOLDERS.items():
            for meta in self.root.glob(f"{folder}/[!.]*/meta.json"):
                with contextlib.suppress(FileNotFoundError):
                    self.uids[kind, meta.parent.name].add(json.loads(meta.read_bytes())["uid"])

    def end(self) -> None:
        self._ended.set()
        self.join()


class Service:
    """``clonejob up`` with settings of the test; ``folder`` must not exist."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        self.data_dir = folder / "data"
        self.plan = folder / "faults" / "plan.json"
        self.local = self.data_dir / "targets" / "local"
        self.strays = [folder / name for name in ("cwd", "home", "tmp")]  # must stay empty
        for each in (*self.strays, self.plan.parent, folder / "disks"):
            each.mkdir(parents=True)
        self.plan.write_text("[]")
        self._settings = {**SHORT, "FAULT_PLAN": self.plan, **settings}
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0
        self._clients = contextlib.ExitStack()
        self.watcher = Watcher(self.local)

    # The service's life

    def start(self) -> None:
        self._starts += 1
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CLONEJOB_")}
        environment |= {f"CLONEJOB_{name}": str(value) for name, value in self._settings.items()}
        environment |= {"HOME": f"{self.folder}/home", "TMPDIR": f"{self.folder}/tmp", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-P", "-m", "worker.cli", "up", "--rest-port", "0", "--grpc-port", "0"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "--data-dir", str(self.data_dir)],
                stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment,
                cwd=self.folder / "cwd", start_new_session=True,
            )  # fmt: skip
        if self not in running:
            running.append(self)
        found = until("the service is ready", self._ready_line, 60)
        self.rest_url, grpc_address = found["rest"], found["grpc"]
        self.http = self._clients.enter_context(httpx.Client(base_url=self.rest_url, timeout=30, trust_env=False))
        channel = grpc.insecure_channel(grpc_address)
        self.grpc = self._clients.enter_context(
            vmmigration_v1.VmMigrationClient(transport=transports.VmMigrationGrpcTransport(channel=channel))
        )
        self.rest = self._clients.enter_context(
            vmmigration_v1.VmMigrationClient(
                transport=transports.VmMigrationRestTransport(
                    host=self.rest_url.removeprefix("http://"), url_scheme="http", credentials=AnonymousCredentials()
                )
            )
        )

    @property
    def _log(self) -> Path:
        return self.folder / f"up-{self._starts}.log"

    def _ready_line(self) -> dict[str, str] | None:
        lines = self._log.read_text().splitlines()
        assert self._process.poll() is None, f"up ended with {self._process.returncode}: {lines[-20:]}"
        line = next((line for line in lines if line.startswith("ready ")), None)
        return dict(part.split("=", 1) for part in line.split()[1:]) if line else None

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self._process.terminate()
        return self._gone(40)

    def kill(self) -> None:
        """SIGKILL of ``up`` itself, of nothing else."""
        self._process.kill()
        self._gone(5)

    def _gone(self, timeout_s: float) -> int:
        try:
            return self._process.wait(timeout_s)
        finally:
            self._clients.close()

    def others(self) -> dict[int, str]:
        """Processes of this service that are not virtual machines."""
        vms = {vm.pid for vm in self.vms()}
        return {pid: line for pid, line in processes_of(self.folder).items() if pid not in vms}

    def close(self) -> None:
        """Stop, and check that nothing is left but what succeeded jobs keep; then remove that too."""
        try:
            if self._process.poll() is None:
                kept = until("the API answers", lambda: [self._kept()])[0]
                assert self.stop() == 0, "up did not end well"
                assert sorted(vm.name for vm in self.vms()) == kept
                assert self.others() == {}
                assert not (self.data_dir / "service.json").exists()
                assert [path for folder in self.strays for path in folder.rglob("*") if not _of_billiard(path)] == []
        finally:
            self._remove()
        running.remove(self)

    def _kept(self) -> list[str]:
        """Names of the machines that jobs which succeeded have left to the user."""
        jobs = self.rest.list_clone_jobs(parent=f"{SOURCE}/migratingVms/-")
        good = [job for job in jobs if job.state.name == "SUCCEEDED"]
        ours = [job.name for job in good if job.compute_engine_target_details.project == "local"]
        rows = [row for job in ours for row in self.page(job, "ledger")["ledger"]]
        return sorted(row["name"] for row in rows if row["kind"] == "instance" and row["state"] == "KEPT")

    def _remove(self) -> None:
        self.watcher.end()
        self._clients.close()
        for pid in self.others():
            end_process(pid, os.fsencode(self.folder))
        self._process.wait(10)
        for vm in self.vms():
            end_process(vm.pid, vm.uid.encode())

    def tails(self, lines: int = 40) -> Iterator[tuple[str, str]]:
        """The ends of all logs."""
        for path in sorted([*self.folder.glob("up-*.log"), *self.data_dir.glob("logs/*.log")]):
            text = path.read_bytes()[-64_000:].decode(errors="replace")
            yield str(path), "\n".join(text.splitlines()[-lines:])

    # Its children

    def child(self, name: str) -> int:
        """Process id of steps, control, api or broker; 0 while it is being restarted."""
        service = json.loads((self.data_dir / "service.json").read_text())
        return service["children"].get(name, 0)

    @property
    def broker_url(self) -> str:
        return json.loads((self.data_dir / "service.json").read_text())["broker_url"]

    def kill_child(self, name: str) -> None:
        """SIGKILL of a child's whole tree: main process and pool, which are one process group."""
        pid = self.child(name)
        assert os.getpgid(pid) == pid
        os.killpg(pid, signal.SIGKILL)
        until(f"{name} is dead", lambda: self.child(name) != pid, 10)

    def wait_for_child(self, name: str) -> None:
        """Until it has been started again."""
        until(f"{name} is back", lambda: self.child(name))

    # Faults

    def arm(self, *entries: tuple[str, str], action: str = "hang", **options: object) -> None:
        """Replace the fault plan; each entry is a point and a phase, and fires once."""
        self._write_plan([])
        for mark in self.plan.parent.glob("plan.json.*"):
            mark.unlink()
        self._write_plan([{"point": at, "phase": when, "action": action, **options} for at, when in entries])

    def _write_plan(self, entries: list[object]) -> None:
        new = self.plan.with_suffix(".new")
        new.write_text(json.dumps(entries))
        new.replace(self.plan)

    def fired(self, entry: int = 0) -> int:
        """Process id in which the entry fired; 0 before."""
        mark = self.plan.with_name(f"plan.json.{entry}.0")
        return int(mark.read_text() or 0) if mark.exists() else 0

    def wait_fired(self, entries: int = 1, timeout_s: float = 30.0) -> list[int]:
        """Until every entry has fired; their process ids."""
        until("the fault fires", lambda: all(self.fired(at) for at in range(entries)), timeout_s)
        return [self.fired(at) for at in range(entries)]

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

    def assert_one_clone(self, job: str, prefix: str) -> Vm:
        """The job has exactly one instance, made once, from disks made once, and nothing else; its machine."""
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
            assert len(self.watcher.uids[kind, name]) == 1, f"{kind} {name} was created more than once"
        assert self.watcher.most_at_once[machines[0].name] == 1
        created = [each["message"] for each in self.page(job, "events")["events"] if each["kind"] == "resource_created"]
        assert sorted(created) == sorted(f"{kind} {name}" for kind, name in ledger)
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


def _of_billiard(path: Path) -> bool:
    """An empty folder that billiard makes in TMPDIR and that stays when the worker is killed."""
    return path.name.startswith("pymp-") and not list(path.iterdir())


def end_process(pid: int, trace: bytes) -> None:
    """SIGKILL of a process that carries ``trace``; a pid that belongs to another by now is left alone."""
    with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
        descriptor = os.pidfd_open(pid)
        try:
            about = command_line(pid) + Path(f"/proc/{pid}/environ").read_bytes()
            about += os.fsencode(os.readlink(f"/proc/{pid}/cwd"))
            if trace in about:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        except OSError:
            return
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def running_service(folder: Path, **settings: object) -> Iterator[Service]:
    """A service for the length of a block, checked at its end."""
    service = Service(folder, **settings)
    try:
        service.start()
        yield service
    except BaseException:
        service._remove()
        raise
    service.close()
