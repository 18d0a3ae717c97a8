"""The conformance kit finds what is wrong, removes what it made, and touches nothing else."""

from __future__ import annotations

import ast
import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from contract import more_broken_targets as _  # adds to BROKEN
from contract.broken_targets import BROKEN
from contract.stages import simulated_hands

import targets.conformance
from targets.base import Owner, ResourceKind, ResourceRef, Snapshot
from targets.conformance import CHECKS, Outcome, Stage, run, run_check
from targets.errors import RefusedError, TransientError
from targets.simulated import SimulatedTarget

BY_NAME = {check.name: check for check in CHECKS}
SNAPSHOT = Snapshot("cycle-1/disk0.raw", "raw", 1024, "")


def stage_of(kind: type[SimulatedTarget], root: Path, **options) -> Stage:
    maker = SimulatedTarget(root)

    def make_half(spec):
        maker.add_fault(op="create", fault="half_made", kind=spec.ref.kind, name=spec.ref.name)
        with pytest.raises(TransientError):
            maker.create(spec)

    return Stage(
        lambda: kind(root, call_timeout_s=0.25), (SNAPSHOT,), keeps_tombstones=True, boots=True, patience_s=0.4,
        poll_s=0.005, hands=simulated_hands(maker, make_half), **options,
    )  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_it_finds_what_is_broken(tmp_path, broken):
    check = BY_NAME[BROKEN[broken]]
    sound = run_check(stage_of(SimulatedTarget, tmp_path / "sound"), check)
    assert sound.outcome is not Outcome.FAILED, sound.detail
    found = run_check(stage_of(broken, tmp_path / "broken"), check)
    assert found.outcome is Outcome.FAILED, check.rule
    assert found.detail
    assert ("came out of the target" in found.detail) is (broken.__name__ == "LetsErrorsOut"), found.detail


def test_there_are_many_checks_and_each_says_its_rule_and_source():
    assert len(CHECKS) >= 80
    assert len(BY_NAME) == len(CHECKS)
    for check in CHECKS:
        assert check.rule.endswith((".", ")")) and check.source, check


def test_every_check_of_the_modules_is_run():
    folder = Path(targets.conformance.__file__).parent
    written = {
        node.name
        for path in folder.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
        and any(isinstance(each, ast.Name) and each.id in ("check", "check_each") for each in node.decorator_list)
    }
    assert written == set(BY_NAME)


def test_only_the_command_that_checks_targets_uses_it():
    """It deletes at targets, so no part of the service may reach it."""
    root = Path(targets.conformance.__file__).parents[2]
    users = {
        path.relative_to(root).as_posix()
        for package in ("api", "models", "tasks", "worker", "targets")
        for path in (root / package).rglob("*.py")
        if "conformance" not in path.parts and "targets.conformance" in path.read_text()
    }
    assert users == {"worker/cli/target_check.py"}


def test_it_needs_no_test_framework():
    code = "import sys, targets.conformance; print(sorted({'pytest', 'hypothesis', 'celery'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_whole_run_leaves_what_it_did_not_make_as_it_was(tmp_path):
    owner = SimulatedTarget(tmp_path)
    theirs = [
        owner.foreign(ResourceKind.DISK, "production"),
        owner.foreign(ResourceKind.INSTANCE, "a-clone", Owner("job-1", 1).labels()),
    ]
    results = list(run(stage_of(SimulatedTarget, tmp_path)))
    assert [result.check.name for result in results] == [check.name for check in CHECKS]
    assert {result.outcome for result in results} == {Outcome.PASSED, Outcome.NOT_APPLICABLE}
    assert not any(result.left for result in results)
    assert sorted(owner.everything(), key=lambda seen: seen.ref.name, reverse=True) == theirs
    deleted = [call for call in owner.calls() if call.op == "delete" and call.phase == "effect"]
    assert deleted
    assert all(
        call.job_id.startswith("kit-")
        for call in owner.calls()
        if call.op in ("create", "delete") and call.phase == "effect"
    )


