"""How quick the QEMU target's disks are, against what the same machine does without us, in one run. Prints JSON.

    python benchmarks/disks.py                   # 8 GiB with 5 GiB of data: needs 11 GiB and some minutes
    python benchmarks/disks.py --size-gib 1      # a short run

Every figure is a ratio of two that were measured in turn, the median of ``--rounds`` each. The exit status is 1 if one misses its
bar. The full copy is compared with ``qemu-img convert`` from raw to raw, which does the same work but for the checksum.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from targets.base import DiskSpec, InstanceSpec, Owner, ResourceKind, ResourceRef, Snapshot, Status
from targets.chunk_sums import ChunkHasher
from targets.guest import build_disk
from targets.qemu import QemuTarget
from targets.qemu_tools import cache_modes, find_tool
from targets.snapshot_store import FileSnapshotStore

GIB, MIB = 2**30, 2**20
SMALL_GIB, LARGE_GIB = 1, 64
CLONES = 20
BARS = {
    "overlay_large_over_small": ("most", 1.3), "overlay_large_ms": ("most", 150.0),
    "copy_rate_over_qemu_img": ("least", 0.9), "copy_rate_over_cp": ("least", 1.0),
    "copy_peak_memory_mib": ("most", 64.0), "clones_over_bare_qemu": ("most", 2.0),
}  # fmt: skip


class Bench:
    """One folder with a target and its snapshots."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = FileSnapshotStore(folder / "snapshots")
        self.overlays = QemuTarget(folder / "targets", self.store)
        self.copies = QemuTarget(folder / "targets", self.store, clone_mode="full")
        self._made = 0

    def snapshot(self, name: str, size_bytes: int, data_bytes: int) -> Snapshot:
        """A raw snapshot with that much random data at its start, put where an upload puts it."""
        path = self.store.path(f"{name}/disk0.raw")
        path.parent.mkdir(parents=True)
        build_disk(path, size_bytes=size_bytes)
        with path.open("r+b") as file:
            file.seek(MIB)
            for _ in range(data_bytes // (4 * MIB)):
                file.write(os.urandom(4 * MIB))
        digest = ""  # nobody looks at an overlay's; 64 GiB of holes take a minute
        if data_bytes:
            hasher = ChunkHasher()
            with path.open("rb") as file:
                while block := file.read(MIB):
                    hasher.update(block)
            digest = hasher.hexdigest()
            self.store.add_manifest(f"{name}/disk0.raw", hasher)
        return Snapshot(f"{name}/disk0.raw", "raw", size_bytes, digest)

    def disk(self, snapshot: Snapshot) -> DiskSpec:
        """A disk of a name of its own."""
        self._made += 1
        return DiskSpec(ResourceRef(ResourceKind.DISK, f"d-{self._made}"), Owner("job-1", 1), 0, snapshot)

    def remove(self, ref: ResourceRef) -> None:
        """Delete what was made."""
        seen = self.overlays.find(ref)
        assert seen is not None
        self.overlays.delete(ref, job_id="job-1", uid=seen.uid)

    def overlay_s(self, snapshot: Snapshot) -> float:
        """Seconds of one overlay."""
        spec = self.disk(snapshot)
        began = time.perf_counter()
        self.overlays.create(spec)
        took = time.perf_counter() - began
        self.remove(spec.ref)
        return took

    def copy(self, snapshot: Snapshot) -> tuple[float, float]:
        """Seconds and MiB of peak memory of one full copy, its checksum included."""
        spec, peak_kib, pid = self.disk(snapshot), 0, None
        began = time.perf_counter()
        while self.copies.create(spec).status is not Status.READY:
            pid = _copier(spec.ref.name) if pid is None else pid
            peak_kib = max(peak_kib, _peak_kib(pid))
            time.sleep(0.1)  # looking costs what the copy lacks
        took = time.perf_counter() - began
        self.remove(spec.ref)
        return took, peak_kib / 1024

    def clones_s(self, snapshot: Snapshot) -> float:
        """Seconds of 20 clones at once: disk and instance each."""

        def clone(spec: DiskSpec) -> ResourceRef:
            self.overlays.create(spec)
            ref = ResourceRef(ResourceKind.INSTANCE, f"vm-{spec.ref.name}")
            return self.overlays.create(InstanceSpec(ref, spec.owner, (spec.ref.name,), "h")).ref

        specs = [self.disk(snapshot) for _ in range(CLONES)]
        with ThreadPoolExecutor(CLONES) as pool:
            began = time.perf_counter()
            made = list(pool.map(clone, specs))
            took = time.perf_counter() - began
        for ref in (*made, *(spec.ref for spec in specs)):
            self.remove(ref)
        return took

    def bare_s(self, snapshot: Snapshot) -> float:
        """Seconds of 20 QEMU processes at once, each until its monitor listens, with an overlay by qemu-img each."""
        base = self.store.path(snapshot.key)

        def start(number: int) -> Path:
            place = self.folder / f"bare-{number}"
            place.mkdir()
            create: list[Any] = [
                find_tool("qemu-img"),
                "create",
                "-q",
                "-f",
                "qcow2",
                "-F",
                "raw",
                "-b",
                base,
                place / "d",
            ]
            subprocess.run(create, check=True)
            command: list[Any] = [find_tool("qemu-system-x86_64"), "-nodefaults", "-daemonize", "-pidfile", place / "pid", "-m", "64M",
                       "-display", "none", "-vga", "std", "-netdev", "user,id=n,restrict=on", "-device",
                       "virtio-net-pci,netdev=n,romfile=", "-qmp", f"unix:{place}/q,server=on,wait=off",
                       "-drive", f"file={place}/d,format=qcow2,if=virtio"]  # fmt: skip
            subprocess.run(command, check=True)
            return place

        with ThreadPoolExecutor(CLONES) as pool:
            began = time.perf_counter()
            places = list(pool.map(start, range(CLONES)))
            took = time.perf_counter() - began
        for place in places:
            os.kill(int((place / "pid").read_text()), 9)
            shutil.rmtree(place)
        return took


def _copier(name: str) -> int | None:
    """The process that copies the disk of that name; None if it is not there."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if "disk_copy" in (entry / "cmdline").read_text() and (entry / "cwd").resolve().name == name:
                    return int(entry.name)
            except OSError:
                continue
    return None


def _peak_kib(pid: int | None) -> int:
    """VmHWM of the process; 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):
        return 0


