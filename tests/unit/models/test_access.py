"""Tokens and role bindings, on both databases."""

from __future__ import annotations

import datetime as dt

import pytest
import sqlalchemy as sa
from harness import Clock

from models import migrate
from models.access import AccessStore, secret_hash
from models.db import make_engine
from tasks.errors import AlreadyExists, InvalidArgument, NotFound
from tasks.services.access import ROLES, USE_TARGET, AccessService, role_has


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def engine(database_url):
    engine = make_engine(database_url)
    migrate.upgrade(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def access(engine, clock):
    return AccessService(AccessStore(engine, clock=clock))


def test_a_secret_is_shown_once_and_stored_nowhere(access, engine):
    made = access.create_token("ci", project="p", role="cloner")
    assert made.secret.startswith("cj_") and len(made.secret) >= 46
    assert access.authenticate(made.secret) == "token:ci"
    with engine.connect() as connection:
        stored = str(connection.execute(sa.text("SELECT * FROM tokens")).all())
    assert made.secret not in stored and made.secret[3:] not in stored and secret_hash(made.secret) in stored
    (row,) = access.tokens()
    assert (row.name, row.last4) == ("ci", made.secret[-4:])
    assert row.id not in made.secret


def test_expiry_and_revocation(access, clock):
    brief = access.create_token("brief", lifetime=dt.timedelta(days=30))
    clock.advance(30 * 86400 - 1)
    assert access.authenticate(brief.secret) == "token:brief"
    clock.advance(1)
    assert access.authenticate(brief.secret) is None
    lasting = access.create_token("lasting", project="p", role="viewer")
    assert access.revoke_token("lasting").id == lasting.token.id
    assert access.authenticate(lasting.secret) is None
    with pytest.raises(NotFound):
        access.revoke_token("lasting")


def test_a_name_that_is_given_away_again_inherits_nothing(access):
    first = access.create_token("ci", project="p", role="admin")
    with pytest.raises(AlreadyExists):
        access.create_token("ci")
    access.revoke_token(first.token.id)
    second = access.create_token("ci")
    assert access.authenticate(first.secret) is None and access.authenticate(second.secret) == "token:ci"
    assert not access.grants("token:ci").allow("vmmigration.cloneJobs.get", "p")
    with pytest.raises(NotFound, match="create it first"):
        access.grant("token:later", "p", "viewer")


def test_grants_are_per_project_and_the_star_is_every_project(access):
    access.grant("user:ann@example.com", "p", "cloner")
    access.grant("user:ann@example.com", "*", "viewer")
    grants = access.grants("user:ann@example.com")
    assert grants.allow("vmmigration.cloneJobs.create", "p") and not grants.allow("vmmigration.cloneJobs.create", "q")
    assert grants.allow("vmmigration.cloneJobs.get", "q")
    access.revoke_role("user:ann@example.com", "*", "viewer")
    assert not access.grants("user:ann@example.com").allow("vmmigration.cloneJobs.get", "q")
    with pytest.raises(NotFound):
        access.revoke_role("user:ann@example.com", "*", "viewer")
    with pytest.raises(AlreadyExists):
        access.grant("user:ann@example.com", "p", "cloner")


@pytest.mark.parametrize(
    ("who", "project", "role"),
    [("ann", "p", "viewer"), ("user:", "p", "viewer"), ("user:a b", "p", "viewer"), ("token:A", "p", "viewer"),
     ("user:a", "p/q", "viewer"), ("user:a", "-", "viewer"), ("user:a", "", "viewer"), ("user:a", "p", "root")],
)  # fmt: skip
def test_impossible_bindings_are_refused(access, who, project, role):
    with pytest.raises(InvalidArgument):
        access.grant(who, project, role)


@pytest.mark.parametrize(
    "wrong", [{"name": "A"}, {"name": ""}, {"name": "a", "project": "p"}, {"name": "a", "role": "viewer"},
              {"name": "a", "project": "p", "role": "root"}, {"name": "a", "lifetime": dt.timedelta()}]
)  # fmt: skip
def test_impossible_tokens_are_refused(access, wrong):
    with pytest.raises(InvalidArgument):
        access.create_token(**wrong)
    assert access.tokens() == []


@pytest.mark.parametrize("nonsense", ["", "cj_", "cj_x", "ci", "token:ci", "cj_\ud800", "x" * 100_000])
def test_what_is_no_token_authenticates_nobody(access, nonsense):
    access.create_token("ci")
    assert access.authenticate(nonsense) is None


def test_every_permission_of_the_tables_has_its_roles():
    from api.additions import ADDITIONS, EVIDENCE, UPLOADS
    from api.methods import METHODS

    permissions = {method.permission for method in METHODS} | {
        each.permission for each in (*ADDITIONS, *EVIDENCE, *UPLOADS)
    }
    permissions.add(USE_TARGET)
    reading = ("get", "list", "wait", "fetchInventory", "fetchStorageInventory")
    of_operators = {"clonejob.targets.audit", "clonejob.targets.deleteOrphans"}
    for permission in of_operators:
        assert permission in permissions and role_has("admin", permission)
        assert not any(role_has(role, permission) for role in ("viewer", "cloner", "editor")), permission
    for permission in permissions - of_operators:
        assert role_has("editor", permission) and role_has("admin", permission), permission
        assert role_has("viewer", permission) == (permission.rpartition(".")[2] in reading), permission
        if role_has("viewer", permission):
            assert role_has("cloner", permission)
    cloners = {p for p in permissions if role_has("cloner", p) and not role_has("viewer", p)}
    assert cloners == {"vmmigration.cloneJobs.create", "vmmigration.cloneJobs.update", "vmmigration.operations.cancel",
                       "vmmigration.operations.delete", USE_TARGET}  # fmt: skip
    assert not role_has("gone", "vmmigration.cloneJobs.get")
    assert not role_has("editor", "clonejob.access.manage") and role_has("admin", "clonejob.access.manage")
    assert set(ROLES) == {"viewer", "cloner", "editor", "admin"}


def test_emails_are_compared_in_lower_case_as_the_verifier_has_them(engine, clock):
    emails = AccessService(AccessStore(engine, clock=clock), users_are_emails=True)
    emails.grant("user:CAT@Example.com", "p", "viewer")
    assert emails.grants("user:cat@example.com").allow("vmmigration.cloneJobs.get", "p")
    emails.revoke_role("user:Cat@example.com", "p", "viewer")
    assert not emails.bindings()


def test_other_claims_keep_their_case_and_old_bindings_can_go(access, engine, clock):
    access.grant("user:Ab|C@x", "p", "viewer")
    assert not access.grants("user:ab|c@x").allow("vmmigration.cloneJobs.get", "p")
    AccessService(AccessStore(engine, clock=clock), users_are_emails=True).revoke_role("user:Ab|C@x", "p", "viewer")
    assert not access.bindings()
