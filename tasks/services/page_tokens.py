"""Page tokens (AIP-158): opaque, URL-safe, encrypted and signed, bound to the list that they go on with.

A token is a Fernet message (AES-CBC with an HMAC-SHA256), so that nobody can read names in it or make one. Inside: a
digest of resource type, parent, filter and order, and the ordering values of the page's last row. Every API process
must have the same key: ``Runtime.page_token_key``. Tokens end after three days, as AIP-158 suggests.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import hashlib
import json
from typing import Any

from cryptography.fernet import Fernet, InvalidToken

from tasks.errors import InvalidArgument

LIFE_S = 3 * 24 * 3600
LEAST_KEY_BYTES = 32
_TIME = "t"  # marks a time among the values: {"t": "2026-01-31T12:00:00+00:00"}

Binding = tuple[str, str, str, str]  # resource type, parent, filter, order_by


class PageTokens:
    """Makes and reads tokens. Raises: ValueError for a key that is too short."""

    def __init__(self, key: bytes) -> None:
        if len(key) < LEAST_KEY_BYTES:
            raise ValueError(f"a page token key has at least {LEAST_KEY_BYTES} bytes")
        self._fernet = Fernet(base64.urlsafe_b64encode(hashlib.sha256(b"clonejob page token\0" + key).digest()))

    def make(self, binding: Binding, keys: tuple[Any, ...], now: dt.datetime) -> str:
        """The token of the page behind these keys."""
        values = [{_TIME: key.isoformat()} if isinstance(key, dt.datetime) else key for key in keys]
        text = json.dumps([_digest(binding), values], separators=(",", ":"))
        return self._fernet.encrypt_at_time(text.encode(), int(now.timestamp())).decode().rstrip("=")

    def read(self, token: str, binding: Binding, now: dt.datetime) -> tuple[Any, ...]:
        """The keys in the token. Raises: InvalidArgument, if it is not ours, too old, or of another list."""
        try:
            padded = token + "=" * (-len(token) % 4)
            text = self._fernet.decrypt_at_time(padded.encode("ascii"), LIFE_S, int(now.timestamp()))
        except (InvalidToken, binascii.Error, ValueError):
            raise InvalidArgument(
                "page_token", "was not issued by this service, or is older than three days; start again without one",
                reason="PAGE_TOKEN_INVALID",
            ) from None  # fmt: skip
        digest, values = json.loads(text)
        if digest != _digest(binding):
            raise InvalidArgument(
                "page_token",
                "belongs to another list: parent, filter and order_by must stay as they were; start again without one",
                reason="PAGE_TOKEN_MISMATCH",
            )
        return tuple(dt.datetime.fromisoformat(v[_TIME]) if isinstance(v, dict) else v for v in values)


def _digest(binding: Binding) -> str:
    return hashlib.sha256(json.dumps(binding).encode()).hexdigest()[:32]
