"""What a service's processes and files look like from outside: /proc and the target's folders."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import psutil

FOLDERS = {"adapted_image": "images", "disk": "disks", "instance": "instances"}
_LABEL = b"name=opt/org.clonejob/label,string="


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

    def __init__(self, root: Path, *, looks: bool = True) -> None:
        super().__init__(daemon=True)
        self.root = root
        self.uids: dict[tuple[str, str], set[str]] = defaultdict(set)
        self.most_at_once: dict[str, int] = defaultdict(int)
        self._ended = threading.Event()
        if looks:
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
        if self.is_alive():
            self.join()


def of_billiard(path: Path) -> bool:
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