def timed(command: list[Any], output: Path) -> float:
    """Seconds of a command with its output made durable, and the output removed."""
    began = time.perf_counter()
    subprocess.run(command, check=True)
    fd = os.open(output, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    took = time.perf_counter() - began
    output.unlink()
    return took


def median(rounds: int, *what: Callable[[], float]) -> list[float]:
    """The median of each, in an order that turns with each round.

    Whoever came after the same neighbour each time would always find the disk as that one left it: two passes over 8 GiB
    by one and the same program differ by a third here. What is still being written is waited for in between.
    """
    found: dict[int, list[float]] = {number: [] for number in range(len(what))}
    for turn in range(rounds):
        for at in range(len(what)):
            number = (turn + at) % len(what)
            os.sync()
            found[number].append(what[number]())
    return [statistics.median(each) for each in found.values()]


def measure(bench: Bench, size_gib: float, rounds: int) -> dict[str, float]:
    """All figures."""
    small, large = (bench.snapshot(f"s{gib}", gib * GIB, 0) for gib in (SMALL_GIB, LARGE_GIB))
    small_s, large_s = median(10, lambda: bench.overlay_s(small), lambda: bench.overlay_s(large))
    clones_s, bare_s = median(rounds, lambda: bench.clones_s(small), lambda: bench.bare_s(small))
    size, data = int(size_gib * GIB), int(size_gib * GIB * 5 / 8)
    disk, peaks = bench.snapshot("big", size, data), [0.0]
    source, output = bench.store.path(disk.key), bench.folder / "out.raw"

    def ours() -> float:
        took, peak = bench.copy(disk)
        peaks.append(peak)
        return took

    convert = ["qemu-img", "convert", "-f", "raw", "-O", "raw", "-W", "-m", "16", *cache_modes(bench.folder)]
    ours_s, img_s, cp_s = median(
        rounds, ours, lambda: timed([*convert, source, output], output),
        lambda: timed(["cp", "--sparse=never", source, output], output),
    )  # fmt: skip
    return {
        "overlay_small_ms": small_s * 1000, "overlay_large_ms": large_s * 1000,
        "overlay_large_over_small": large_s / small_s,
        "clones_s": clones_s, "bare_qemu_s": bare_s, "clones_over_bare_qemu": clones_s / bare_s,
        "copy_data_mib": data / MIB, "copy_s": ours_s, "qemu_img_s": img_s, "cp_s": cp_s,
        "copy_mib_per_s": data / MIB / ours_s, "copy_rate_over_qemu_img": img_s / ours_s,
        "copy_rate_over_cp": cp_s / ours_s, "copy_peak_memory_mib": max(peaks),
    }  # fmt: skip


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-gib", type=float, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to work; default: the temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="disks-", dir=options.folder) as place:
        free, need = shutil.disk_usage(place).free, int(options.size_gib * GIB * 1.7)
        if free < need:
            sys.stderr.write(
                f"error: {free // MIB} MiB are free in {place} and {need // MIB} are needed; use --size-gib\n"
            )
            return 2
        figures = measure(Bench(Path(place)), options.size_gib, options.rounds)
    missed = [
        name for name, (way, bar) in BARS.items() if (figures[name] > bar if way == "most" else figures[name] < bar)
    ]
    rounded = {name: round(value, 3) for name, value in figures.items()}
    print(json.dumps({"size_gib": options.size_gib, "rounds": options.rounds, "figures": rounded,
                      "bars": BARS, "missed": missed, "cpus": os.cpu_count()}, indent=2))  # fmt: skip
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
