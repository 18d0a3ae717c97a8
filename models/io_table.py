"""The numbers of the I/O points. Append only: a number keeps its name and its meaning for ever.

A new point is one line at the end of ``POINTS`` and ``make docs-generated``, which writes ``docs/io_points.md`` and
refuses to give a number that stands there to another name. A point that the code has no more stays, with ``gone``.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import NamedTuple


class Point(NamedTuple):
    """``part``: the part of a job's life in which the call is made; ``fails``: what becomes of the job if it fails."""

    number: int
    name: str
    part: str
    fails: str
    gone: bool = False


_CLIENT = "the client gets UNAVAILABLE and repeats with the same request_id; no row, no job"
_READ = "the client gets UNAVAILABLE and repeats"
_STEP = "the lease runs out and the reconciler repeats the step, which finds what is there"
_CLEAN = "the lease runs out and the reconciler sends the clean-up again; the state stays until absence is seen"
_TICK = "the next tick of the reconciler does it"
_LOST = "the row's alarm goes off and the reconciler sends it again"
_RETRY = "the step is tried again after a pause; too many attempts fail the job"
_PAUSE = "clean-up looks again after a growing pause, for ever, and says why"
_ROUND = "the next round of the auditor looks again; nothing is deleted without complete proof"
_USER = "not in a job's path; the caller gets an error"

POINTS = (
    Point(1, "catalog.replayed", "create", _CLIENT),
    Point(2, "catalog.get", "create", _CLIENT),
    Point(3, "catalog.last_cycle", "create", _CLIENT),
    Point(4, "target.check.job", "create", "the client gets UNAVAILABLE and repeats; nothing was made"),
    Point(5, "store.create_job", "create", "R7: what was committed is found again by its request_id"),
    Point(6, "broker.publish.chain", "publish", _LOST),
    Point(7, "broker.publish.next", "publish", _LOST),
    Point(8, "broker.publish.retry", "publish", _LOST),
    Point(9, "broker.publish.cleanup", "publish", _LOST),
    Point(10, "broker.publish.settle", "signals", "the lease runs out instead"),
    Point(11, "broker.publish.errback", "signals", "the lease runs out instead"),
    Point(12, "broker.publish.reconcile", "reconcile", _TICK),
    Point(13, "store.claim_step", "steps", "nobody works: " + _LOST),
    Point(14, "store.get_job", "steps", _STEP),
    Point(15, "store.renew", "lease", "tried again until the lease has run out; then the step is repeated"),
    Point(16, "store.mark_intended", "steps", _STEP),
    Point(17, "target.find.adapted_image", "steps", _RETRY),
    Point(18, "target.find.disk", "steps", _RETRY),
    Point(19, "target.find.instance", "steps", _RETRY),
    Point(20, "target.create.adapted_image", "steps", _RETRY),
    Point(21, "target.create.disk", "steps", _RETRY),
    Point(22, "target.create.instance", "steps", _RETRY),
    Point(23, "store.mark_created", "steps", _STEP),
    Point(24, "store.note_progress", "steps", _STEP),
    Point(25, "target.boot_report.instance", "steps", _RETRY),
    Point(26, "store.pause_step", "steps", _STEP),
    Point(27, "store.complete_step", "steps", _STEP),
    Point(28, "target.bury.job", "finish", "finish is tried again; clean-up looks again after a growing pause"),
    Point(29, "store.mark_deleting", "finish", _CLEAN),
    Point(30, "target.delete.adapted_image", "finish", _PAUSE),
    Point(31, "target.delete.disk", "clean-up", _PAUSE),
    Point(32, "target.delete.instance", "clean-up", _PAUSE),
    Point(33, "store.mark_absent", "finish", _CLEAN),
    Point(34, "store.succeed", "finish", "finish is repeated: what was committed is not decided again"),
    Point(35, "store.settle", "settle", "no verdict: the client repeats its cancel, a failing step is repeated"),
    Point(36, "store.give_back", "settle", "clean-up waits until the lease has run out, plus one provider call"),
    Point(37, "store.forfeit", "signals", "the lease runs out by itself"),
    Point(38, "store.claim_cleanup", "clean-up", _LOST),
    Point(39, "store.pause_cleanup", "clean-up", _CLEAN),
    Point(40, "store.finish_cleanup", "clean-up", _CLEAN),
    Point(41, "store.hold_reconciler", "reconcile", _TICK),
    Point(42, "catalog.expire_vms", "reconcile", _TICK),
    Point(43, "store.due_jobs", "reconcile", _TICK),
    Point(44, "store.take_over", "reconcile", _TICK),
    Point(45, "store.dispatch_again", "reconcile", _TICK),
    Point(46, "catalog.get_many", "reads", _READ),
    Point(47, "catalog.list", "reads", _READ),
    Point(48, "catalog.syncs", "reads", _READ),
    Point(49, "catalog.recent_jobs", "reads", _READ),
    Point(50, "catalog.locations", "reads", _READ),
    Point(51, "catalog.events", "reads", _READ),
    Point(52, "catalog.insert", "catalog", _USER),
    Point(53, "catalog.update", "catalog", _USER),
    Point(54, "catalog.delete_source", "catalog", _USER),
    Point(55, "catalog.delete_target_project", "catalog", _USER),
    Point(56, "catalog.forget_operation", "catalog", _USER),
    Point(57, "catalog.request_cancellation", "catalog", _USER),
    Point(58, "catalog.change_vm", "catalog", _USER),
    Point(59, "catalog.delete_vm", "catalog", _USER),
    Point(60, "catalog.begin_cycle", "catalog", _USER),
    Point(61, "catalog.add_snapshot", "catalog", _USER),
    Point(62, "catalog.end_cycle", "catalog", _USER),
    Point(63, "catalog.unused_snapshots", "catalog", _USER),
    Point(64, "catalog.forget_snapshot", "catalog", _USER),
    Point(65, "access.find_token", "access", _USER),
    Point(66, "access.bindings", "access", _USER),
    Point(67, "access.tokens", "access", _USER),
    Point(68, "access.create_token", "access", _USER),
    Point(69, "access.revoke_token", "access", _USER),
    Point(70, "access.grant", "access", _USER),
    Point(71, "access.revoke_role", "access", _USER),
    Point(72, "catalog.clone_ground", "create", _CLIENT),
    Point(73, "broker.publish.audit", "audit", _ROUND),
    Point(74, "target.inventory.all", "audit", _ROUND),
    Point(75, "audit.hold_auditor", "audit", _ROUND),
    Point(76, "audit.cleanups", "audit", _ROUND),
    Point(77, "audit.expected", "audit", _ROUND),
    Point(78, "audit.jobs", "audit", _ROUND),
    Point(79, "audit.left_alone", "audit", _ROUND),
    Point(80, "audit.sightings", "audit", _ROUND),
    Point(81, "audit.record", "audit", _ROUND),
    Point(82, "audit.mark_deleting", "audit", _ROUND),
    Point(83, "audit.mark_gone", "audit", _ROUND),
    Point(84, "target.find.boot_image", "steps", _RETRY),
    Point(85, "target.create.boot_image", "steps", _RETRY),
    Point(86, "target.delete.boot_image", "finish", _PAUSE),
    Point(87, "target.screenshot.instance", "steps", "the evidence of the boot has no screenshot and says why"),
    Point(88, "catalog.boot_proofs", "reads", _READ),
    Point(89, "catalog.stored_cycles", "catalog", _USER),
    Point(90, "catalog.mark_pruned", "catalog", _USER),
    Point(91, "catalog.forget_pruned", "catalog", _USER),
    Point(92, "target.kept.adapted_image", "create", _CLIENT),
    Point(93, "store.note_deleted_by_user", "catalog", _USER),
)

