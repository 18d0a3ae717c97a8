"""The audit over REST: what it answers, what it refuses, who may ask; and the command line against the real service."""

from __future__ import annotations

import json

import jsonschema
import pytest
from harness import PARENT, World
from serving import serving

from api.auth import Gate
from api.openapi import document
from models.states import JobState
from targets.base import LABEL_EPOCH, LABEL_JOB_ID, ResourceKind
from tasks.target_calls import TargetCalls
from worker.cli import audit as cli_audit
from worker.cli.client import Client

AUDIT, DELETE = (f"/clonejob/v1/{PARENT}:{verb}" for verb in ("audit", "deleteOrphans"))
QUICK = {"quarantineS": 0, "inventories": 2}


@pytest.fixture
def orphaned(tmp_path):
    """A service with one orphan: a disk that a late call of a cancelled job made."""
    world = World(tmp_path, keeps_tombstones=False)
    world.set_up(policy={"skipOsAdaptation": True})
    job = world.create()
    world.deliver()
    world.services.clone_jobs.cancel(job.name)
    job = world.run_to_end(job.id)
    assert job.state is JobState.CANCELLED
    world.job_id = job.id
    world.orphan = TargetCalls(world.runtime, "simulated").create(job, job.ledger[0])
    with serving(world.services) as running:
        world.url = running.url
        world.client = Client(running.url)
        yield world
        world.client.close()
    world.close()


def valid(answer):
    components = document()["components"]
    jsonschema.Draft202012Validator(components["schemas"]["clonejob.Audit"] | {"components": components}).validate(
        answer
    )
    return answer


def test_what_it_answers_is_as_described(orphaned):
    world = orphaned
    won = world.create("won")
    world.run()
    world.target.remove_by_hand(TargetCalls(world.runtime, "simulated").find(world.job(won.id).ledger[-1]).ref)
    world.target.foreign(ResourceKind.INSTANCE, world.job(won.id).ledger[-1].name, {})
    world.target.foreign(ResourceKind.DISK, "another", {LABEL_JOB_ID: "unknown", LABEL_EPOCH: "1"})
    stuck = world.create("stuck")
    world.deliver()
    world.target.add_fault(op="delete", fault="fail", times=None)
    world.services.clone_jobs.cancel(stuck.name)
    assert world.deliver(world.mail.messages.pop())
    found = valid(world.client.post(AUDIT, {"target": "simulated"}))
    assert {each["why"] for each in found["orphans"]} == {"CLEANED_UP", "JOB_UNKNOWN"}
    assert [each["why"] for each in found["strangers"]] == ["NO_LABEL"] and len(found["missing"]) == 1
    assert [each["attempts"] for each in found["cleanups"]] == [1]
    said = cli_audit.text(found)
    for part in ("ORPHANS (2)", "MISSING", "WAITING (1)", "NOT OURS", "CANCELLED", "attempt 2", "unknown job unknown",
                 "kept until it is proven: 1 of 3 good inventories over 0 of 60 s", "never deleted here"):  # fmt: skip
        assert part in said, said
    assert (found["quarantineS"], found["inventories"]) == (60, 3)


def test_a_report_deletes_nothing_and_deleting_needs_its_proof(orphaned):
    for _ in range(3):
        assert not valid(orphaned.client.post(AUDIT, QUICK))["deleted"]
    assert orphaned.kinds() == ["disk"]
    assert not valid(orphaned.client.post(DELETE, {}))["deleted"]  # 60 s by default, and the clock stands
    (gone,) = valid(orphaned.client.post(DELETE, QUICK))["deleted"]
    assert gone["uid"] == orphaned.orphan.uid and not orphaned.kinds()
    assert valid(orphaned.client.post(AUDIT))["orphans"] == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"target": "cloud"}, "target"),
        ({"target": 7}, "target"),
        ({"target": "x" * 5000}, "target"),
        ({"quarantineS": -1}, "quarantineS"),
        ({"quarantineS": 604_801}, "quarantineS"),
        ({"quarantineS": 10**400}, "quarantineS"),
        ({"quarantineS": "60s"}, "quarantineS"),
        ({"quarantineS": True}, "quarantineS"),
        ({"quarantineS": None}, "quarantineS"),
        ({"inventories": 1}, "inventories"),
        ({"inventories": 2.5}, "inventories"),
        ({"inventories": 1001}, "inventories"),
        ({"delete": True}, "delete"),
    ],
)
@pytest.mark.parametrize("path", [AUDIT, DELETE])
def test_wrong_bodies_are_refused_and_name_the_field(live, path, body, field):
    answer = live.http.post(path, content=json.dumps(body))
    assert answer.status_code == 400
    info = answer.json()["error"]["details"][0]
    assert field in answer.json()["error"]["message"] and info["metadata"].get("field", field) == field
    assert len(answer.text) < 2000


@pytest.mark.parametrize("raw", [b'{"quarantineS": NaN}', b'{"inventories": Infinity}', b"[]", b"x"])
def test_what_is_no_number_is_refused(live, raw):
    assert live.http.post(AUDIT, content=raw).status_code == 400


def test_get_is_not_allowed_because_a_look_is_counted(live):
    assert live.http.get(AUDIT).status_code == 405


def test_only_operators_may_ask(orphaned):
    access = orphaned.services.access
    secrets = {role: access.create_token(role, project="p", role=role).secret
               for role in ("viewer", "cloner", "editor", "admin")}  # fmt: skip
    elsewhere = access.create_token("other", project="q", role="admin").secret
    with serving(orphaned.services, gate=Gate(access)) as running:

        def ask(secret, path):
            client = Client(running.url, token=secret)
            try:
                return client._http.post(path, json=QUICK)
            finally:
                client.close()

        for path in (AUDIT, DELETE):
            for role in ("viewer", "cloner", "editor"):
                assert ask(secrets[role], path).status_code == 403, role
            assert ask(elsewhere, path).status_code == 403
        assert len(ask(secrets["admin"], AUDIT).json()["orphans"]) == 1
        others = ask(elsewhere, AUDIT.replace("projects/p/", "projects/q/")).json()
        assert others["orphans"] == [] and others["elsewhere"] == 1 and orphaned.job_id not in json.dumps(others)
        for _ in range(3):
            ask(elsewhere, DELETE.replace("projects/p/", "projects/q/"))
    assert orphaned.kinds() == ["disk"]
