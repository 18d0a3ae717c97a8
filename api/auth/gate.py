"""The gate that every call passes before anything is looked up: who calls, and may they?

Permissions are checked on names alone, before the resource is looked for, so that an answer says nothing of what exists
(AIP-211). A project always has a name (``projects/-`` is refused), so one check covers lists over ``-`` as well.
What was looked up is kept for ``CACHE_SECONDS``: so long, at most, a revoked token or role still works.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Protocol, TypeVar

from api.auth.cache import BriefCache
from api.auth.errors import InvalidCredentials, PermissionDenied, Unauthenticated
from api.names import shown
from tasks.errors import InvalidArgument
from tasks.services.access import TOKEN_PREFIX, Grants

T = TypeVar("T")
ANYONE = "anyone"  # the principal of every call, as long as no credentials are asked for
_PROJECT = re.compile(r"projects/([a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?)(?:/[\s\S]*)?")
_BEARER = re.compile(r"(?i:bearer) +([A-Za-z0-9\-._~+/]+=*) *")  # RFC 6750 §2.1; the scheme in any case, RFC 9110 §11.1
_TOKEN_WRONG = "the token is unknown, expired or revoked"  # noqa: S105


class Access(Protocol):
    """The part of tasks.services.access.AccessService that is needed here. Calls may block."""

    def authenticate(self, secret: str) -> str | None: ...
    def grants(self, principal: str) -> Grants: ...


class Verifier(Protocol):
    """Verifies tokens of others (``api.auth.oidc``). Calls may block."""

    def principal(self, token: str) -> str: ...


class Gate:
    """One per process, used in its event loop. Without ``access`` no credentials are asked for and all is allowed."""

    def __init__(self, access: Access | None = None, *, tokens: bool = True, verifier: Verifier | None = None) -> None:
        self._access = access
        self._tokens = tokens
        self._verifier = verifier
        self._principals: BriefCache[bytes, str] = BriefCache()
        self._grants: BriefCache[str, Grants] = BriefCache()

    @property
    def open(self) -> bool:
        """Whether anybody may do anything; then only loopback is served."""
        return self._access is None

    async def admit(self, authorization: Sequence[str], executor: Executor) -> str:
        """The principal of the call that carries these Authorization headers.

        Raises: Unauthenticated; Unavailable when credentials cannot be checked now.
        """
        if self._access is None:
            return ANYONE
        if not authorization:
            raise Unauthenticated
        match = _BEARER.fullmatch(authorization[0]) if len(authorization) == 1 else None
        if match is None:
            raise InvalidCredentials("send one header of the form `Authorization: Bearer TOKEN`")
        secret = match[1]
        key = hashlib.sha256(secret.encode()).digest()
        principal = self._principals.get(key)
        if principal is None:
            principal = await _run(executor, self._authenticate, secret)
            self._principals.put(key, principal)
        return principal

    async def check(
        self, principal: str, permission: str, resource: str, executor: Executor, *, field: str = "name"
    ) -> None:
        """Let the principal pass if it has the permission in the project of ``resource``.

        Raises: PermissionDenied; InvalidArgument for a resource that names no project, whether it exists or not.
        """
        if self._access is None:
            return
        match = _PROJECT.fullmatch(resource)
        if match is None:
            said = f"{shown(resource)} is not a name of the form projects/PROJECT/…" if resource else "is required"
            raise InvalidArgument(field, said, reason="INVALID_RESOURCE_NAME" if resource else "REQUIRED_FIELD")
        grants = self._grants.get(principal)
        if grants is None:
            grants = await _run(executor, self._access.grants, principal)
            self._grants.put(principal, grants)
        if not grants.allow(permission, match[1]):
            raise PermissionDenied(permission, resource)

    def _authenticate(self, secret: str) -> str:
        assert self._access is not None
        if secret.startswith(TOKEN_PREFIX) and self._tokens:
            principal = self._access.authenticate(secret)
            if principal is None:
                raise InvalidCredentials(_TOKEN_WRONG)
            return principal
        if self._verifier is None:
            raise InvalidCredentials(_TOKEN_WRONG)
        return self._verifier.principal(secret)


async def _run(executor: Executor, function: Callable[[str], T], argument: str) -> T:
    return await asyncio.get_running_loop().run_in_executor(executor, function, argument)
