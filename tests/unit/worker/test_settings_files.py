"""Secrets that are read from files."""

from __future__ import annotations

import json

import pytest

from worker.settings import SettingsError, child_environment, load_settings


@pytest.fixture
def secret(tmp_path):
    def made(name: str, text: str) -> str:
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return made


def refusal() -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings()
    return str(caught.value)


def test_a_password_is_put_into_its_url_whatever_it_holds(monkeypatch, secret):
    monkeypatch.setenv("CLONEJOB_DATABASE_URL", "postgresql://clonejob@postgres/clonejob?sslmode=disable")
    monkeypatch.setenv("CLONEJOB_DATABASE_PASSWORD_FILE", secret("db", "p@ss/w:rd%\n"))
    monkeypatch.setenv("CLONEJOB_BROKER_URL", "redis://redis:6379/0")
    monkeypatch.setenv("CLONEJOB_BROKER_PASSWORD_FILE", secret("broker", "s3cret"))
    settings = load_settings()
    assert settings.database_url == "postgresql://clonejob:p%40ss%2Fw%3Ard%25@postgres/clonejob?sslmode=disable"
    assert settings.broker_url == "redis://:s3cret@redis:6379/0"
    assert "s3cret" not in json.dumps(settings.redacted())


def test_a_whole_setting_is_read_from_its_file(monkeypatch, secret):
    monkeypatch.setenv("CLONEJOB_DATABASE_URL_FILE", secret("url", "postgresql://u:p@db/n\n"))
    monkeypatch.setenv("CLONEJOB_PAGE_TOKEN_KEY_FILE", secret("key", "k" * 40))
    settings = load_settings()
    assert (settings.database_url, settings.page_token_key) == ("postgresql://u:p@db/n", "k" * 40)


def test_a_child_reads_the_files_itself(monkeypatch, secret):
    path = secret("broker", "s3cret")
    monkeypatch.setenv("CLONEJOB_BROKER_URL", "amqp://clonejob@rabbitmq//")
    monkeypatch.setenv("CLONEJOB_BROKER_PASSWORD_FILE", path)
    monkeypatch.setenv("CLONEJOB_DATABASE_URL_FILE", secret("url", "postgresql://u:hidden@db/n"))
    environment = child_environment(load_settings())
    assert environment["CLONEJOB_BROKER_URL"] == "amqp://clonejob@rabbitmq//"
    assert environment["CLONEJOB_BROKER_PASSWORD_FILE"] == path
    assert not [value for value in environment.values() if "s3cret" in value or "hidden" in value]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert load_settings().broker_url == "amqp://clonejob:s3cret@rabbitmq//"


def test_a_file_that_is_not_there_is_named_with_its_setting(monkeypatch, tmp_path):
    monkeypatch.setenv("CLONEJOB_BROKER_URL", "redis://redis:6379/0")
    monkeypatch.setenv("CLONEJOB_BROKER_PASSWORD_FILE", f"{tmp_path}/none")
    assert refusal() == (
        f"CLONEJOB_BROKER_PASSWORD_FILE: {tmp_path}/none cannot be read (No such file or directory); make it, or check "
        "its owner and mode."
    )


@pytest.mark.parametrize("text", ["", "\n", "two\nlines", "x" * 20_000])
def test_what_is_no_secret_is_refused_and_not_shown(monkeypatch, secret, text):
    monkeypatch.setenv("CLONEJOB_DATABASE_URL_FILE", secret("url", text))
    assert "must hold one line" in refusal() and "two" not in refusal()


def test_two_sources_of_one_secret_are_refused(monkeypatch, secret):
    monkeypatch.setenv("CLONEJOB_BROKER_URL", "redis://:one@redis:6379/0")
    monkeypatch.setenv("CLONEJOB_BROKER_PASSWORD_FILE", secret("broker", "other"))
    assert "has a password" in refusal()
    monkeypatch.setenv("CLONEJOB_BROKER_URL_FILE", secret("url", "redis://redis"))
    assert "both set" in refusal()
    monkeypatch.delenv("CLONEJOB_BROKER_URL")
    monkeypatch.delenv("CLONEJOB_BROKER_URL_FILE")
    assert "needs CLONEJOB_BROKER_URL with a host" in refusal()
