"""Three clone jobs with three ends, each end proved by looking at QEMU and at the files."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import grpc
from google.auth.credentials import AnonymousCredentials
from google.cloud import vmmigration_v1
from google.cloud.vmmigration_v1.services.vm_migration import transports
from rich.console import Console

from targets import qemu_vm
from targets.errors import TransientError
from targets.guest import build_disk
from targets.qemu_machine import VmLabel
from targets.qemu_vm import VmProcess
from worker.demo.service import DemoError, Service, running_service
from worker.demo.summary import print_summary
from worker.demo.watch import TERMINAL, JobWatch, Vm, files_below, qemu_view
from worker.service_file import read_service

SOURCE = "projects/clonejob/locations/global/sources/default"
_TOO_MUCH_MEMORY = "custom-1-8388608"  # 8 TiB: QEMU itself refuses to start with it
_SLOW_BOOT_S, _NEVER_BOOTS_S = 4, 600
_KILL_WAIT_S = 10.0
_INSTALL_QEMU = "apt-get install -y --no-install-recommends qemu-system-x86 qemu-utils"


def run(data_dir: Path, console: Console, *, keep: bool) -> None:
    """The whole demo. Raises: DemoError if anything that it claims did not happen."""
    if not shutil.which("qemu-system-x86_64") or not shutil.which("qemu-img"):
        raise DemoError(f"QEMU is not installed; install it with: {_INSTALL_QEMU}")
    _fresh_folder(data_dir)
    console.rule("clonejob: three clones of virtual machines, three ends")
    console.print("Starting the service: SQLite, a Valkey broker on loopback, API over gRPC and REST, workers …")
    with running_service(data_dir, keep=keep) as service:
        console.print(f"  REST {service.rest_url}   gRPC {service.grpc_address}   data {data_dir}")
        demo = _Demo(service, console)
        try:
            demo.play()
            _print_what_next(console, service, keep=keep)
        finally:
            if not keep:
                remove_vms(data_dir)
    if not keep:
        shutil.rmtree(data_dir)


def _fresh_folder(data_dir: Path) -> None:
    if read_service(data_dir) is not None:
        raise DemoError(f"an earlier demo is still running in {data_dir}; end it with: make demo-stop")
    if data_dir.exists():
        remove_vms(data_dir)
        shutil.rmtree(data_dir)
    data_dir.mkdir(mode=0o700, parents=True)


class _Demo:
    def __init__(self, service: Service, console: Console) -> None:
        self._service = service
        self._console = console
        self._target = service.data_dir / "targets" / "local"
        self._names = {f"job {word}": f"{SOURCE}/migratingVms/web-{n}/cloneJobs/clone-{n}"
                       for n, word in enumerate(("one", "two", "three"), 1)}  # fmt: skip
        self.watch = JobWatch(service, console, {})
        self._grpc = vmmigration_v1.VmMigrationClient(
            transport=transports.VmMigrationGrpcTransport(channel=grpc.insecure_channel(service.grpc_address))
        )
        self._rest = vmmigration_v1.VmMigrationClient(
            transport=transports.VmMigrationRestTransport(
                host=service.rest_url.removeprefix("http://"), url_scheme="http", credentials=AnonymousCredentials()
            )
        )

    def play(self) -> None:
        """Set up, run, check, sum up."""
        self._say("1", "Three bootable disks are built and uploaded, each as a successful replication cycle of a VM")
        self._import("web-1", _SLOW_BOOT_S, "--hostname", "web-1-test")
        self._import("web-2", _NEVER_BOOTS_S)
        self._import("web-3", 0, "--machine-type", _TOO_MUCH_MEMORY)
        self._say("2", "Job one, through Google's client over gRPC; a newer cycle is uploaded while it runs")
        self._create(self._grpc, 1)
        self._wait("job one instantiates", lambda jobs: _instantiating(jobs["job one"]))
        self._import("web-1", _SLOW_BOOT_S, data="cycle 2")
        self._say("3", "Jobs two and three, through Google's client over REST; two is cancelled while it instantiates")
        self._create(self._rest, 2)
        self._create(self._rest, 3)
        self._wait(
            "job two's virtual machine runs",
            lambda _: (
                len(self._vms("web-2")) == 1 and self.watch.instance(self._names["job two"])["state"] == "CREATED"
            ),
        )
        self._cancel_job_two()
        self._wait("all jobs have ended", lambda jobs: all(job["state"] in TERMINAL for job in jobs.values()))
        self._say("5", "What is there now, by QEMU and by the file system")
        self._check()
        print_summary(self._console, self.watch, self._names)

    def _say(self, number: str, text: str) -> None:
        self._console.print(f"\n[bold]{number}. {text}[/]")

    def _import(self, vm: str, boot_delay_s: float, *options: str, data: str = "cycle 1") -> None:
        disk = self._service.data_dir / f"{vm}.qcow2"
        disk.unlink(missing_ok=True)
        build_disk(disk, hostname=f"{vm}-prod", data=data, boot_delay_s=boot_delay_s, format="qcow2")
        self._console.print(f"  $ clonejob vm import {vm} --disk {disk.name} {' '.join(options)}")
        self._console.print(f"    {self._service.command('vm', 'import', vm, '--disk', str(disk), *options)}")
        disk.unlink()

    def _create(self, client: Any, number: int) -> None:
        operation = client.create_clone_job(
            parent=f"{SOURCE}/migratingVms/web-{number}", clone_job_id=f"clone-{number}", clone_job={}
        )
        job = operation.result(timeout=30)
        title = next(title for title, name in self._names.items() if name == job.name)
        self._console.print(f"  {title}: {job.name} ({job.state.name})")
        self.watch.follow(title, job.name)

    def _wait(self, what: str, done: Callable[[dict[str, dict[str, Any]]], bool]) -> None:
        self.watch.until(done, timeout_s=60, what=what)

    def _vms(self, prefix: str) -> list[Vm]:
        return [vm for vm in qemu_view(self._service.data_dir) if vm.name.startswith(prefix)]

    def _cancel_job_two(self) -> None:
        before = self._show("before the cancel", "web-2")
        if not before:
            raise DemoError("job two's disk and instance were not there before the cancel")
        self._say("4", "Job two is cancelled; the operation ends when the absence of all that it made has been seen")
        self._rest.cancel_clone_job(name=self._names["job two"]).result(timeout=60)
        if self._show("after the cancel", "web-2") or self._vms("web-2"):
            raise DemoError("job two is CANCELLED and something that it made still exists")

    def _show(self, when: str, prefix: str) -> list[str]:
        vms = [f"{vm.name} is {vm.status} (pid {vm.pid})" for vm in self._vms(prefix)]
        files = [path for path in files_below(self._target) if f"/{prefix}" in path]
        self._console.print(f"  {when}: QEMU says {', '.join(vms) or 'no such virtual machine'}; "
                            f"{len(files)} file(s){': ' if files else ''}{', '.join(files)}", highlight=False)  # fmt: skip
        return files

    def _check(self) -> None:
        jobs = {title: self._grpc.get_clone_job(name=name) for title, name in self._names.items()}
        states = {title: job.state.name for title, job in jobs.items()}
        self._claim("job one SUCCEEDED, two CANCELLED, three FAILED",
                    list(states.values()) == ["SUCCEEDED", "CANCELLED", "FAILED"], str(states))  # fmt: skip
        self._check_kept(jobs["job one"])
        message = jobs["job three"].error.message
        made = {
            row["kind"] for row in self.watch.page(self._names["job three"], "ledger")["ledger"] if row["createdTime"]
        }
        self._claim(f"job three had made its disk, then QEMU refused the instance: {message}",
                    "disk" in made and "instance" not in made and "emory" in message, f"{made} {message}")  # fmt: skip
        left = [path for path in files_below(self._target) if "/web-1" not in path]
        self._claim("nothing of jobs two and three is left: no process, no file", not left and len(qemu_view(self._service.data_dir)) == 1,
                    str(left))  # fmt: skip

    def _check_kept(self, job: Any) -> None:
        instance = job.compute_engine_target_details.vm_name
        vms = self._vms(instance)
        self._claim(f"its instance {instance} is a running QEMU virtual machine",
                    [vm.status for vm in vms] == ["running"], str(vms))  # fmt: skip
        console = (self._target / "instances" / instance / "serial.log").read_text()
        line = next((text for text in console.splitlines() if "BOOTED" in text), console)
        self._claim(f"its console says: {line.strip()}", "hostname=web-1-test" in line, console)
        newest = self._service.command("--json", "vm", "show", "web-1")
        self._claim("it was made from the cycle that it pinned (cycle 1), though cycle 2 is the latest by now",
                    "data=cycle 1" in line and "cycle-2" in newest, line)  # fmt: skip

    def _claim(self, text: str, holds: bool, found: str) -> None:
        if not holds:
            raise DemoError(f"not true: {text}; found: {found}")
        self._console.print(f"  [green]✓[/] {text}", highlight=False)


def _instantiating(job: dict[str, Any]) -> bool:
    return any(step["kind"] == "instantiating_migrated_vm" and step.get("startTime") for step in job["steps"])


def remove_vms(data_dir: Path) -> None:
    """End the demo's virtual machines, as their owner may: the service itself never touches a kept one.

    Who does not answer is killed. Raises: DemoError for a process that is none of ours, or does not end.
    """
    for vm in qemu_view(data_dir):
        label = VmLabel.of(vm.command)
        if label is None:
            raise DemoError(
                f"process {vm.pid} works on files in {data_dir} and is not a clone of the demo; end it first"
            )
        try:
            qemu_vm.stop([VmProcess(vm.pid, label)], data_dir / "targets" / "local" / "instances" / vm.name,
                         timeout_s=_KILL_WAIT_S)  # fmt: skip
        except TransientError as error:
            raise DemoError(f"{vm.name} (pid {vm.pid}): {error}") from error


def _print_what_next(console: Console, service: Service, *, keep: bool) -> None:
    if keep:
        lines: Iterable[str] = (
            f"The service and the clone are still running (KEEP=1), in {service.data_dir}. Look further:",
            f"  .venv/bin/clonejob --data-dir {service.data_dir} show web-1/clone-1",
            f"  .venv/bin/clonejob --data-dir {service.data_dir} doctor",
            "  make demo-stop        ends both",
        )
    else:
        lines = ("Nothing is left running. To look further: KEEP=1 make demo, or make up for a service of your own.",)
    console.print()
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
