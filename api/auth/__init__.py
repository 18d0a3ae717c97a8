"""Who calls, and whether they may: credentials, roles, and what protects a service that has neither."""

from __future__ import annotations

from api.auth.errors import PermissionDenied, Unauthenticated
from api.auth.gate import Gate
from api.auth.oidc import OidcConfig, OidcVerifier

__all__ = ["Gate", "OidcConfig", "OidcVerifier", "PermissionDenied", "Unauthenticated"]
