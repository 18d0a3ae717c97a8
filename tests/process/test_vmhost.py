"""Workers and a vmhost in pid namespaces of their own, as containers have them: no worker's end ends a machine."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
from live_service import ROOT, Service, command_line, until

TARGETS = json.dumps({"local": {"type": "qemu", "vmhost": True}})


def namespace() -> list[str]:
    """What goes before a command to give it a pid namespace, where it may: its end is the end of all in it."""
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    may = shutil.which("unshare") and subprocess.run([*command, "true"], capture_output=True, check=False)
    return command if may and may.returncode == 0 else []


class Apart(Service):
    """A service whose processes are a container's: they see none of the vmhost's, and all end at once."""

    def start(self, *, limit_s: float = 180.0) -> None:
        self._wrapper = namespace()
        super().start(limit_s=limit_s)

    def _command(self) -> list[str]:
        return [*self._wrapper, *super()._command()]

    def end_container(self) -> None:
        """SIGKILL of everything of the service, as the kernel does it to a container."""
        if not self._wrapper:
            for pid in self.others():
                if b"vmhost" not in command_line(pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
        self.kill()


@contextlib.contextmanager
def vmhost(data_dir: Path) -> Iterator[subprocess.Popen[bytes]]:
    """``clonejob vmhost`` in a namespace of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CLONEJOB_")}
    environment |= {"CLONEJOB_TARGETS": TARGETS, "PYTHONPATH": str(ROOT)}
    command = [*namespace(), sys.executable, "-P", "-m", "worker.cli", "vmhost", "--data-dir", str(data_dir)]
    log = data_dir.parent / "vmhost.log"
    with (
        log.open("ab") as output,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, start_new_session=True
        ) as process,
    ):
        try:
            until(
                "the vmhost is ready",
                lambda: process.poll() is not None or b"ready vmhost=local" in log.read_bytes(),
                90,
            )
            assert process.poll() is None, log.read_text()
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)


def server_of(keeper: subprocess.Popen[bytes]) -> int:
    """The process that serves; 0 while it is started again."""
    below = psutil.Process(keeper.pid).children(recursive=True)
    return next((each.pid for each in below if b"worker.vmhost" in command_line(each.pid)), 0)


def test_machines_outlive_the_workers_container_and_the_vmhosts_process(folder):
    service = Apart(folder / "s", TARGETS=TARGETS)
    data = service.data_dir
    data.mkdir(mode=0o700)
    try:
        with vmhost(data) as keeper:
            service.start()
            good = service.submit(service.import_vm("good"), "clone")
            bad = service.submit(service.import_vm("bad", boot_delay_s=900), "clone")
            service.wait_booting(bad)
            assert service.wait_ended([good]) == ["SUCCEEDED"]
            kept, waiting = sorted(service.vms(), key=lambda vm: vm.name, reverse=True)

            service.end_container()
            assert {vm.pid for vm in service.vms()} == {kept.pid, waiting.pid}
            server = server_of(keeper)
            os.kill(server, signal.SIGKILL)
            until("the vmhost's server is back", lambda: server_of(keeper) not in (0, server))
            assert {vm.pid for vm in service.vms()} == {kept.pid, waiting.pid}

            service.start()
            assert service.state(bad) not in ("FAILED", "CANCELLED")
            service.grpc.cancel_clone_job(name=bad).result(timeout=60)
            assert service.state(bad) == "CANCELLED"
            assert set(service.ledger(bad).values()) == {"ABSENT"}
            assert [vm.pid for vm in service.vms()] == [kept.pid]
            assert service.files("bad-") == []
            service.end_container()
            assert [vm.pid for vm in service.vms()] == [kept.pid]
        if namespace():
            until("the machine has ended with the vmhost's container", lambda: not service.vms())
    finally:
        service._remove()
    assert service.vms() == []
