from __future__ import annotations

import json
from pathlib import Path

import pytest

from worker.settings import (
    Settings,
    SettingsError,
    TargetSettings,
    child_environment,
    load_settings,
    redact_url,
    unknown_variables,
)


def problems(**overrides):
    with pytest.raises(SettingsError) as caught:
        load_settings(**overrides)
    return list(caught.value.problems)


def test_defaults(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    settings = load_settings()
    assert settings.data_dir == tmp_path / "data"
    assert settings.database_url == f"sqlite:///{tmp_path}/data/clonejob.sqlite3"
    assert settings.broker_url == ""
    assert {name: target.type for name, target in settings.targets.items()} == {
        "local": "qemu",
        "simulated": "simulated",
    }
    assert settings.rest_url == "http://127.0.0.1:8080"
    assert not settings.data_dir.exists()


def test_every_setting_is_described_and_durations_carry_their_unit():
    for name, field in Settings.model_fields.items():
        assert field.description, name
        if field.annotation is float:
            assert name.endswith("_s"), name


def test_a_guest_that_is_not_seen_to_boot_is_described_as_no_failure():
    for model in (Settings, TargetSettings):
        text = model.model_fields["boot_timeout_s"].description
        assert text and "boot verdict UNKNOWN" in text and "fail" not in text


def test_environment_is_read_and_overrides_win(monkeypatch):
    monkeypatch.setenv("CLONEJOB_LEASE_S", "3.5")
    monkeypatch.setenv("CLONEJOB_REST_PORT", "9000")
    monkeypatch.setenv("CLONEJOB_PROJECT", "")
    monkeypatch.setenv("CLONEJOB_TARGETS", '{"lab": {"type": "qemu", "accel": "kvm"}}')
    settings = load_settings(rest_port=9001, project=None)
    assert (settings.lease_s, settings.rest_port, settings.project) == (3.5, 9001, "clonejob")
    assert settings.targets["lab"].options.accel == "kvm"


def test_a_wrong_value_is_one_sentence_for_each_field(monkeypatch):
    monkeypatch.setenv("CLONEJOB_REST_PORT", "abc")
    monkeypatch.setenv("CLONEJOB_LEASE_S", "-1")
    found = problems()
    assert found == [
        "CLONEJOB_REST_PORT: Input should be a valid integer, unable to parse string as an integer (got 'abc').",
        "CLONEJOB_LEASE_S: Input should be greater than 0 (got '-1').",
    ]


@pytest.mark.parametrize(
    ("variable", "value", "part"),
    [
        ("TARGETS", "{", "CLONEJOB_TARGETS: is not valid JSON"),
        ("TARGETS", "{}", "needs one target at least"),
        ("TARGETS", '{"A b": {"type": "qemu"}}', "needs one target at least"),
        ("TARGETS", '{"a": {"type": "floppy"}}', "CLONEJOB_TARGETS.a: no type 'floppy'; there are compute_engine, "),
        ("TARGETS", '{"a": {"type": "qemu", "acel": "kvm"}}', "CLONEJOB_TARGETS.a: type qemu: acel: extra inputs"),
        ("DATABASE_URL", "mysql://u:secret@h/d", "CLONEJOB_DATABASE_URL: must be sqlite:///FILE or postgresql://"),
        ("BROKER_URL", "localhost:6379", "CLONEJOB_BROKER_URL: must be a URL"),
        ("SERVER", "127.0.0.1:8080", "must start with http://"),
        ("PROJECT", "A/B", "CLONEJOB_PROJECT"),
        ("LOCATION", "Earth!", "CLONEJOB_LOCATION"),
        ("RETRY_PAUSE_S", "100", "retry_pause_s must not be longer than retry_pause_max_s"),
        ("CREATE_OPERATION", "later", "CLONEJOB_CREATE_OPERATION: Input should be 'created' or 'finished'"),
    ],
)
def test_what_is_refused(monkeypatch, variable, value, part):
    monkeypatch.setenv(f"CLONEJOB_{variable}", value)
    (sentence,) = problems()
    assert part in sentence
    assert "secret" not in sentence


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.com"])
@pytest.mark.parametrize("field", ["rest_host", "grpc_host"])
def test_an_address_that_others_reach_is_refused_without_credentials(field, host):
    (sentence,) = problems(**{field: host})
    assert sentence.startswith(f"CLONEJOB_{field.upper()}: '{host}' is not a loopback address; without credentials")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_is_accepted(host):
    assert load_settings(rest_host=host).rest_host == host


def test_redacted_shows_no_password(tmp_path):
    settings = load_settings(
        data_dir=tmp_path,
        database_url="postgresql://clone:s3cret@db/clonejob",
        broker_url="redis://:s3cret@127.0.0.1:6379/0",
    )
    shown = settings.redacted()
    assert "s3cret" not in json.dumps(shown)
    assert shown["database_url"] == "postgresql://clone:***@db/clonejob"
    assert shown["broker_url"] == "redis://:***@127.0.0.1:6379/0"
    assert redact_url("http://127.0.0.1:8080") == "http://127.0.0.1:8080"


def test_a_child_sees_the_same_settings(monkeypatch, tmp_path):
    monkeypatch.setenv("CLONEJOB_LEASE_S", "99")
    settings = load_settings(data_dir=tmp_path, lease_s=2.0, task_events=False, fault_plan=tmp_path / "plan.json")
    environment = child_environment(settings)
    assert environment["PYTHONPATH"].split(":")[0] == str(Path(__file__).parents[3])
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert load_settings() == settings


def test_a_misspelt_variable_is_named(monkeypatch):
    monkeypatch.setenv("CLONEJOB_LEASE_SECONDS", "1")
    assert unknown_variables() == ["CLONEJOB_LEASE_SECONDS"]
