"""``clonejob token`` and ``clonejob role`` on a real database, and the token that commands send."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def prepared(clonejob):
    assert clonejob("db", "upgrade").code == 0
    return clonejob


def test_a_token_is_printed_once(prepared):
    made = prepared("token", "create", "ci", "--project", "p", "--role", "cloner", "--expires", "30d")
    assert made.code == 0, made.err
    secret = made.out.strip()
    assert secret.startswith("cj_") and "\n" not in secret and secret not in made.err
    assert "it is cloner in project p" in made.err
    listed = prepared("token", "list")
    assert secret not in listed.out and f"…{secret[-4:]}" in listed.out and "LIVE" in listed.out
    assert "token:ci  p        cloner" in prepared("role", "list").out
    assert prepared("token", "create", "ci").code == 5
    assert prepared("token", "revoke", "ci").code == 0
    assert "REVOKED" in prepared("token", "list").out and "token:ci" not in prepared("role", "list").out
    assert prepared("token", "revoke", "ci").code == 4


def test_roles(prepared):
    assert prepared("role", "grant", "user:ann@example.com", "viewer", "--everywhere").code == 0
    assert prepared("role", "grant", "user:ann@example.com", "editor", "--project", "p").code == 0
    found = json.loads(prepared("role", "list", "--json").out)["bindings"]
    assert [(b["project"], b["role"]) for b in found] == [("*", "viewer"), ("p", "editor")]
    assert prepared("role", "revoke", "user:ann@example.com", "editor", "--project", "p").code == 0
    assert prepared("role", "revoke", "user:ann@example.com", "editor", "--project", "p").code == 4
    assert prepared("role", "grant", "token:nobody", "viewer").code == 4
    assert prepared("role", "grant", "ann", "viewer").code == 2
    assert prepared("role", "grant", "user:ann", "root").code == 2


def test_an_email_is_granted_as_calls_will_have_it(prepared, monkeypatch):
    monkeypatch.setenv("CLONEJOB_AUTH_OIDC_CLAIM", "email")
    assert "user:cat@example.com is viewer" in prepared("role", "grant", "user:CAT@Example.com", "viewer").out
    assert "user:cat@example.com" in prepared("role", "list").out
    assert prepared("role", "revoke", "user:Cat@Example.com", "viewer").code == 0


@pytest.mark.parametrize("lifetime", ["30", "d", "-1d", "1y", "999999999d", "0d"])
def test_lifetimes_that_are_none(prepared, lifetime):
    assert prepared("token", "create", "x", f"--expires={lifetime}").code == 2


def test_without_a_schema_it_says_what_to_do(clonejob):
    result = clonejob("token", "list", "--data-dir", "nowhere")
    assert result.code == 1 and "clonejob db upgrade" in result.err


def test_commands_send_the_token_but_never_in_the_clear(clonejob, stub, monkeypatch):
    stub.on("GET", "/v1/projects/clonejob/locations/global/sources/-/migratingVms/-/cloneJobs", {})
    stub.on("GET", "/v1/projects/clonejob/locations/global/sources/-/migratingVms", {})
    monkeypatch.setenv("CLONEJOB_TOKEN", "cj_secret")
    clonejob("vm", "list", "--server", stub.url)
    assert stub.calls and all(call.headers["Authorization"] == "Bearer cj_secret" for call in stub.calls)
    refused = clonejob("vm", "list", "--server", "http://clonejob.example.com")
    assert refused.code == 2 and "no token is sent to http://clonejob.example.com" in refused.err
    assert "cj_secret" not in refused.err
