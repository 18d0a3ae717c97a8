"""The auditor in a tight loop against creates, cancels, clean-ups, late calls and users: 0 false deletes.

    make audit-race [N=100000] [SEED=0] [JOBS=processors]        prints JSON; exit status 1 on a false delete

Each schedule starts from a prepared state and runs real code of the worker, the services and the auditor on a real
database and the simulated target without tombstones. The auditor deletes, with a quarantine of no time, and most things
are given to it as if it had seen them often enough already: what stands between it and a false delete is what it reads.
The judge is the target's own log.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import signal
import shutil
import sqlite3
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa
from guarantee.arguments import Parser, whole
from guarantee.schedules import Schedule
from harness import World

from models.states import JobState
from targets.base import LABEL_EPOCH, LABEL_JOB_ID, Observed, ResourceKind
from targets.errors import TargetError
from tasks.audit import audit
from tasks.errors import FailedPrecondition
from tasks.orphans import Proof
from tasks.target_calls import TargetCalls

PROOF = Proof(inventories=2, quarantine_s=0)
_SEEN_OFTEN = 9
_TIMES = {"late_call": 4, "late_call_and_user": 4, "sighted": 6, "sighted_and_user": 12, "two_auditors": 8}
_PORTION = 1000  # schedules that a process plays in one world
_FRESH_EVERY = 200  # schedules between two collections of garbage, which otherwise costs a fifth of the time


@dataclass
class Scene:
    """A state to start from: the database, the target's files, the message that is under way, what a user owns."""

    database: bytes
    files: dict[str, bytes]
    job_id: str
    mail: list[tuple]
    users: frozenset[str]  # uids


@dataclass
class Figures:
    interleavings: int = 0
    deletes_with_proof: int = 0
    false_deletes: list[str] = field(default_factory=list)
    by_scenario: Counter = field(default_factory=Counter)
    traces: set[int] = field(default_factory=set)
    seconds: float = 0.0

    def as_json(self) -> dict:
        return {
            "interleavings": self.interleavings, "distinct": len(self.traces),
            "deletes_with_proof": self.deletes_with_proof, "false_deletes": len(self.false_deletes),
            "by_scenario": dict(sorted(self.by_scenario.items())), "seconds": round(self.seconds, 1),
            "first_false_deletes": self.false_deletes[:5],
        }  # fmt: skip


