"""The policy of a QEMU target: what becomes of guests that cannot be adapted, and where the report goes."""

from __future__ import annotations

import pytest

from targets.adaptation import Policy
from targets.base import AdaptedImageSpec, Owner, ResourceKind, ResourceRef, Snapshot, Status
from targets.errors import AdaptationError, UnsupportedError
from targets.guest import build_disk
from targets.qemu import QemuTarget
from targets.qemu_options import QemuOptions
from targets.snapshot_store import FileSnapshotStore

DISK_BYTES = 8 * 2**20
REF = ResourceRef(ResourceKind.ADAPTED_IMAGE, "c-1-adapted")


class Place:
    def __init__(self, folder):
        self.folder = folder
        self.snapshots = FileSnapshotStore(folder / "snapshots")

    def target(self, policy=Policy.REQUIRED) -> QemuTarget:
        return QemuTarget(self.folder / "target", self.snapshots, call_timeout_s=60, os_adaptation=policy)

    def spec(self, content: bytes, **modifiers) -> AdaptedImageSpec:
        key = f"k/disk{len(modifiers)}{''.join(modifiers.values())}.raw"
        with self.snapshots.writer(key) as writer:
            writer.write(content)
        snapshot = Snapshot(key, "raw", len(content), writer.sha256)
        return AdaptedImageSpec(REF, Owner("job-1", 1), snapshot, "web-1", modifiers=modifiers)


@pytest.fixture
def place(tools, tmp_path):
    made = Place(tmp_path)
    yield made
    target = made.target()
    for seen in target.inventory():
        target.delete(seen.ref, job_id=seen.job_id, uid=seen.uid)
    assert target.inventory() == []
    assert not (tmp_path / "target/adaptations").exists() or not list((tmp_path / "target/adaptations").iterdir())


@pytest.fixture
def windows(tmp_path):
    """A disk that nothing here can adapt."""
    return b"\xeb\x52\x90NTFS    ".ljust(510, b"\0") + b"\x55\xaa" + bytes(DISK_BYTES - 512)


def test_required_refuses_and_says_what_was_found(place, windows):
    target, spec = place.target(), place.spec(windows)
    with pytest.raises(AdaptationError, match=r"NTFS \(Windows\).*only ext2, ext3 and ext4.*skip_os_adaptation"):
        target.create(spec)
    assert target.find(spec.ref) is None


def test_best_effort_goes_on_and_reports(place, windows):
    target, spec = place.target(Policy.BEST_EFFORT), place.spec(windows)
    made = target.create(spec)
    assert made.status is Status.READY
    assert [(a["id"], a["outcome"]) for a in made.report["actions"]] == [("inspect", "unsupported")]
    assert "NTFS" in made.report["found"]
    assert place.target(Policy.REQUIRED).create(spec) == made  # made already: returned as it is
    assert place.target().find(REF) == made


def test_skip_does_not_look(place, windows):
    made = place.target(Policy.SKIP).create(place.spec(windows))
    assert made.report == {"policy": "skip", "method": "none", "os": "", "found": "", "actions": []}


def test_a_guest_of_ours_has_a_report_too(place, tmp_path):
    spec = place.spec(build_disk(tmp_path / "own.img").read_bytes())
    report = place.target().create(spec).report
    assert report["method"] == "config-sector" and report["actions"][0]["reason"] == "no name became web-1"


def test_modifiers_are_checked_before_anything_is_made(place, windows):
    target = place.target()
    with pytest.raises(UnsupportedError, match=r"'no-such' is not known here; there are hostname, machine-id, "):
        target.check([place.spec(windows, **{"no-such": "off"})])
    with pytest.raises(UnsupportedError, match="set it to 'on' or 'off'"):
        target.check([place.spec(windows, hostname="maybe")])
    target.check([place.spec(windows, hostname="off", **{"virtio-drivers": "on"})])


def test_deleting_removes_what_a_killed_adaptation_left(place, windows, tmp_path):
    target, spec = place.target(Policy.SKIP), place.spec(windows)
    made = target.create(spec)
    left = tmp_path / "target" / "adaptations" / REF.name
    left.mkdir(parents=True)
    (left / "content").write_bytes(b"a file of the guest")
    target.delete(REF, job_id="job-1", uid=made.uid)
    assert not left.exists()


def test_the_option_of_the_target():
    assert QemuOptions().os_adaptation is Policy.REQUIRED
    assert QemuOptions(os_adaptation="best_effort").os_adaptation is Policy.BEST_EFFORT
    with pytest.raises(ValueError, match="required"):
        QemuOptions(os_adaptation="sometimes")


def test_a_program_that_is_missing_is_named(place, windows, monkeypatch):
    from targets.adaptation import programs

    monkeypatch.setattr(programs, "NEEDED", ("no-such-program",))
    with pytest.raises(AdaptationError, match="no-such-program not installed on this machine; as root, run: apt-get"):
        place.target().create(place.spec(windows))
