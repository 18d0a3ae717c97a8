"""Which snapshots go, which stay and why; both databases."""

import datetime as dt
import os

import pytest
from harness import VM

from api import translate
from models.store import CyclePruned
from tasks.errors import Aborted, InvalidArgument
from tasks.services import Request

NONE = Request()


def said(world, **options):
    return {report.cycle.rpartition("/")[2]: report.kept for report in world.services.snapshots.prune(**options)}


def files(world):
    return sorted(path.parent.name for path in world.snapshots.root.rglob("*.raw"))


def keys(world, cycle):
    return [world.snapshots.path(each.store_key) for each in world.runtime.catalog.last_cycle(VM).snapshots]


def test_older_cycles_go_and_the_latest_stays(world):
    for content in (b"2", b"3"):
        world.upload(VM, content=content)
    world.services.cycles.begin(VM)
    before = files(world)
    shown = said(world, dry_run=True)
    assert shown == {"cycle-1": "", "cycle-2": "", "cycle-3": "it is the VM's latest successful cycle"}
    assert files(world) == before
    assert said(world, keep=2)["cycle-2"] == "it is one of the VM's 2 latest that succeeded"
    assert len(files(world)) == 2
    assert said(world) == {"cycle-2": "", "cycle-3": "it is the VM's latest successful cycle"}
    assert said(world) == {"cycle-3": "it is the VM's latest successful cycle"}
    assert len(files(world)) == 1
    with pytest.raises(InvalidArgument, match="at least 1"):
        said(world, keep=0)


def test_a_pruned_cycle_warns_in_the_words_of_the_contract(world):
    world.upload(VM, content=b"2")
    said(world)
    rows = world.services.cycles.list(VM).items
    newest, pruned = [translate.replication_cycle(row) for row in rows]
    assert not newest.warnings
    [warning] = pruned.warnings
    assert "pruned" in warning.warning_message.message and warning.action_item.message
    assert warning.warning_time.ToDatetime(dt.UTC) == world.clock()


def test_what_a_running_job_has_pinned_or_a_clone_uses_stays(world, tmp_path):
    _, job = world.services.clone_jobs.create(VM, "c1", NONE)
    [snapshot] = keys(world, "cycle-1")
    world.upload(VM)
    assert said(world)["cycle-1"] == f"the running clone job {job.name} has pinned it"
    world.run_to_end(job.id)
    os.link(snapshot, tmp_path / "base.raw")
    assert said(world)["cycle-1"] == "1 clone needs it"
    (tmp_path / "base.raw").unlink()
    report = world.services.snapshots.prune()[0]
    assert (report.kept, report.freed_bytes > 0, snapshot.exists()) == ("", True, False)


def test_a_job_that_was_planned_before_the_pruning_is_not_accepted(world, monkeypatch):
    jobs = world.services.clone_jobs
    planned = jobs._plan(VM, f"{VM}/cloneJobs/c1")
    world.upload(VM)
    assert said(world)["cycle-1"] == ""
    monkeypatch.setattr(jobs, "_plan", lambda *_: planned)
    with pytest.raises(Aborted, match="try again") as refused:
        jobs.create(VM, "c1", NONE)
    assert refused.value.reason == "CYCLE_PRUNED"
    assert isinstance(refused.value.__context__, CyclePruned)
    monkeypatch.undo()
    assert jobs.create(VM, "c1", NONE)[1].cycle.endswith("cycle-2")


def test_a_job_that_is_accepted_while_it_is_pruned_keeps_its_cycle(world, monkeypatch):
    """The look says that it may go; then a job pins it; then the decision is made, under the lock."""
    jobs = world.services.clone_jobs
    planned = jobs._plan(VM, f"{VM}/cloneJobs/c1")
    world.upload(VM)
    monkeypatch.setattr(jobs, "_plan", lambda *_: planned)
    mark = world.runtime.catalog.mark_pruned

    def create_first(name, keep):
        jobs.create(VM, "c1", NONE)
        return mark(name, keep)

    monkeypatch.setattr(world.runtime.catalog, "mark_pruned", create_first)
    assert "has pinned it" in said(world)["cycle-1"]
    assert len(files(world)) == 2


def test_snapshots_of_a_deleted_vm_go_once_no_clone_needs_them(world, tmp_path):
    _, job = world.services.clone_jobs.create(VM, "c1", NONE)
    world.run_to_end(job.id)
    os.link(keys(world, "cycle-1")[0], tmp_path / "base.raw")
    world.services.migrating_vms.delete(VM)
    assert said(world) == {"cycle-1": "1 clone needs it"}
    (tmp_path / "base.raw").unlink()
    assert said(world) == {"cycle-1": ""}
    assert files(world) == [] and said(world) == {}