class Race:
    """The world, its scenes, and the scenarios that are played in them."""

    def __init__(self, folder: Path) -> None:
        self.world = World(folder, keeps_tombstones=False)
        sa.event.listen(self.world.engine, "connect", _quick)
        self.world.engine.dispose()
        self.world.set_up(policy={"skipOsAdaptation": True})
        self.calls = TargetCalls(self.world.runtime, "simulated")
        self._file = self.world.engine.url.database
        self._made: dict[str, str] = {}  # uid -> job of what a job's own call made
        self.scenes = self._scenes()
        self.scenarios: dict[str, Callable[[int], dict[str, Callable[[], object]]]] = {
            "late_call": self._late_call, "late_call_and_user": self._late_call_and_user,
            "sighted": self._sighted, "sighted_and_user": self._sighted_and_user, "two_auditors": self._two_auditors,
            "create": self._create, "create_and_cancel": self._create_and_cancel,
            "succeed": self._succeed, "succeed_or_cancel": self._succeed_or_cancel,
            "clean_up": self._clean_up, "clean_up_and_late_call": self._clean_up_and_late_call,
        }  # fmt: skip
        # The short ones more often: a schedule of theirs costs a quarter of the others'.
        self.deck = [name for name in self.scenarios for _ in range(_TIMES.get(name, 1))]

    def close(self) -> None:
        self.world.close()

    # Scenes

    def _scenes(self) -> dict[str, Scene]:
        world, scenes = self.world, {}
        kept = world.create("kept")
        world.run()
        lost = world.create("lost")
        world.deliver()
        world.deliver()
        world.services.clone_jobs.cancel(lost.name)
        world.run()
        assert world.job(kept.id).state is JobState.SUCCEEDED and world.job(lost.id).state is JobState.CANCELLED
        stem = world.job(lost.id).ledger[0].name
        for name, job_id in ((f"{stem}-7", None), ("users-a", kept.id), ("users-b", lost.id), ("others", "elsewhere")):
            world.target.foreign(ResourceKind.DISK, name, {} if job_id is None else _labels(job_id))
        users = frozenset(each.uid for each in world.target.everything())  # what was kept is its user's
        scenes["ended"] = self._scene(lost.id, users)
        late = self.calls.create(world.job(lost.id), world.job(lost.id).ledger[0])
        self._made[late.uid] = lost.id
        self._sight(late)
        scenes["sighted"] = self._scene(lost.id, users)
        self.play(scenes["ended"])
        running = world.create("running")
        world.deliver()
        self._sight_all(running.id)
        scenes["running"] = self._scene(running.id, users)
        world.deliver()
        self._sight_all(running.id)
        scenes["finishing"] = self._scene(running.id, users)
        world.services.clone_jobs.cancel(running.name)
        scenes["cancelled"] = self._scene(running.id, users, keep=lambda message: message[0] == "cleanup")
        return scenes

    def _scene(self, job_id: str, users: frozenset[str], keep: Callable[[tuple], bool] = lambda _: True) -> Scene:
        self._made |= {each.uid: each.job_id or "" for each in self.world.target.everything() if each.uid not in users}
        connection = sqlite3.connect(":memory:")
        with sqlite3.connect(self._file) as source:
            source.backup(connection)
        source.close()
        database = bytearray(connection.serialize())
        connection.close()
        database[18:20] = b"\1\1"  # a database in memory has no write-ahead log; a backup into one with a log keeps it
        files = {str(path.relative_to(self.world.target.root)): path.read_bytes()
                 for path in (self.world.target.root / "resources").rglob("*.json")}  # fmt: skip
        return Scene(bytes(database), files, job_id, [each for each in self.world.mail.messages if keep(each)], users)

    def _sight(self, each: Observed) -> None:
        """As if it had been seen often, so that proof is all but given."""
        now = self.world.clock().replace(tzinfo=None)
        self.world.corrupt(
            "INSERT OR REPLACE INTO orphan_sightings VALUES ('simulated', :kind, :name, :uid, :job, :then, :then, :n, NULL)",
            kind=str(each.ref.kind), name=each.ref.name, uid=each.uid, job=each.job_id,
            then=now.isoformat(" ", "microseconds"), n=_SEEN_OFTEN,
        )  # fmt: skip

    def _sight_all(self, job_id: str) -> None:
        for each in self.world.target.inventory():
            if each.job_id == job_id:
                self._sight(each)

    def play(self, scene: Scene) -> None:
        """Make the world what it is in the scene."""
        source = sqlite3.connect(":memory:")
        source.deserialize(scene.database)
        raw = self.world.engine.raw_connection()
        try:
            source.backup(raw.driver_connection)
        finally:
            raw.close()
            source.close()
        root = self.world.target.root
        for path in (root / "resources").rglob("*.json"):
            if str(path.relative_to(root)) not in scene.files:
                path.unlink()
        for name, content in scene.files.items():
            (root / name).write_bytes(content)
        self.world.target.clear()
        self.world.mail.messages[:] = scene.mail

    # Actors

    def _audit(self) -> None:
        audit(self.world.runtime, proof=PROOF, delete=True)

    def _audit_twice(self) -> None:
        self._audit()
        self._audit()

    def _work(self) -> None:
        """The worker: what is in the mailbox, until it is empty."""
        self.world.run()

    def _cancel(self) -> None:
        job = self.world.job(self._scene_now.job_id)
        try:
            self.world.services.clone_jobs.cancel(job.name)
        except FailedPrecondition:
            pass  # success was first

    def _lands(self) -> None:
        """The call of a frozen worker lands."""
        job = self.world.job_quietly(self._scene_now.job_id)
        try:
            self._late.append(self.calls.create(job, job.ledger[0]).uid)
        except TargetError:
            pass  # something of the user's stands there

    def _user_replaces(self) -> None:
        """A user deletes what stands under our name and makes a thing of his own there, perhaps with copied labels."""
        row = self.world.job_quietly(self._scene_now.job_id).ledger[0]
        self.calls.find(row)  # a point, so that he may come at any time
        labels = ({}, _labels("elsewhere"), _labels(self._kept_id))[self._seed % 3]
        self._users.add(self.world.target.foreign(ResourceKind.DISK, row.name, labels).uid)

    # Scenarios

    def _late_call(self, seed: int) -> dict:
        self._begin("ended", seed)
        return {"auditor": self._audit_twice, "late": self._lands}

    def _late_call_and_user(self, seed: int) -> dict:
        self._begin("ended", seed)
        return {"auditor": self._audit_twice, "late": self._lands, "user": self._user_replaces}

    def _sighted(self, seed: int) -> dict:
        self._begin("sighted", seed)
        return {"auditor": self._audit, "late": self._lands}

    def _sighted_and_user(self, seed: int) -> dict:
        self._begin("sighted", seed)
        return {"auditor": self._audit, "late": self._lands, "user": self._user_replaces}

    def _two_auditors(self, seed: int) -> dict:
        self._begin("sighted", seed)
        return {"auditor": self._audit, "auditor2": self._audit, "user": self._user_replaces}

    def _create(self, seed: int) -> dict:
        self._begin("running", seed)
        self.world.mail.messages[1:] = []
        return {"auditor": self._audit, "worker": self.world.deliver}

    def _create_and_cancel(self, seed: int) -> dict:
        self._begin("running", seed)
        return {"auditor": self._audit, "worker": self.world.deliver, "user": self._cancel}

    def _succeed(self, seed: int) -> dict:
        self._begin("finishing", seed)
        return {"auditor": self._audit, "worker": self._work}

    def _succeed_or_cancel(self, seed: int) -> dict:
        self._begin("finishing", seed)
        return {"auditor": self._audit, "worker": self._work, "user": self._cancel}

    def _clean_up(self, seed: int) -> dict:
        self._begin("cancelled", seed)
        return {"auditor": self._audit, "worker": self._work}

    def _clean_up_and_late_call(self, seed: int) -> dict:
        self._begin("cancelled", seed)
        return {"auditor": self._audit_twice, "worker": self._work, "late": self._lands}

    def _begin(self, scene: str, seed: int) -> None:
        self._seed, self._scene_now = seed, self.scenes[scene]
        self._late: list[str] = []
        self._users = set(self._scene_now.users)
        self._states: dict[tuple[str, str], JobState] = {}
        self.play(self._scene_now)

    # Judging

    def run(self, seed: int, figures: Figures) -> None:
        """One schedule, judged."""
        name = self.deck[seed % len(self.deck)]
        actors = self.scenarios[name](seed)
        asked: list[tuple[str, JobState | None]] = []
        proven: list[str] = []

        def seen(actor: str, point: str, phase: str) -> None:
            if actor.startswith("auditor") and point.startswith("target.delete."):
                if phase == "before":
                    asked.append((actor, self._state()))
                elif (last := self.world.target.calls()[-2]).phase == "effect":
                    proven.append(last.uid)

        schedule = Schedule(seed, seen)
        schedule.run(actors)
        if schedule.errors:
            raise AssertionError(f"{name}, seed {seed}: {schedule.errors!r}") from schedule.errors[0]
        figures.interleavings += 1
        figures.by_scenario[name] += 1
        figures.traces.add(zlib.crc32(" ".join((name, *schedule.trace)).encode()))
        figures.deletes_with_proof += len(proven)
        self._judge(f"{name}, seed {seed}", asked, figures)

    def _judge(self, which: str, asked: list[tuple[str, JobState | None]], figures: Figures) -> None:
        """From the target's log: what was deleted, whose was it, and in which state was its job when it was asked for?"""
        calls = self.world.target.calls()
        made = self._made | {call.uid: call.job_id for call in calls if (call.op, call.outcome) == ("create", "made")}
        state = self._state()
        for call in calls:
            if (call.op, call.phase) != ("delete", "effect"):
                continue
            if call.uid in self._users or made.get(call.uid) != self._scene_now.job_id:
                figures.false_deletes.append(f"{which}: {call.kind} {call.name} was not the job's")
            if state is JobState.SUCCEEDED:
                figures.false_deletes.append(f"{which}: {call.kind} {call.name} of a job that succeeded")
        ended = (JobState.CANCELLED, JobState.FAILED)
        figures.false_deletes += [f"{which}: {actor} while the job was {at}" for actor, at in asked if at not in ended]

    def drop_the_databases_guard(self) -> None:
        """For a test of the race itself: take the last word from the database."""
        for scene in self.scenes.values():
            connection = sqlite3.connect(":memory:")
            connection.deserialize(scene.database)
            connection.execute("DROP TRIGGER guard_orphan_sightings_update")
            connection.commit()
            scene.database = connection.serialize()
            connection.close()

    def _state(self) -> JobState | None:
        connection = sqlite3.connect(self._file)
        try:
            row = connection.execute("SELECT state FROM clone_jobs WHERE id = ?", (self._scene_now.job_id,)).fetchone()
        finally:
            connection.close()
        return JobState(row[0]) if row else None

    @property
    def _kept_id(self) -> str:
        return next(each.job_id or "" for each in self.world.target.everything() if each.ref.name == "users-a")


