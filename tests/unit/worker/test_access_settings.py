"""Which combinations of addresses, credentials and TLS are served, and what is said of the others."""

from __future__ import annotations

import pytest

from worker.access import build_gate
from worker.settings import SettingsError, child_environment, load_settings

OIDC = {"auth_oidc_issuer": "https://id", "auth_oidc_audience": "clonejob", "auth_oidc_jwks": "https://id/jwks"}
TLS = {"tls_cert_file": "cert.pem", "tls_key_file": "key.pem"}


def problem(**overrides):
    with pytest.raises(SettingsError) as caught:
        load_settings(**overrides)
    (sentence,) = caught.value.problems
    return sentence


@pytest.mark.parametrize("auth", [{"auth_tokens": True}, OIDC])
@pytest.mark.parametrize("plain", [TLS, {"allow_plaintext": True}])
def test_credentials_and_tls_open_other_addresses(auth, plain):
    settings = load_settings(rest_host="0.0.0.0", grpc_host="::", **auth, **plain)
    assert settings.credentials_needed
    assert settings.rest_url.endswith("://127.0.0.1:8080") and settings.grpc_address == "[::1]:8081"


def test_without_tls_other_addresses_stay_closed():
    assert "without TLS whoever is on the way can read the tokens" in problem(rest_host="0.0.0.0", auth_tokens=True)
    assert "without credentials configured" in problem(rest_host="0.0.0.0", **TLS)


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"auth_oidc_issuer": "https://id"}, "needs CLONEJOB_AUTH_OIDC_AUDIENCE"),
        ({"auth_oidc_audience": "x"}, "need CLONEJOB_AUTH_OIDC_ISSUER"),
        ({**OIDC, "auth_oidc_jwks": "http://id.example.com/jwks"}, "must be an https URL"),
        ({**OIDC, "auth_oidc_algorithms": "HS256"}, "never none, never HMAC"),
        ({**OIDC, "auth_oidc_algorithms": "RS256,none"}, "never none, never HMAC"),
        ({**OIDC, "auth_oidc_algorithms": ""}, "must be some of"),
        ({"tls_cert_file": "x"}, "need each other"),
    ],
)
def test_halves_are_refused(given, part):
    assert part in problem(**given)


def test_the_gate_is_open_only_without_credentials(tmp_path):
    assert build_gate(load_settings(), None).open
    assert not build_gate(load_settings(auth_tokens=True), object()).open
    assert not build_gate(load_settings(**OIDC), object()).open


def test_the_command_lines_token_is_shown_to_nobody(monkeypatch, tmp_path):
    monkeypatch.setenv("CLONEJOB_TOKEN", "cj_secret")
    settings = load_settings(data_dir=tmp_path)
    assert settings.sent_token() == "cj_secret"
    assert settings.redacted()["token"] == "***"
    assert not any("cj_secret" in value for value in child_environment(settings).values())
    (tmp_path / "token").write_text("cj_filed\n")
    monkeypatch.delenv("CLONEJOB_TOKEN")
    assert load_settings(token_file=tmp_path / "token").sent_token() == "cj_filed"
