"""The configured pattern of a booted guest's console."""

import pytest

from models.states import JobState
from targets.base import BootReport, BootVerdict
from tasks.boot_pattern import PatternError, check_pattern, is_seen
from tasks.runtime import BootPolicy
from worker.settings import SettingsError, load_settings


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("", "1 to 500"),
        ("x" * 501, "1 to 500"),
        ("a\0", "1 to 500"),
        ("(", "is not a regular expression"),
        ("a{4294967296}", "is not a regular expression"),
        ("(" * 250 + ")" * 250, "matches an empty console"),
        ("a*", "matches an empty console"),
        ("^", "matches an empty console"),
    ],
)
def test_a_pattern_that_cannot_be_used_is_refused_when_settings_are_read(pattern, why):
    with pytest.raises(ValueError, match=why):
        check_pattern(pattern)
    with pytest.raises(SettingsError) as refused:
        load_settings(targets={"lab": {"type": "simulated", "boot_pattern": pattern}})
    [problem] = refused.value.problems
    assert problem.startswith("CLONEJOB_TARGETS.lab.boot_pattern: ") and why in problem


@pytest.mark.parametrize(
    ("pattern", "console", "seen"),
    [
        ("^Welcome to .*!$", "boot\nWelcome to Debian!\nlogin:", True),
        ("^Welcome to .*!$", "boot: Welcome to Debian!", False),
        ("h\u00e4lt", "er h\u00e4lt an", True),
        ("-x", "a -x b", True),
        ("up", "", False),
    ],
)
def test_a_pattern_is_searched_in_lines(pattern, console, seen):
    assert is_seen(pattern, console) is seen


def test_a_pattern_that_would_take_for_ever_is_given_up():
    with pytest.raises(PatternError, match="takes more than 0.3 s"):
        is_seen("(a+)+$", "a" * 64 + "!", limit_s=0.3)


def test_only_the_pattern_makes_a_guest_booted(light):
    said = ["power on", "power on\nlogin: ", "power on\nlogin: \nservice ready", "never asked"]

    def report(_ref):
        return BootReport(BootVerdict.BOOTED, said.pop(0), 0.0, "", 0.5, float(10 - len(said)))

    light.target.boot_report = report
    light.runtime.boot_policies["simulated"] = BootPolicy(required=True, pattern="^service ready")
    job = light.run_to_end(light.create().id)
    boot = job.steps[-1].progress["boot"]
    assert job.state is JobState.SUCCEEDED and said == ["never asked"]
    assert (boot["verdict"], boot["seconds"], boot["firstOutputSeconds"]) == ("BOOTED", 9.0, 0.5)


def test_a_pattern_that_takes_too_long_is_no_boot_that_was_seen(light, monkeypatch):
    def too_slow(_pattern, _console):
        raise PatternError("boot_pattern takes more than 2 s on this console; use a simpler one")

    monkeypatch.setattr("tasks.boot.is_seen", too_slow)
    light.runtime.boot_policies["simulated"] = BootPolicy(pattern="(a+)+$")
    job = light.run_to_end(light.create().id)
    assert job.state is JobState.SUCCEEDED
    boot = job.steps[-1].progress["boot"]
    assert boot["verdict"] == "UNKNOWN" and "use a simpler one" in boot["detail"]