def _labels(job_id: str) -> dict[str, str]:
    return {LABEL_JOB_ID: job_id, LABEL_EPOCH: "1"}


def _quick(connection: sqlite3.Connection, _record: object) -> None:
    """A schedule is thrown away; it need not survive a power cut."""
    connection.execute("PRAGMA synchronous=OFF")


def race(
    interleavings: int, first_seed: int = 0, *, base: Path | None = None, prepare: Callable[[Race], None] | None = None
) -> Figures:
    """Play so many schedules, in a folder of their own below ``base``."""
    folder = Path(tempfile.mkdtemp(prefix="audit-race-", dir=base or _memory()))
    figures = Figures()
    started = time.monotonic()
    gc.disable()
    try:
        played = Race(folder)
        try:
            if prepare is not None:
                prepare(played)
            for number in range(interleavings):
                played.run(first_seed + number, figures)
                if number % _FRESH_EVERY == 0:
                    gc.collect()
        finally:
            played.close()
    finally:
        gc.enable()
        shutil.rmtree(folder, ignore_errors=True)
    figures.seconds = time.monotonic() - started
    return figures


def _memory() -> Path | None:
    """Where files are kept in memory, if the system has such a place."""
    return Path("/dev/shm") if Path("/dev/shm").is_dir() else None


