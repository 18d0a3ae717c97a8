"""A real ``clonejob up`` in a folder of its own, driven and watched from outside.

What exists is read past the service: processes from /proc, files from the target's folders, the inventory from a
``QemuTarget`` of the test's own.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
from google.auth.credentials import AnonymousCredentials
from google.cloud import vmmigration_v1
from google.cloud.vmmigration_v1.services.vm_migration import transports

sys.path.append(str(Path(__file__).parent))  # for whoever imports it from another folder

from live_client import PARENT, SOURCE, TERMINAL, Client, until
from live_machines import FOLDERS, Vm, Watcher, command_line, end_process, of_billiard, processes_of, vms_below

__all__ = ["FOLDERS", "PARENT", "ROOT", "SHORT", "SOURCE", "TERMINAL", "Service", "Vm", "Watcher", "command_line",
           "end_process", "processes_of", "running", "running_service", "until", "vms_below"]  # fmt: skip

ROOT = Path(__file__).parents[2]
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

running: list[Service] = []


class Service(Client):
    """``clonejob up`` with settings of the test; ``folder`` must not exist.

    ``watch``: look at QEMU's processes and files all the time. ``program``: what runs ``up``.
    """

    def __init__(
        self, folder: Path, *, watch: bool = True, program: tuple[str, ...] = ("-m", "worker.cli"), **settings: object
    ) -> None:
        self._program = program
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
        self.watcher = Watcher(self.local, looks=watch)

    # The service's life

    def start(self, *, limit_s: float = 180.0) -> None:
        self._starts += 1
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CLONEJOB_")}
        environment |= {f"CLONEJOB_{name}": str(value) for name, value in self._settings.items()}
        environment |= {"HOME": f"{self.folder}/home", "TMPDIR": f"{self.folder}/tmp", "PYTHONPATH": str(ROOT)}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command(),
                stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment,
                cwd=self.folder / "cwd", start_new_session=True,
            )  # fmt: skip
        if self not in running:
            running.append(self)
        found = until("the service is ready", self._ready_line, limit_s)
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

    def _command(self) -> list[str]:
        command = [sys.executable, "-P", *self._program, "up", "--rest-port", "0", "--grpc-port", "0"]
        return [*command, "--data-dir", str(self.data_dir)]

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
                assert [path for folder in self.strays for path in folder.rglob("*") if not of_billiard(path)] == []
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
