"""Our targets under test, and the check that no test leaves anything behind.

The conformance kit (targets/conformance) runs against each of ``STAGES``: to test another target, add it there.
"""

from __future__ import annotations

import abc
import contextlib
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil
import pytest
from conftest import missing
from contract import cloud_stages
from contract.stages import (
    ADAPTS,
    ANY_MACHINE,
    BOOT_IMAGES_ONLY,
    DISKS_ONLY,
    NEVER_HALF_MADE,
    NEVER_SLOW,
    NEVER_THROTTLED,
    NO_CONTENT,
    NO_TOMBSTONES,
    UNIQUE_NAMES,
    Conformance,
    qemu_stage,
    simulated_stage,
)

from targets import qemu_vm
from targets.base import (
    AdaptedImageSpec,
    BootVerdict,
    DiskSpec,
    InstanceSpec,
    Owner,
    ResourceKind,
    ResourceRef,
    ResourceSpec,
    Snapshot,
    Target,
)
from targets.conformance import Stage
from targets.errors import TransientError, UnsupportedError
from targets.guest import build_disk
from targets.local_files import write_json
from targets.qemu import QemuTarget
from targets.qemu_firmware import firmware_of
from targets.simulated import SimulatedTarget
from targets.snapshot_store import FileSnapshotStore

DISK_BYTES = 1024 * 1024
KEY = "cycle-1/disk0.raw"


class Kit(abc.ABC):
    """One target under test: ways to reach it as other processes and as a user would."""

    def __init__(self, folder: Path, root: str = "target") -> None:
        self.folder = folder
        self.root = folder / root
        self.snapshots = FileSnapshotStore(folder / "snapshots")
        build_disk(folder / "guest.raw", data="cycle=1", size_bytes=DISK_BYTES)
        content = (folder / "guest.raw").read_bytes()
        with self.snapshots.writer(KEY) as writer:
            writer.write(content)
        self.snapshot = Snapshot(KEY, "raw", DISK_BYTES, writer.sha256)
        self.target = self.connect()

    @abc.abstractmethod
    def connect(self) -> Target:
        """The target as another worker sees it."""

    @abc.abstractmethod
    def make_foreign(self, ref: ResourceRef) -> None:
        """Make what stands under the name as a user would."""

    @abc.abstractmethod
    def leave_half_made(self, spec: ResourceSpec) -> None:
        """Leave what a creator leaves that is killed at the worst moment."""

    @abc.abstractmethod
    def power_off(self, ref: ResourceRef) -> None:
        """Stop an instance as a user would, or a crash."""

    def close(self) -> None:
        """Remove everything, and check that nothing is left."""
        for seen in self.target.inventory():
            assert seen.job_id is not None
            self.target.delete(seen.ref, job_id=seen.job_id, uid=seen.uid)
        assert self.target.inventory() == []
        assert list((self.root / "locks").iterdir()) == []
        left = [path.name for path in self.folder.rglob("*") if path.name.endswith((".tmp", ".part"))]
        assert left == []

    # Specs

    def image(self, name: str = "c-image", job_id: str = "job-1") -> AdaptedImageSpec:
        ref = ResourceRef(ResourceKind.ADAPTED_IMAGE, name)
        return AdaptedImageSpec(ref, Owner(job_id, 1), self.snapshot, hostname="web-1")

    def disk(self, name: str = "c-disk0", job_id: str = "job-1", adapted_image: str | None = None) -> DiskSpec:
        ref = ResourceRef(ResourceKind.DISK, name)
        return DiskSpec(ref, Owner(job_id, 1), 0, self.snapshot, adapted_image, {"team": "blue"})

    def instance(
        self, name: str = "c-vm", job_id: str = "job-1", disks: tuple[str, ...] = ("c-disk0",), machine_type: str = ""
    ) -> InstanceSpec:
        ref = ResourceRef(ResourceKind.INSTANCE, name)
        return InstanceSpec(ref, Owner(job_id, 1), disks, "web-1", machine_type, {"team": "blue"})

    def spec(self, kind: ResourceKind, name: str, job_id: str = "job-1") -> ResourceSpec:
        """A spec that needs nothing else to exist."""
        if kind is ResourceKind.ADAPTED_IMAGE:
            return self.image(name, job_id)
        return self.disk(name, job_id) if kind is ResourceKind.DISK else self.instance(name, job_id, disks=())

    def delete_until_gone(self, ref: ResourceRef, job_id: str = "job-1") -> None:
        """What clean-up does."""
        deadline = time.monotonic() + 10
        while (seen := self.target.find(ref)) is not None:
            assert time.monotonic() < deadline, seen
            self.target.delete(ref, job_id=job_id, uid=seen.uid)

    def wait_booted(self, ref: ResourceRef) -> str:
        """The console once the guest has booted."""
        deadline = time.monotonic() + 15
        while (report := self.target.boot_report(ref)).verdict is not BootVerdict.BOOTED:
            assert time.monotonic() < deadline, report
            time.sleep(0.02)  # a guest's clock cannot be moved from here
        return report.console

    def snapshot_sha256(self) -> str:
        return hashlib.sha256(self.snapshots.path(KEY).read_bytes()).hexdigest()