_ROW = re.compile(r"^\| (\d+) \| `([a-z_.]+)`", re.MULTILINE)
_HEAD = """\
# Numbered I/O points

Every call to the database, the broker or a target passes `models/io_points.py` under a name of this table, and a test
fails when one does not. A number keeps its meaning for ever. The list stands in `models/io_table.py`; this page is
generated by `make docs-generated`. `make faults` breaks each point of a job's path in every way and shows what the last
column says.

What Celery's workers receive and acknowledge is no call of a job: a message that is lost there is a message that was
not sent.

| number | name | part of a job's life | if it fails |
|---|---|---|---|
"""


def numbers() -> dict[str, int]:
    """The number of each point that the code has."""
    return {point.name: point.number for point in POINTS if not point.gone}


def page() -> str:
    """``docs/io_points.md``."""
    rows = (
        f"| {point.number} | `{point.name}` | {point.part} | {'(no longer called)' if point.gone else point.fails} |\n"
        for point in POINTS
    )
    return _HEAD + "".join(rows)


def changed_meaning(earlier: str) -> list[str]:
    """What an earlier page says of a number and this table does not any more."""
    now = {point.number: point.name for point in POINTS}
    said = {int(number): name for number, name in _ROW.findall(earlier)}
    return [f"{number} was {name}" for number, name in said.items() if now.get(number) != name]


def main(path: Path) -> int:
    """Write the page, unless a number would change its meaning."""
    if broken := changed_meaning(path.read_text() if path.exists() else ""):
        sys.stderr.write(f"error: numbers of I/O points never change their meaning: {'; '.join(broken)}\n")
        return 1
    path.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
