"""The auditor's race, shortened; ``make audit-race`` plays 100,000 schedules."""

import pytest
from guarantee.audit_race import race

from tasks import audit, cleanup
from tasks.orphans import Why

SHORT = 160  # four times through the deck of scenarios


def test_no_false_delete_in_any_interleaving():
    figures = race(SHORT)
    assert figures.interleavings == SHORT and not figures.false_deletes
    assert figures.deletes_with_proof > 10 and len(figures.traces) > 0.7 * SHORT
    assert min(figures.by_scenario.values()) >= 3, figures.by_scenario


@pytest.fixture
def credulous(monkeypatch):
    """An auditor that takes everything for an orphan, and reads nothing again."""
    monkeypatch.setattr(audit, "judge", lambda job, target, seen: Why.CLEANED_UP if job else Why.JOB_UNKNOWN)
    monkeypatch.setattr(cleanup, "_left_behind_by", lambda runtime, target, seen: runtime.store.get_job(seen.job_id))


def test_the_race_sees_what_a_credulous_auditor_does(credulous):
    figures = race(40, prepare=lambda played: played.drop_the_databases_guard())
    assert len(figures.false_deletes) > 3


def test_the_database_alone_stops_a_credulous_auditor(credulous):
    assert not race(40).false_deletes