class SimulatedKit(Kit):
    target: SimulatedTarget

    boots_from_image = False

    def connect(self) -> SimulatedTarget:
        return SimulatedTarget(self.root, call_timeout_s=5, boots_from_image=self.boots_from_image)

    def make_foreign(self, ref: ResourceRef) -> None:
        self.target.foreign(ref.kind, ref.name, {"made-by": "a user"})

    def leave_half_made(self, spec: ResourceSpec) -> None:
        self.target.add_fault(op="create", fault="half_made", kind=spec.ref.kind, name=spec.ref.name)
        with pytest.raises(TransientError):
            self.target.create(spec)

    def power_off(self, ref: ResourceRef) -> None:
        self.target.power_off(ref)


class BootsFromImageKit(SimulatedKit):
    boots_from_image = True


class QemuKit(Kit):
    target: QemuTarget

    def connect(self) -> QemuTarget:
        return QemuTarget(self.root, self.snapshots, call_timeout_s=20)

    def path(self, ref: ResourceRef) -> Path:
        folders = {ResourceKind.ADAPTED_IMAGE: "images", ResourceKind.DISK: "disks", ResourceKind.INSTANCE: "instances"}
        return self.root / folders[ref.kind] / ref.name

    def make_foreign(self, ref: ResourceRef) -> None:
        self.path(ref).mkdir()
        write_json(self.path(ref) / "notes.json", {"made-by": "a user"}, durable=False)

    def remove_foreign(self, ref: ResourceRef) -> None:
        shutil.rmtree(self.path(ref))

    def leave_half_made(self, spec: ResourceSpec) -> None:
        self.target._folders.claim(spec.ref, spec.owner.labels(), {})
        (self.path(spec.ref) / "disk.qcow2.tmp").write_bytes(b"half")

    def power_off(self, ref: ResourceRef) -> None:
        qemu_vm.stop(self.processes(), self.path(ref), timeout_s=5)

    def processes(self) -> list[qemu_vm.VmProcess]:
        return qemu_vm.running(self.target._root_id)

    def close(self) -> None:
        try:
            super().close()
            assert self.processes() == []
            assert _qemu_commands_with(str(self.root)) == []
        finally:
            qemu_vm.stop(self.processes(), self.root, timeout_s=5)


def _qemu_commands_with(text: str) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
            except OSError:
                continue
            if command.split(" ")[0].rsplit("/", 1)[-1].startswith("qemu") and text in command:
                found.append(command)
    return found


def require_qemu() -> None:
    """Skip without QEMU on a laptop, fail in CI."""
    gone = [tool for tool in ("qemu-system-x86_64", "qemu-img", "qemu-io", "prlimit") if not shutil.which(tool)]
    if gone:
        missing(f"{', '.join(gone)} not installed")


def uefi(*, secure: bool) -> dict[str, object]:
    """Target details of a machine with UEFI. Skips without the firmware on a laptop, fails in CI."""
    details: dict[str, object] = {"bootOption": "COMPUTE_ENGINE_BOOT_OPTION_EFI", "secureBoot": secure}
    try:
        firmware_of(details)
    except UnsupportedError as error:
        missing(str(error))
    return details


def _on(kit: type[Kit], stage: Callable[[Kit], Stage]) -> Callable[[Path], contextlib.AbstractContextManager[Stage]]:
    @contextlib.contextmanager
    def opened(folder: Path) -> Iterator[Stage]:
        if kit is QemuKit:
            require_qemu()
        made = kit(folder)
        yield stage(made)
        made.close()

    return opened


