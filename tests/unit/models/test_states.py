from pathlib import Path

import pytest

from models.states import (
    JOB_TRANSITIONS,
    LEDGER_TRANSITIONS,
    TERMINAL,
    IllegalTransition,
    JobState,
    LedgerState,
    check_job_transition,
    diagram,
    job_predecessors,
    ledger_predecessors,
)

EDGES = [(old, new) for old in JobState for new in JobState if old is not new]


@pytest.mark.parametrize(("old", "new"), EDGES)
def test_every_edge_is_allowed_or_refused_by_the_table(old, new):
    if new in JOB_TRANSITIONS[old]:
        check_job_transition(old, new)
        assert old in job_predecessors(new)
    else:
        with pytest.raises(IllegalTransition):
            check_job_transition(old, new)
        assert old not in job_predecessors(new)


def test_terminal_states_are_the_contracts_three():
    assert TERMINAL == {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}


def test_every_state_can_be_reached_and_left_towards_an_end():
    reachable = {JobState.PENDING}
    for _ in JobState:
        reachable |= {new for old in reachable for new in JOB_TRANSITIONS[old]}
    assert reachable == set(JobState)
    for state in set(JobState) - TERMINAL:
        assert JOB_TRANSITIONS[state] & TERMINAL or JOB_TRANSITIONS[state]


def test_a_kept_resource_never_leaves_that_state():
    assert not LEDGER_TRANSITIONS[LedgerState.KEPT]
    assert ledger_predecessors(LedgerState.KEPT) == {LedgerState.CREATED}


def test_nothing_that_may_exist_becomes_absent_unseen():
    assert LedgerState.PLANNED in ledger_predecessors(LedgerState.ABSENT)
    assert LedgerState.KEPT not in ledger_predecessors(LedgerState.ABSENT)


def test_the_diagram_in_the_docs_is_the_table():
    docs = Path(__file__).parents[3] / "docs" / "states.md"
    assert docs.read_text() == diagram(), "run: make docs-generated"
