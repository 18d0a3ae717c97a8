"""The guards of the guarantee, and how each is removed. A patch must apply exactly once."""

from __future__ import annotations

from typing import NamedTuple


class Edit(NamedTuple):
    """``old`` stands exactly once in ``path`` and becomes ``new``."""

    path: str
    old: str
    new: str


class Mutant(NamedTuple):
    """One guard removed; ``tests`` are the fast ones that must notice, as arguments of pytest."""

    name: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]


_STEPS, _CLEANUP, _SETTLE, _LEASE = "tasks/steps.py", "tasks/cleanup.py", "tasks/settle.py", "tasks/lease.py"
_BASE, _VERDICT, _LEDGER, _CLAIM = (f"models/store/{name}.py" for name in ("base", "verdict", "ledger", "steps"))
_TABLES = "models/migrations/versions/0001_first_tables.py"
_ENDS, _EXECUTION, _LOST = (f"tests/unit/tasks/test_{name}.py" for name in ("ends", "execution", "lost_workers"))
_BOOT = "tests/unit/tasks/test_boot.py"
_SINGLE, _DATABASE = "tests/guarantee/test_single_guards.py", "tests/unit/models/test_guards.py"


def _one(name: str, path: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant(name, (Edit(path, old, new),), tests)


MUTANTS = (
    # Who may write
    Mutant(
        "verdict is set although there is one",
        (
            Edit(_VERDICT, "if job.verdict is not None or epoch not in", "if epoch not in"),
            Edit(_VERDICT, "                CloneJob.verdict.is_(None),\n", ""),
        ),
        (_EXECUTION, "-k", "whatever_arrives_late or cancel_between"),
    ),
    _one("epoch is not checked", _BASE, "                CloneJob.epoch == lease.epoch,\n", "", _ENDS, "-k", "success_wins"),
    _one("lease's owner is not checked", _BASE, "                CloneJob.lease_owner == lease.owner,\n", "", _SINGLE, "-k", "same_epoch"),
    _one("settling leaves the epoch", _VERDICT, "epoch=job.epoch + 1,", "epoch=job.epoch,", _ENDS, _LOST, "-k", "success_wins or gives_its_lease_back"),
    _one("stale writes are not counted", _BASE, "            self._count_stale(lease)\n", "", _LOST, "-k", "zombie_cannot_write"),
    Mutant(
        "a step is claimed although somebody works",
        (
            Edit(_CLAIM, "if job.lease_owner is not None or (job.next_check_at", "if (job.next_check_at"),
            Edit(_CLAIM, "                CloneJob.lease_owner.is_(None),\n", ""),
        ),
        (_SINGLE, "-k", "somebody_works"),
    ),
    _one("a step is claimed before its time", _CLAIM, "job.next_check_at > now", "False", _EXECUTION, "-k", "slow_target"),
    _one("a worker does not renew its lease", _LEASE, "            try:\n                self._renew()\n", "            try:\n                pass\n", _SINGLE, "-k", "renewed"),
    _one("a worker that was frozen does not ask", _LEASE, "        if self._checked_at - self._renewed_at > self._interval_s:\n            self._renew()\n", "", _SINGLE, "-k", "wakes_up"),
    # Intent before action
    _one("the intent is committed after the create", _STEPS,
         "        store.mark_intended(lease, row.position)\n        work.held.check()\n        seen = work.calls.create(work.job, row)\n",
         "        seen = work.calls.create(work.job, row)\n        store.mark_intended(lease, row.position)\n        work.held.check()\n",
         _ENDS, "-k", "lost_reply"),
    _one("what is there is not looked for before a create", _STEPS,
         "    work.held.check()\n    seen = work.calls.find(row)\n    if seen is not None and (seen.job_id",
         "    seen = None\n    if seen is not None and (seen.job_id", _SINGLE, "-k", "adopted"),
    _one("what another made is adopted", _STEPS, "(seen.job_id != work.job.id or row.uid not in (None, seen.uid))",
         "row.uid not in (None, seen.uid)", _ENDS, "-k", "somebody_else"),
    _one("what a user made anew is adopted", _STEPS, " or row.uid not in (None, seen.uid))", ")", _SINGLE, "-k", "made_anew"),
    _one("attempts of a lost worker have no cap", _SETTLE, "if taken.attempts >= runtime.pacing.step_attempts:", "if False:", _LOST, "-k", "kills_its_worker"),
    _one("attempts of a failing step have no cap", _STEPS, "if job.attempts >= runtime.pacing.step_attempts:", "if False:", _EXECUTION, "-k", "does_not_pass"),
    _one("the chain is sent before the row is there", "tasks/services/clone_jobs.py",
         "            row = self._store.create_job(", "            dispatch_steps(self._runtime, job)\n            row = self._store.create_job(",
         _SINGLE, "-k", "published"),
    # Success
    _one("success does not look at the ledger", _CLAIM, "if row.state is not wanted:", "if False:", _ENDS, "-k", "success_needs"),
    _one("success does not keep", _CLAIM, "                    row.state = LedgerState.KEPT\n", "                    pass\n", _EXECUTION, "-k", "is_kept"),
    _one("success does not look once more", _STEPS, "if not ours or seen is None or", "if seen is not None and", _ENDS, "-k", "deleted_meanwhile"),
    _one("scaffolds go without a tombstone", _CLEANUP,
         "    held.check()\n    calls.bury(job.id)\n    for row", "    held.check()\n    for row", _ENDS, "-k", "scaffold_that"),
    # Clean-up
    _one("clean-up goes without a tombstone", _CLEANUP, "        held.check()\n        calls.bury(job.id)\n    except", "        held.check()\n    except", _ENDS, "-k", "lands_after"),
    _one("clean-up takes what is not ours", _CLEANUP, "if not _is_ours(job, row, seen):", "if False:", _ENDS, "-k", "left_alone"),
    _one("clean-up does not look at the uid", _CLEANUP, "return seen.job_id == job.id and row.uid in (None, seen.uid)",
         "return seen.job_id == job.id", _ENDS, "-k", "made_anew"),
    _one("clean-up does not wait until it is gone", _CLEANUP, "            asked_for = seen.uid\n",
         "            runtime.store.mark_absent(held.lease, row.position)\n            return\n", _ENDS, "-k", "slow_deletes"),
    _one("clean-up goes forwards", _CLEANUP, "    for row in reversed(job.ledger):\n        if row.state is", "    for row in job.ledger:\n        if row.state is",
         _EXECUTION, "-k", "refused_create"),
    _one("clean-up ends whatever is left", _LEDGER, "            if left:\n", "            if False:\n", _SINGLE, "-k", "not_seen_absent"),
    _one("clean-up begins without a verdict", _LEDGER, "job.verdict in (None, Verdict.SUCCEED)", "job.verdict is Verdict.SUCCEED", _SINGLE, "-k", "without_a_verdict"),
    _one("clean-up does not wait for a lease", _LEDGER, "if job.lease_owner is not None and job.lease_expires_at is not None:", "if False:", _LOST, "-k", "nobody_gives_back"),
    _one("clean-up does not wait for a provider call", _LEDGER, "limit_s = 0.0 if job.cleanup_start_time else self.timing.provider_call_limit_s",
         "limit_s = 0.0", _LOST, "-k", "nobody_gives_back"),
    _one("clean-up does not wait for the fence", _LEDGER, "free_at = job.fence_until or job.create_time", "free_at = job.create_time", _LOST, "-k", "absence_seen"),
    _one("a product is marked for deletion before a verdict", _LEDGER, "if job.verdict is None and state is LedgerState.DELETING:", "if False:", _SINGLE, "-k", "not_marked"),
    _one("the simulated target does not look at the uid", "targets/simulated.py", "if entry.uid != uid or entry.labels", "if entry.labels",
         "tests/unit/targets/test_simulated.py", "tests/contract/test_target.py", "-k", "(delete or uid or anew) and not qemu"),
    # The database
    _one("SQLite has no barrier", _TABLES, "enumerate(rules):\n                op.execute(", "enumerate(()):\n                op.execute(", _DATABASE, "-k", "sqlite"),
    _one("PostgreSQL has no barrier", _TABLES, "BEGIN{checks} RETURN NEW;", "BEGIN RETURN NEW;", _DATABASE, "-k", "postgresql"),
    _one("two jobs of one VM may run", _TABLES, '        ["parent"],\n        unique=True,\n', '        ["parent"],\n        unique=False,\n', _DATABASE, "-k", "one_running"),
    # The boot
    _one("a clone that has to boot passes without", "tasks/boot.py", "    if policy.required and last.verdict is not BootVerdict.BOOTED:\n", "    if False:\n", _BOOT, "-k", "does_not_boot and sqlite"),
    _one("a worker that lost the job writes over the evidence", "tasks/evidence.py", "if _epoch(folder) > epoch:", "if False:", _BOOT, "-k", "write_over"),
    _one("a file that was changed is served as evidence", "tasks/evidence.py", "if hashlib.sha256(content).hexdigest() == sha256 else None", "", "tests/api/test_evidence.py", "-k", "says_why"),
    # Requests, reports and time
    _one("a request id is not looked up", "models/operations.py", "    if not new.request_id:\n        return None\n", "    return None\n", "tests/unit/tasks/test_services.py"),
    _one("a late report takes the lease of the step at work", _VERDICT, "job.current_step != position", "False", _SINGLE, "-k", "late_report"),
    _one("a message that fails is sent for ever", _SETTLE, "job.dispatches == 0 and ", "", _SINGLE, "-k", "multiply"),
    _one("times follow a clock that is set back", _BASE, "        return max([now, *(time for time in recorded if time is not None)])", "        return now", "tests/unit/tasks/test_clock.py"),
)  # fmt: skip