def race_in_processes(interleavings: int, first_seed: int, processes: int) -> Figures:
    """The same by several processes, in portions; stderr tells how far it is, and an interrupt ends it early."""
    base = Path(tempfile.mkdtemp(prefix="audit-races-", dir=_memory()))
    portions = [(min(_PORTION, interleavings - at), first_seed + at, base) for at in range(0, interleavings, _PORTION)]
    started = time.monotonic()
    whole = Figures()
    pool = multiprocessing.get_context("spawn").Pool(
        min(processes, len(portions)), signal.signal, (signal.SIGINT, signal.SIG_IGN)
    )
    try:
        for each in pool.imap_unordered(_portion, portions):
            whole.interleavings += each.interleavings
            whole.deletes_with_proof += each.deletes_with_proof
            whole.false_deletes += each.false_deletes
            whole.by_scenario += each.by_scenario
            whole.traces |= each.traces
            print(f"{whole.interleavings} of {interleavings}, {len(whole.false_deletes)} false", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted; these are the figures so far", file=sys.stderr)
    finally:
        pool.terminate()
        pool.join()
        shutil.rmtree(base, ignore_errors=True)
    whole.seconds = time.monotonic() - started
    return whole


def _portion(portion: tuple[int, int, Path]) -> Figures:
    interleavings, first_seed, base = portion
    return race(interleavings, first_seed, base=base)


if __name__ == "__main__":
    parser = Parser(description="the auditor's race")
    parser.add_argument("interleavings", metavar="N", type=whole(1), help="schedules to play")
    parser.add_argument("seed", metavar="SEED", type=whole(0), help="of the first schedule")
    parser.add_argument("jobs", metavar="JOBS", type=whole(1), help="processes that play")
    given = parser.parse_args()
    result = race_in_processes(given.interleavings, given.seed, given.jobs)
    print(json.dumps(result.as_json(), indent=2))
    sys.exit(1 if result.false_deletes or result.interleavings < given.interleavings else 0)
