"""Auditors, projects and pages: one of many."""

import datetime as dt
import threading

import pytest
from audit_world import TWICE, cancelled, deletes, labels, lands_late, look, proven, succeeded, whys
from harness import PARENT, VM

from models.orphans import OrphanKey, OrphanStore
from targets.base import ResourceKind, ResourceRef
from tasks.audit import audit, audit_periodically
from tasks.errors import InvalidArgument
from tasks.orphans import Why


def test_one_worker_audits_at_a_time(world):
    assert audit_periodically(world.runtime, "a", 750, delete=False)
    assert audit_periodically(world.runtime, "b", 750, delete=False) is None
    assert audit_periodically(world.runtime, "a", 750, delete=False)
    assert world.reconcile() is not None  # a lease of its own
    world.clock.advance(751)
    assert audit_periodically(world.runtime, "b", 750, delete=False)


def test_two_auditors_at_once_delete_once_and_neither_fails(cloud):
    job, _, orphans = proven(cloud)
    start, found = threading.Barrier(2), []

    def run():
        start.wait(30)
        found.append(audit(cloud.runtime, proof=TWICE, delete=True))

    threads = [threading.Thread(target=run) for _ in range(2)]
    cloud.target.clear()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 2 and len(deletes(cloud)) == 1 and not cloud.kinds()
    look(cloud)
    assert not orphans.sightings("simulated")
    kinds = [each.kind for each in cloud.runtime.catalog.events(job.id)]
    assert kinds.count("orphan_gone") == 1 and 1 <= kinds.count("orphan_deleting")


def test_an_older_inventory_that_is_late_changes_nothing(world):
    orphans = OrphanStore(world.engine, clock=world.clock)
    key = OrphanKey("simulated", "disk", "d", "u")
    early = world.clock()
    late = early + dt.timedelta(seconds=5)
    orphans.record("simulated", late, {key: "j"})
    assert orphans.record("simulated", early, {key: "j"})[key].good_inventories == 1
    assert orphans.record("simulated", early, {})[key].good_inventories == 1
    assert not orphans.record("simulated", late, {})


def test_of_other_projects_only_the_number_is_told(cloud):
    job = cancelled(cloud)
    lands_late(cloud, job)
    cloud.target.foreign(ResourceKind.DISK, "nobodys", labels("unknown"))
    for _ in range(3):
        found = look(cloud, delete=True, project="other")
        assert whys(found) == [Why.JOB_UNKNOWN] and found.elsewhere == 1 and not found.deleted
    assert look(cloud, delete=True, project="p").deleted


def test_the_orphan_of_a_deleted_vms_job_is_found_and_deleted(cloud):
    job = cancelled(cloud)
    cloud.services.migrating_vms.delete(VM)
    assert cloud.job(job.id).name.startswith("deleted/")
    lands_late(cloud, job)
    look(cloud, delete=True, project="p")
    assert look(cloud, delete=True, project="p").deleted and not cloud.kinds()


def test_many_kept_clones_are_read_in_pages(light, monkeypatch):
    from tasks import audit as module

    monkeypatch.setattr(module, "_PAGE", 2)
    jobs = [succeeded(light, f"clone-{number}") for number in range(4)]
    light.target.remove_by_hand(ResourceRef(ResourceKind.INSTANCE, jobs[2].ledger[-1].name))
    found = look(light)
    assert [each.job_name for each in found.missing] == [jobs[2].name] and found.targets[0].things == 7


def test_the_service_refuses_a_target_that_is_not_configured(light):
    with pytest.raises(InvalidArgument, match="'cloud' is not configured; configured: simulated"):
        light.services.audits.audit(PARENT, target="cloud")
    assert light.services.audits.audit(PARENT, target="simulated").targets[0].good
