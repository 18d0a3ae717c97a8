"""The settings of who may reach the service, and how: addresses, TLS, credentials. ``worker.settings`` reads them."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings

_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - told apart here, not listened on


class AccessSettings(BaseSettings):
    """A part of ``Settings``. The order counts: an address is judged by the settings above it."""

    auth_tokens: bool = Field(
        default=False, description="Ask for credentials, and take access tokens (`clonejob token create`)."
    )
    auth_oidc_issuer: str = Field(
        default="", description="Ask for credentials, and take JWTs of this OpenID Connect issuer (claim iss)."
    )
    auth_oidc_audience: str = Field(default="", description="The audience that such a JWT must name (claim aud).")
    auth_oidc_jwks: str = Field(default="", description="The issuer's public keys (JWKS): an https URL or a file.")
    auth_oidc_algorithms: str = Field(
        default="RS256,ES256", description="Signature algorithms that are taken, with commas between."
    )
    auth_oidc_claim: Literal["sub", "email"] = Field(
        default="sub", description="The claim that names the user; an email must be verified (email_verified)."
    )
    auth_oidc_leeway_s: float = Field(
        default=30.0, ge=0, le=300, description="Seconds by which the issuer's clock may differ."
    )
    tls_cert_file: Path | None = Field(default=None, description="Certificate chain (PEM) of both front ends.")
    tls_key_file: Path | None = Field(default=None, description="Its private key (PEM, without a password).")
    allow_plaintext: bool = Field(
        default=False, description="Allow addresses other than loopback without TLS, because a proxy has it."
    )

    rest_host: str = Field(default="127.0.0.1", description="Address of the REST front end.")
    rest_port: int = Field(default=8080, ge=0, le=65535, description="Port of the REST front end; 0: any free port.")
    grpc_host: str = Field(default="127.0.0.1", description="Address of the gRPC front end.")
    grpc_port: int = Field(default=8081, ge=0, le=65535, description="Port of the gRPC front end; 0: any free port.")
    max_connections: int = Field(default=500, ge=1, le=100_000, description="Open connections per front end.")

    server: str = Field(default="http://127.0.0.1:8080", description="REST address that the command line talks to.")
    token: str = Field(default="", description="Access token or JWT that the command line sends.")
    token_file: Path | None = Field(default=None, description="File that holds it; used when token is empty.")
    ca_file: Path | None = Field(default=None, description="CA certificates (PEM) that the command line trusts.")

    @field_validator("auth_oidc_algorithms")
    @classmethod
    def _algorithms(cls, value: str) -> str:
        names = [name.strip() for name in value.split(",") if name.strip()]
        if not names or set(names) - set(_ALGORITHMS):
            raise ValueError(f"must be some of {', '.join(_ALGORITHMS)} (never none, never HMAC)")
        return ",".join(names)

    @field_validator("auth_oidc_jwks")
    @classmethod
    def _jwks(cls, value: str) -> str:
        if "://" in value:
            parts = urlsplit(value)
            if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname or "")):
                raise ValueError("must be an https URL or a file: whoever can change the keys can be anybody")
        return value

    @field_validator("server")
    @classmethod
    def _server(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError("must start with http:// or https://")
        return value.rstrip("/")

    @field_validator("rest_host", "grpc_host")
    @classmethod
    def _reachable(cls, value: str, info: ValidationInfo) -> str:
        if is_loopback(value):
            return value
        given = info.data
        if not (given.get("auth_tokens") or given.get("auth_oidc_issuer")):
            raise ValueError(
                f"{value!r} is not a loopback address; without credentials configured the service listens on loopback "
                "only, because any caller may do anything; use 127.0.0.1, or set CLONEJOB_AUTH_TOKENS=1 or "
                "CLONEJOB_AUTH_OIDC_ISSUER (docs/access.md)"
            )
        if given.get("tls_cert_file") is None and not given.get("allow_plaintext"):
            raise ValueError(
                f"{value!r} is not a loopback address; without TLS whoever is on the way can read the tokens; set "
                "CLONEJOB_TLS_CERT_FILE and CLONEJOB_TLS_KEY_FILE, or CLONEJOB_ALLOW_PLAINTEXT=1 behind a proxy that "
                "has TLS"
            )
        return value

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.auth_oidc_issuer and not (self.auth_oidc_audience and self.auth_oidc_jwks):
            raise ValueError("CLONEJOB_AUTH_OIDC_ISSUER needs CLONEJOB_AUTH_OIDC_AUDIENCE and CLONEJOB_AUTH_OIDC_JWKS")
        if not self.auth_oidc_issuer and (self.auth_oidc_audience or self.auth_oidc_jwks):
            raise ValueError("CLONEJOB_AUTH_OIDC_AUDIENCE and CLONEJOB_AUTH_OIDC_JWKS need CLONEJOB_AUTH_OIDC_ISSUER")
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("CLONEJOB_TLS_CERT_FILE and CLONEJOB_TLS_KEY_FILE need each other")
        return self

    @property
    def credentials_needed(self) -> bool:
        """Whether calls must carry credentials."""
        return self.auth_tokens or bool(self.auth_oidc_issuer)

    @property
    def rest_url(self) -> str:
        """Base address of the REST front end, as this machine reaches it."""
        scheme = "http" if self.tls_cert_file is None else "https"
        return f"{scheme}://{_bracketed(_WILDCARDS.get(self.rest_host, self.rest_host))}:{self.rest_port}"

    @property
    def grpc_address(self) -> str:
        """``host:port`` of the gRPC front end, as this machine reaches it."""
        return f"{_bracketed(_WILDCARDS.get(self.grpc_host, self.grpc_host))}:{self.grpc_port}"

    def sent_token(self) -> str:
        """The token of the command line. Raises: OSError when its file cannot be read."""
        if self.token or self.token_file is None:
            return self.token
        return self.token_file.expanduser().read_text(encoding="utf-8").strip()


def is_loopback(host: str) -> bool:
    """Whether an address reaches this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def without_command_line(values: dict[str, Any]) -> dict[str, Any]:
    """The settings that a service needs: what only the command line sends is no business of its processes."""
    return {name: value for name, value in values.items() if name not in ("token", "token_file")}
