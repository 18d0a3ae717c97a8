"""Who may reach the API and how, put together from the settings: the gate, TLS, limits."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from api.auth import Gate, OidcConfig, OidcVerifier
from api.limits import Limits
from api.server import Tls
from models.access import AccessStore
from models.db import make_engine
from tasks.services import AccessService
from worker.settings import Settings


def build_gate(settings: Settings, access: AccessService) -> Gate:
    """Open if no credentials are configured; then the settings have made sure that only loopback is served."""
    if not settings.credentials_needed:
        return Gate()
    return Gate(access, tokens=settings.auth_tokens, verifier=_verifier(settings))


def _verifier(settings: Settings) -> OidcVerifier | None:
    if not settings.auth_oidc_issuer:
        return None
    return OidcVerifier(
        OidcConfig(
            issuer=settings.auth_oidc_issuer,
            audience=settings.auth_oidc_audience,
            keys=settings.auth_oidc_jwks,
            algorithms=tuple(settings.auth_oidc_algorithms.split(",")),
            claim=settings.auth_oidc_claim,
            leeway_seconds=settings.auth_oidc_leeway_s,
        )
    )


def tls_of(settings: Settings) -> Tls | None:
    """Certificate and key, if there are any."""
    if settings.tls_cert_file is None or settings.tls_key_file is None:
        return None
    return Tls(settings.tls_cert_file, settings.tls_key_file)


def limits_of(settings: Settings) -> Limits:
    """What one client may take."""
    return Limits(max_connections=settings.max_connections)


def own_certificate(settings: Settings) -> ssl.SSLContext | bool:
    """For ``up``, which asks its own API whether it is well: trust exactly our certificate, under whatever name."""
    if settings.tls_cert_file is None:
        return True
    context = ssl.create_default_context(cafile=settings.tls_cert_file)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the certificate itself is the anchor, not its issuer
    context.check_hostname = False
    return context


def trusted(settings: Settings) -> ssl.SSLContext | bool:
    """For the command line: the authorities of ``ca_file``; else our own certificate, if there is one here."""
    if settings.ca_file is not None:
        return ssl.create_default_context(cafile=settings.ca_file.expanduser())
    return own_certificate(settings)


@contextmanager
def access_service(settings: Settings) -> Iterator[AccessService]:
    """Tokens and roles straight in the database, for whoever may read its settings."""
    engine = make_engine(settings.database_url)
    try:
        yield AccessService(AccessStore(engine), users_are_emails=settings.auth_oidc_claim == "email")
    finally:
        engine.dispose()
