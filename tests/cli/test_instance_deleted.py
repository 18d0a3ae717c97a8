"""What its user deleted with ``clonejob instance delete`` is told as that by an audit, and not as missing."""

from __future__ import annotations

import sqlalchemy as sa
from instance_lab import instance_of

from models.io_points import install_hook
from models.states import LedgerState
from tasks.audit import audit
from worker.cli.audit import text

VM = "projects/clonejob/locations/global/sources/default/migratingVms/web-1"


def test_an_audit_tells_when_its_user_deleted_it(clonejob, lab):
    job, other = lab.clone("web-1"), lab.clone("web-2")
    assert clonejob("instance", "delete", instance_of(job), "--yes").code == 0
    kept = lab.runtime.store.get_job(job.id)
    assert {row.state for row in kept.ledger if row.role == "product"} == {LedgerState.KEPT}
    times = {row.name: row.absent_time for row in kept.ledger if row.state is LedgerState.KEPT}
    assert len(times) == 2 and None not in times.values()
    found = audit(lab.runtime)
    assert {each.name: each.deleted_time for each in found.missing} == times
    events = [event.message for event in lab.runtime.catalog.events(job.id) if event.kind == "deleted_by_user"]
    assert events[0] == f"instance {instance_of(job)}, with clonejob instance delete" and len(events) == 2
    assert {row.absent_time for row in lab.runtime.store.get_job(other.id).ledger if row.role == "product"} == {None}


def test_what_was_deleted_by_other_means_stays_missing(clonejob, lab):
    job = lab.clone("web-1")
    seen = next(each for each in lab.targets["simulated"].inventory() if each.ref.kind == "instance")
    lab.targets["simulated"].delete(seen.ref, job_id=job.id, uid=seen.uid)
    (missing,) = audit(lab.runtime).missing
    assert (missing.name, missing.deleted_time) == (seen.ref.name, None)


def test_a_delete_that_cannot_be_noted_says_so(clonejob, lab, monkeypatch):
    job = lab.clone("web-1")

    def broken(name, phase):
        if name == "store.note_deleted_by_user":
            raise sa.exc.OperationalError("UPDATE", {}, Exception("disk I/O error"))

    install_hook(broken)
    try:
        result = clonejob("instance", "delete", instance_of(job), "--yes")
    finally:
        install_hook(None)
    assert result.code == 1
    assert result.err.startswith("error: they are deleted, and this was not noted: the database")
    assert lab.names() == []


def test_the_report_says_when():
    row = {"kind": "disk", "name": "d0", "target": "local", "jobName": f"{VM}/cloneJobs/c1", "state": "KEPT"}
    kept, gone = row | {"deletedTime": None}, row | {"name": "d1", "deletedTime": "2026-01-01T00:00:00Z"}
    found = {name: [] for name in ("targets", "deleted", "orphans", "cleanups", "strangers")}
    lines = text(found | {"missing": [kept, gone], "elsewhere": 0}).splitlines()
    at = lines.index("MISSING, perhaps deleted by their owners (1)")
    assert lines[at + 1].strip() == "disk d0 on local, of job web-1/c1"
    at = lines.index("DELETED BY THEIR OWNERS with clonejob instance delete (1)")
    assert lines[at + 1].strip().startswith("disk d1 on local, of job web-1/c1, at 2026-01-01")
