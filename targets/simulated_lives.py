"""What existed on the simulated target, from when to when: read from its call log."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from targets.simulated_log import Call

_MADE = ("made", "half_made")


@dataclasses.dataclass
class Life:
    """One resource by its uid, from the first effect to the last. ``until`` is None while it exists.

    ``by`` is the operation that ended it: "delete" for a call of ours, "remove_by_hand" or "foreign" for a user's.
    """

    kind: str
    name: str
    uid: str
    job_id: str | None
    since: float
    until: float | None = None
    by: str = ""
    by_foreign: bool = False


def lives(calls: Iterable[Call]) -> list[Life]:
    """Everything that ever existed on the target, oldest first."""
    standing: dict[tuple[str | None, str | None], Life] = {}
    found: list[Life] = []
    for call in calls:
        if call.phase != "effect" or call.uid is None:
            continue
        at = (call.kind, call.name)
        here = standing.get(at)
        if call.outcome in _MADE:
            if here is not None:
                here.until, here.by = call.time, call.op
            life = Life(
                str(call.kind), str(call.name), call.uid, call.job_id, call.time, by_foreign=call.op == "foreign"
            )
            standing[at] = life
            found.append(life)
        elif call.outcome in ("gone", "deleting") and here is not None:
            here.until, here.by = call.time, call.op
            del standing[at]
    return found
