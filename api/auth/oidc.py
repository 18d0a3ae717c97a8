"""Tokens of an OpenID Connect provider: JWTs, verified against its published keys.

By RFC 8725 (best current practices for JWT): algorithms are a list of ours and never the token's choice, ``none`` and
HMAC are not on it (3.1); a key serves only the family that its type says (3.1); issuer, audience and expiry must be
there and must be ours (3.8, 3.9); ``jku``, ``x5u`` and ``jwk`` in a token's header are never followed (3.10). PyJWT does
the cryptography.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from api.auth.errors import InvalidCredentials
from tasks.errors import Unavailable

if TYPE_CHECKING:
    import jwt

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_KEY_TYPES = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
_CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}
_MIN_RSA_BITS = 2048  # RFC 7518 §3.3
_FRESH_SECONDS = 300.0  # keys are asked for again after that
_AGAIN_SECONDS = 10.0  # and, for a key id that is not known, not more often than that
_STALE_SECONDS = 3600.0  # keys of a provider that does not answer are used no longer than that
_FETCH_TIMEOUT_SECONDS = 5.0
_PATIENCE_SECONDS = 2.0  # how long a call waits for another one that is fetching the keys
_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_MAX_KEYS_BYTES = 1 << 20
_MAX_PRINCIPAL = 254

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OidcConfig:
    """Whom to believe. ``keys`` is the JWKS: an https URL, or a file that is read again when it changes."""

    issuer: str
    audience: str
    keys: str
    algorithms: tuple[str, ...] = ("RS256", "ES256")
    claim: str = "sub"
    leeway_seconds: float = 30.0


class OidcVerifier:
    """Thread-safe; may block while keys are fetched."""

    def __init__(
        self,
        config: OidcConfig,
        *,
        fetch: Callable[[str], bytes] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if unknown := set(config.algorithms) - set(ALGORITHMS):
            raise ValueError(f"algorithms not allowed: {', '.join(sorted(unknown))}")
        self._config = config
        self._keys = _Keys(config.keys, fetch or read_keys, clock)

    def principal(self, token: str) -> str:
        """``user:CLAIM`` of a token that holds. Raises: InvalidCredentials; Unavailable when there are no keys."""
        import jwt

        config = self._config
        try:
            header = jwt.get_unverified_header(token)
            algorithm = header.get("alg")
            if algorithm not in config.algorithms:
                raise InvalidCredentials(f"JWTs must be signed with one of {', '.join(config.algorithms)}")
            if "crit" in header:
                raise InvalidCredentials("the JWT has critical extensions, of which none is supported")
            claims: dict[str, Any] = jwt.decode(
                token,
                key=self._keys.find(header.get("kid"), algorithm),
                algorithms=[algorithm],
                audience=config.audience,
                issuer=config.issuer,
                leeway=config.leeway_seconds,
                options={"require": ["exp", "iss", "aud", config.claim]},
            )
        except jwt.PyJWTError as error:
            raise InvalidCredentials(_why(error)) from None
        return f"user:{self._claim(claims)}"

    def _claim(self, claims: dict[str, Any]) -> str:
        name = self._config.claim
        value = claims.get(name)
        if (
            not isinstance(value, str)
            or not value.isprintable()
            or " " in value
            or not 0 < len(value) <= _MAX_PRINCIPAL
        ):
            raise InvalidCredentials(f"the JWT's claim {name} is not a short text")
        if name != "email":
            return value
        if claims.get("email_verified") is not True:  # OpenID Connect Core §5.7: unverified, anybody may claim it
            raise InvalidCredentials("the JWT's email is not verified (email_verified)")
        return value.lower()


def read_keys(where: str) -> bytes:
    """The JWKS at an address or in a file. Raises: OSError."""
    if "://" not in where:
        return Path(where).read_bytes()
    import httpx

    try:
        with httpx.stream("GET", where, timeout=_FETCH_TIMEOUT_SECONDS, follow_redirects=False) as response:
            response.raise_for_status()
            parts, size = [], 0
            for chunk in response.iter_bytes():
                size += len(chunk)
                if size > _MAX_KEYS_BYTES:
                    raise OSError(f"{where} is larger than {_MAX_KEYS_BYTES} bytes")
                parts.append(chunk)
            return b"".join(parts)
    except httpx.HTTPError as error:
        raise OSError(f"{where}: {error}") from error


@dataclass(frozen=True, slots=True)
class _Key:
    """One public key, as published. PyJWT binds a key to one algorithm, so it is made when an algorithm is known."""

    data: dict[str, Any]

    def fits(self, kid: Any, algorithm: str) -> bool:
        """Whether it may check this algorithm: its id, its family, its curve, and what it says itself."""
        data = self.data
        if kid is not None and data.get("kid") != kid:
            return False
        if data["kty"] != _KEY_TYPES[algorithm[:2]] or data.get("alg", algorithm) != algorithm:
            return False
        return algorithm not in _CURVES or data.get("crv") == _CURVES[algorithm]

    def load(self, algorithm: str) -> jwt.PyJWK:
        """Raises: jwt.PyJWTError; InvalidCredentials for an RSA key that is too short."""
        import jwt

        key = jwt.PyJWK(self.data, algorithm)
        if self.data["kty"] == "RSA" and key.key.key_size < _MIN_RSA_BITS:
            raise InvalidCredentials(f"the JWT is signed with an RSA key of less than {_MIN_RSA_BITS} bits")
        return key


class _Keys:
    """The provider's keys: kept, asked for again in time, and when a token names one that is not known (rotation)."""

    def __init__(self, where: str, fetch: Callable[[str], bytes], clock: Callable[[], float]) -> None:
        self._where = where
        self._fetch = fetch
        self._clock = clock
        self._fresh_seconds = _FRESH_SECONDS if "://" in where else _AGAIN_SECONDS
        self._lock = threading.Lock()
        self._found: list[_Key] = []
        self._good_at: float | None = None
        self._tried_at: float | None = None

    def find(self, kid: Any, algorithm: str) -> jwt.PyJWK:
        """Raises: InvalidCredentials, Unavailable, jwt.PyJWTError."""
        if self._is_older(self._good_at, self._fresh_seconds):
            self._refresh(patient=not self._found)
        key = self._match(kid, algorithm)
        if key is None:
            self._refresh(patient=True)
            key = self._match(kid, algorithm)
        if self._is_older(self._good_at, _STALE_SECONDS):
            raise Unavailable("the keys of the identity provider cannot be read; try again", reason="KEYS_UNAVAILABLE")
        if key is None:
            raise InvalidCredentials("the JWT is signed with a key that the identity provider does not publish")
        return key.load(algorithm)

    def _match(self, kid: Any, algorithm: str) -> _Key | None:
        """The key of that id which may sign so; without an id only if there is exactly one."""
        fitting = [key for key in self._found if key.fits(kid, algorithm)]
        return fitting[0] if len(fitting) == 1 else None

    def _is_older(self, since: float | None, seconds: float) -> bool:
        return since is None or self._clock() - since > seconds

    def _refresh(self, *, patient: bool) -> None:
        """Ask again, unless that was done a moment ago. Another thread that asks is waited for only if ``patient``."""
        if not self._lock.acquire(timeout=_PATIENCE_SECONDS if patient else 0.0):
            return
        try:
            if self._is_older(self._tried_at, _AGAIN_SECONDS):
                self._tried_at = self._clock()
                self._found = _parse(self._fetch(self._where))
                self._good_at = self._clock()
        except (OSError, ValueError) as error:
            log.error("the keys of the identity provider cannot be read: %s", error)  # noqa: TRY400
        finally:
            self._lock.release()


def _parse(raw: bytes) -> list[_Key]:
    """Public keys for signatures; others are passed over. Raises: ValueError."""
    document = json.loads(raw)
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ValueError("it is not a JWKS: no list of keys")  # noqa: TRY004
    return [
        _Key({name: value for name, value in entry.items() if name not in _PRIVATE})
        for entry in entries
        if isinstance(entry, dict) and entry.get("use", "sig") == "sig" and entry.get("kty") in _KEY_TYPES.values()
    ]


def _why(error: Exception) -> str:
    """PyJWT's reason in words that name no secret: its messages hold claim names, never values of ours."""
    return f"{type(error).__name__.removesuffix('Error')} ({str(error)[:200]})"
