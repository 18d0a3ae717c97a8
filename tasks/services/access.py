"""Principals, roles and permissions: who may do what, as data.

A principal is ``token:NAME`` (an access token of ours) or ``user:CLAIM`` (whom the OIDC provider vouches for). A role is
a set of permissions; a permission of the contract has the contract's name (``vmmigration.cloneJobs.create``), one of
our own additions starts with ``clonejob.``. Bindings say which principal has which role in which project.
"""

from __future__ import annotations

import datetime as dt
import fnmatch
import functools
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from models.access import AccessStore, BindingExists, RoleBinding, Token, TokenExists, secret_hash, token_principal
from tasks.errors import AlreadyExists, InvalidArgument, NotFound

TOKEN_PREFIX = "cj_"  # lets secret scanners and people recognise one # noqa: S105
_SECRET_BYTES = 32
EVERY_PROJECT = "*"
USE_TARGET = "clonejob.targetProjects.use"  # have clones created in a target project

_VIEWER = (
    "vmmigration.*.get",
    "vmmigration.*.list",
    "vmmigration.*.fetch*",
    "vmmigration.operations.wait",
    "clonejob.*.get",
    "clonejob.*.list",
)
_CLONER = (
    *_VIEWER,
    "vmmigration.cloneJobs.create",
    "vmmigration.cloneJobs.update",  # CancelCloneJob
    "vmmigration.operations.*",
    "clonejob.cloneJobs.*",
    USE_TARGET,
)
_EDITOR = (
    *_CLONER,
    "vmmigration.*",
    "clonejob.replicationCycles.*",
    "clonejob.migratingVms.*",
    "clonejob.targetProjects.*",
)
# Patterns, so that a method that is added to the contract's table has its place. ``admin`` may change access itself.
ROLES: Mapping[str, tuple[str, ...]] = {
    "viewer": _VIEWER,
    "cloner": _CLONER,
    "editor": _EDITOR,
    "admin": (*_EDITOR, "clonejob.*"),
}

_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_PROJECT = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_USER = re.compile(r"user:[^\s\x00-\x1f\x7f]{1,254}")


@functools.lru_cache(maxsize=4096)
def role_has(role: str, permission: str) -> bool:
    """Whether the role contains the permission; a role that no longer exists contains nothing."""
    return any(fnmatch.fnmatchcase(permission, pattern) for pattern in ROLES.get(role, ()))


@dataclass(frozen=True, slots=True)
class Grants:
    """The roles of one principal by project, as they were a moment ago."""

    roles: Mapping[str, frozenset[str]]

    def allow(self, permission: str, project: str) -> bool:
        """Whether one of the roles in the project, or in every project, has the permission."""
        held = self.roles.get(project, frozenset()) | self.roles.get(EVERY_PROJECT, frozenset())
        return any(role_has(role, permission) for role in held)


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token that was just made. ``secret`` is shown once and stored nowhere."""

    token: Token
    secret: str


class AccessService:
    """Tokens and bindings. Whoever holds one may keep what it read for a few seconds, no longer."""

    def __init__(self, store: AccessStore, *, users_are_emails: bool = False) -> None:
        """``users_are_emails``: users are known by the OIDC claim email, which is compared in lower case."""
        self._store = store
        self._users_are_emails = users_are_emails

    def authenticate(self, secret: str) -> str | None:
        """The principal of a token's secret, or None for one that is unknown, expired or revoked."""
        token = self._store.find_token(secret) if secret.startswith(TOKEN_PREFIX) else None
        return token_principal(token.name) if token is not None else None

    def grants(self, principal: str) -> Grants:
        """What the principal may do."""
        roles: dict[str, set[str]] = {}
        for row in self._store.bindings(principal):
            roles.setdefault(row.project, set()).add(row.role)
        return Grants({project: frozenset(held) for project, held in roles.items()})

    def create_token(
        self, name: str, *, project: str = "", role: str = "", lifetime: dt.timedelta | None = None
    ) -> NewToken:
        """Make a token, with a role in a project if one is named. Raises: InvalidArgument, AlreadyExists."""
        if not _NAME.fullmatch(name):
            raise InvalidArgument("name", f"{name[:80]!r} must be lower-case letters, digits and hyphens, at most 63")
        if bool(project) != bool(role):
            raise InvalidArgument("role", "name a project and a role, or neither")
        if role:
            check_binding(project, role)
        if lifetime is not None and lifetime <= dt.timedelta():
            raise InvalidArgument("expires", "must be later than now")
        secret = TOKEN_PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
        now = self._store.clock()
        token = Token(
            id=secrets.token_hex(6), name=name, secret_sha256=secret_hash(secret), last4=secret[-4:], create_time=now,
            expire_time=now + lifetime if lifetime is not None else None, revoke_time=None,
        )  # fmt: skip
        try:
            self._store.create_token(token, [(project, role)] if role else [])
        except TokenExists:
            raise AlreadyExists("Token", name) from None
        return NewToken(token, secret)

    def tokens(self) -> Sequence[Token]:
        """All tokens, newest first."""
        return self._store.tokens()

    def revoke_token(self, token: str) -> Token:
        """End a token, named by its name or id, and its roles. Raises: NotFound."""
        row = self._store.revoke_token(token)
        if row is None:
            raise NotFound("Token", token[:80], "; see `clonejob token list`")
        return row

    def grant(self, principal: str, project: str, role: str) -> None:
        """Bind a role. Raises: InvalidArgument; NotFound for a token that does not live; AlreadyExists."""
        self._check_principal(principal)
        principal = self.principal(principal)
        check_binding(project, role)
        if principal.startswith("token:") and not self._lives(principal):
            # Whoever got that name later would inherit the role.
            raise NotFound("Token", principal.removeprefix("token:"), "; create it first")
        try:
            self._store.grant(principal, project, role)
        except BindingExists:
            raise AlreadyExists("RoleBinding", f"{principal} {role} {project}") from None

    def revoke_role(self, principal: str, project: str, role: str) -> None:
        """Remove a binding. Raises: NotFound."""
        # A binding that is stored as it was written, from before another claim was chosen, can be removed, too.
        removed = [self._store.revoke_role(name, project, role) for name in {principal, self.principal(principal)}]
        if not any(removed):
            raise NotFound("RoleBinding", f"{principal[:80]} {role[:80]} {project[:80]}", "; see `clonejob role list`")

    def principal(self, written: str) -> str:
        """The principal as calls have it: ``user:Cat@Example.com`` is ``user:cat@example.com``."""
        return written.lower() if self._users_are_emails and written.startswith("user:") else written

    def bindings(self) -> Sequence[RoleBinding]:
        """All bindings."""
        return self._store.bindings()

    def _lives(self, principal: str) -> bool:
        return any(token_principal(row.name) == principal and row.revoke_time is None for row in self._store.tokens())

    @staticmethod
    def _check_principal(principal: str) -> None:
        kind, _, name = principal.partition(":")
        if not (kind == "token" and _NAME.fullmatch(name)) and not _USER.fullmatch(principal):
            raise InvalidArgument("principal", f"{principal[:80]!r} must be token:NAME or user:WHO")


def check_binding(project: str, role: str) -> None:
    """Raises: InvalidArgument for a role that does not exist or an impossible project."""
    if role not in ROLES:
        raise InvalidArgument("role", f"{role[:80]!r} is not one of {', '.join(ROLES)}")
    if project != EVERY_PROJECT and not _PROJECT.fullmatch(project):
        raise InvalidArgument("project", f"{project[:80]!r} is neither a project id nor {EVERY_PROJECT}")