# One entry per target, with the checks that do not apply to it (sets of them: stages.py). For one with a server or a stand-in: a context of its own in stages.py that starts it, yields a
# Stage with what the stand-in can script as Hands, and ends it; then one entry here.
STAGES: Mapping[str, Conformance] = {
    "simulated": Conformance(
        _on(SimulatedKit, simulated_stage), NO_CONTENT | ADAPTS | DISKS_ONLY | ANY_MACHINE | UNIQUE_NAMES
    ),
    "simulated-boots-from-image": Conformance(
        _on(BootsFromImageKit, simulated_stage), NO_CONTENT | ADAPTS | BOOT_IMAGES_ONLY | ANY_MACHINE | UNIQUE_NAMES
    ),
    "compute_engine": Conformance(
        cloud_stages.compute_engine, NO_TOMBSTONES | NEVER_HALF_MADE | ADAPTS | DISKS_ONLY | ANY_MACHINE | UNIQUE_NAMES
    ),
    "ec2": Conformance(cloud_stages.ec2, NO_TOMBSTONES | BOOT_IMAGES_ONLY),
    "qemu": Conformance(_on(QemuKit, qemu_stage), ADAPTS | DISKS_ONLY | NEVER_SLOW | NEVER_THROTTLED | UNIQUE_NAMES),
}


# A call to a cloud's client takes ten times what a call to the others takes. ``make conformance`` runs all checks.
IN_SHORT = frozenset(
    {
        "a_create_whose_reply_was_lost_is_adopted",
        "a_delete_whose_reply_was_lost_can_be_repeated",
        "an_old_uid_does_not_delete_the_new_resource",
        "another_jobs_resource_is_not_taken_over",
        "create_makes_what_was_asked_for",
        "creates_at_once_make_one",
        "delete_until_it_is_gone",
        "delete_with_another_uid_is_refused",
        "nothing_is_made_for_a_buried_job",
        "of_two_jobs_under_one_name_each_finds_its_own",
        "the_inventory_shows_every_kind",
        "the_users_labels_do_not_replace_ours",
        "throttling_is_over_when_it_is_over",
        "what_a_user_made_is_not_deleted",
        "what_is_being_deleted_is_shown",
        "what_is_being_made_is_created_only_once",
    }
)
_CLOUDS = ("compute_engine", "ec2")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the clouds' longer checks to ``make conformance``."""
    if os.environ.get("CLONEJOB_CONFORMANCE") == "all":
        return

    def is_long(item: pytest.Item) -> bool:
        given = getattr(item, "callspec", None)
        check = given.params.get("check") if given else None
        return check is not None and given.params.get("conformance") in _CLOUDS and check.name not in IN_SHORT

    later = [item for item in items if is_long(item)]
    if later:
        config.hook.pytest_deselected(items=later)
        items[:] = [item for item in items if not is_long(item)]


@pytest.fixture(scope="module", params=list(STAGES))
def conformance(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple]:
    """A stage that is set up once for all checks, and the checks that do not apply to it."""
    entry = STAGES[request.param]
    with entry.stage(tmp_path_factory.mktemp(request.param)) as stage:
        yield stage, entry.not_applicable


KITS: Mapping[str, Callable[[Path], Kit]] = {"simulated": SimulatedKit, "qemu": QemuKit}


@pytest.fixture(params=list(KITS))
def kit(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kit]:
    if request.param == "qemu":
        require_qemu()
    made = KITS[request.param](tmp_path)
    yield made
    made.close()


@pytest.fixture
def qemu(tmp_path: Path) -> Iterator[QemuKit]:
    require_qemu()
    made = QemuKit(tmp_path)
    yield made
    made.close()


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[QemuKit]:
    """The data folder of a demo, with one running virtual machine."""
    require_qemu()
    made = QemuKit(tmp_path, root="targets/local")
    made.target.create(made.disk())
    made.target.create(made.instance())
    yield made
    made.close()


@pytest.fixture(autouse=True)
def no_trace(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[None]:
    """No process with the test's folder on its command line, no child, no socket outlives the test."""
    before = set(_children())
    yield
    assert _qemu_commands_with(str(tmp_path)) == []
    assert set(_children()) - before == set()
    assert [path for path in tmp_path.rglob("*") if stat.S_ISSOCK(path.lstat().st_mode)] == []


def _children() -> list[int]:
    return [child.pid for child in psutil.Process().children(recursive=True)]
