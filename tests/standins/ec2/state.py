"""What a stand-in is told to do, what it wrote down, and what there is: all but the answering (layer.py)."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass

from moto.backends import get_backend

CONSOLE = "[    0.000000] Linux version 6.1.0\nDebian GNU/Linux 12 clone ttyS0\n\nclone login: "


@dataclass(frozen=True)
class Effect:
    """Something came to exist ("made"), was asked to go ("going") or went ("gone")."""

    time: float
    what: str
    kind: str
    id: str
    job_id: str | None
    name: str = ""  # of what was made


@dataclass
class Fault:
    action: str
    fault: str  # throttle, lose_reply, go_silent (then no call is answered), refuse, busy; one call in ``every``, by chance
    times: int | None
    code: str = ""
    every: int = 1
    hits: int = 0


class StandInState:
    """The switches are described in layer.py."""

    def __init__(self, moto, account, region, *, honours_tokens=True, tags_images=True, leaves_volumes=False,
                 lag_s=0.0, start_s=0.0, end_s=0.0, clock=time.time):  # fmt: skip
        self._moto, self.account, self.region = moto, account, region
        self.honours_tokens, self.tags_images, self.leaves_volumes = honours_tokens, tags_images, leaves_volumes
        self.lag_s, self.start_s, self.end_s, self.clock = lag_s, start_s, end_s, clock
        self.launch_s = 0.0  # more that an instance needs to start
        self.console = CONSOLE
        self.calls, self.effects = [], []
        self.faults, self._before, self._chance = [], {}, random.Random(1)
        self._dry_runs, self._ends_at_start = {}, None
        self._lock = threading.RLock()
        self._tokens, self._mappings, self._ready_at, self._ending, self._shown_at = {}, {}, {}, {}, {}
        self._jobs = {}

    def forget(self):
        """Empty the logs."""
        self.calls, self.effects = [], []

    def freeze(self):
        """From now on only ``advance`` moves the clock."""
        now = self.clock()
        self.clock = lambda: now

    def advance(self, seconds):
        now = self.clock() + seconds
        self.clock = lambda: now

    def hide(self, id_, seconds):
        """Have the lists forget something for a while."""
        self._shown_at[id_] = self.clock() + seconds

    def fail(self, action, fault, *, times=1, code="", every=1):
        self.faults.append(Fault(action, fault, times, code, every))

    def requests(self, action):
        """Parameters of every request of that action that was no dry run."""
        return [params for name, params in self.calls if name == action and params.get("DryRun") != "true"]

    def refuse_dry_runs(self, action, code):
        self._dry_runs[action] = code

    def end_at_start(self, code, message):
        """The next instance goes from pending to terminated, as one does that a quota or a key stops."""
        self._ends_at_start = code, message

    def before(self, action, act):
        """Let ``act`` happen once, right before the next request of that action is looked at."""
        self._before[action] = act

    @property
    def backend(self):
        return get_backend("ec2")[self.account][self.region]

    # What there is, past all lag, for judges

    def instances(self):
        """Ids of instances that are not terminated, by job."""
        found = {}
        for reservation in self.backend.reservations.values():
            for each in reservation.instances:
                if each.state != "terminated":
                    found[each.id] = self._jobs.get(each.id)
        return found

    def ready_at(self, id_):
        """When an instance or image is, or was, ready."""
        return self._ready_at.get(id_, 0.0)

    def images(self):
        return {each.id: each.name for each in self.backend.amis.values() if each.owner_id == self.account}

    def volumes(self):
        """Ids of volumes, but for those that a stopped-and-deleted helper left."""
        return [each.id for each in self.backend.volumes.values()]

    def most_alive(self, job_id):
        """How many instances of the job were alive at the same time at most (R3), from the log."""
        alive, most = set(), 0
        for effect in self.effects:
            if effect.kind == "instance" and effect.job_id == job_id:
                (alive.add if effect.what == "made" else alive.discard)(effect.id)
                most = max(most, len(alive))
        return most

    def made(self, kind):
        return [effect for effect in self.effects if effect.kind == kind and effect.what == "made"]

    def _log(self, what, kind, id_, job_id=None, name=""):
        if job_id is not None:
            self._jobs[id_] = job_id
        self.effects.append(Effect(self.clock(), what, kind, id_, self._jobs.get(id_), name))

    def _hidden(self, id_):
        return self.clock() < self._shown_at.get(id_, float("-inf"))