def test_what_the_kit_could_not_remove_is_told(tmp_path):
    class Refuses(SimulatedTarget):
        def delete(self, ref, *, job_id, uid):
            raise RefusedError("Deletion protection is on.")

    told = []
    result = run_check(stage_of(Refuses, tmp_path), BY_NAME["the_uid_stays_the_same"], on_left=told.append)
    assert result.outcome is Outcome.PASSED
    assert list(result.left) == told
    standing = {
        f"{seen.ref} of job {seen.job_id}: Deletion protection is on." for seen in Refuses(tmp_path).inventory()
    }
    assert len(standing) == 4
    assert set(told) == standing


def test_ctrl_c_in_a_check_removes_what_it_made(tmp_path):
    class Interrupts(SimulatedTarget):
        def create(self, spec):
            made = super().create(spec)
            if spec.ref.kind is ResourceKind.INSTANCE:
                raise KeyboardInterrupt
            return made

    with pytest.raises(KeyboardInterrupt):
        run_check(stage_of(Interrupts, tmp_path), BY_NAME["the_uid_stays_the_same"])
    target = SimulatedTarget(tmp_path)
    assert {call.kind for call in target.calls() if call.op == "create" and call.phase == "effect"} >= {"instance"}
    assert target.everything() == []


def test_ctrl_c_while_it_removes_tells_what_may_be_left(tmp_path):
    class Interrupts(SimulatedTarget):
        def delete(self, ref, *, job_id, uid):
            raise KeyboardInterrupt

    told = []
    with pytest.raises(KeyboardInterrupt):
        run_check(stage_of(Interrupts, tmp_path), BY_NAME["the_uid_stays_the_same"], on_left=told.append)
    standing = SimulatedTarget(tmp_path).inventory()
    assert standing
    assert all(any(line.startswith(f"{seen.ref} of job {seen.job_id}") for line in told) for seen in standing)


def test_a_name_that_a_user_took_in_the_meantime_is_not_removed(tmp_path):
    class Swaps(SimulatedTarget):
        def create(self, spec):
            made = super().create(spec)
            self.foreign(spec.ref.kind, spec.ref.name)
            return made

    result = run_check(stage_of(Swaps, tmp_path), BY_NAME["the_uid_stays_the_same"])
    assert result.outcome is Outcome.FAILED
    assert [seen.job_id for seen in SimulatedTarget(tmp_path).everything()] == [None]


def test_without_hands_the_checks_that_need_them_are_not_applicable(tmp_path):
    bare = dataclasses.replace(
        stage_of(SimulatedTarget, tmp_path), hands=targets.conformance.Hands(), keeps_tombstones=None, boots=None
    )
    results = {result.check.name: result for result in run(bare)}
    assert not [result for result in results.values() if result.outcome is Outcome.FAILED]
    assert results["what_a_user_made_is_not_deleted"].detail == "the stage has no hand 'foreign'"
    assert results["a_create_whose_reply_was_lost_is_adopted"].outcome is Outcome.PASSED
    assert results["nothing_is_made_for_a_buried_job"].outcome is Outcome.PASSED
    assert sum(result.outcome is Outcome.PASSED for result in results.values()) >= 55


def test_a_target_that_keeps_no_tombstones_says_so_by_what_it_does(tmp_path):
    stage = dataclasses.replace(
        stage_of(SimulatedTarget, tmp_path), connect=lambda: SimulatedTarget(tmp_path, keeps_tombstones=False)
    )
    check = BY_NAME["nothing_is_made_for_a_buried_job"]
    assert run_check(stage, check).outcome is Outcome.FAILED
    unknown = run_check(dataclasses.replace(stage, keeps_tombstones=None), check)
    assert (unknown.outcome, unknown.detail) == (Outcome.NOT_APPLICABLE, "this target keeps no tombstones")


def test_throttling_now_and_then_is_waited_for(tmp_path):
    class Throttles(SimulatedTarget):
        calls_made = 0

        def create(self, spec):
            Throttles.calls_made += 1
            if Throttles.calls_made % 2:
                raise TransientError("Too many requests.")
            return super().create(spec)

    result = run_check(stage_of(Throttles, tmp_path), BY_NAME["create_twice_makes_one"])
    assert result.outcome is Outcome.PASSED, result.detail
