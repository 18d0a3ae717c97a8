"""What a caller without the right gets. Sources: RFC 6750 §3 (WWW-Authenticate), AIP-193 and AIP-211."""

from __future__ import annotations

from tasks.errors import ServiceError

_REALM = 'Bearer realm="clonejob"'


class Unauthenticated(ServiceError):
    """No credentials, or none that hold. ``headers`` go into the REST answer (RFC 6750 §3)."""

    code = "UNAUTHENTICATED"
    reason = "CREDENTIALS_MISSING"

    def __init__(self) -> None:
        super().__init__(
            "credentials are needed: send the header `Authorization: Bearer TOKEN`; a token is made with"
            " `clonejob token create`, and the command line takes it from CLONEJOB_TOKEN"
        )
        self.headers = {"WWW-Authenticate": _REALM}  # without an error code: nothing was tried


class InvalidCredentials(Unauthenticated):
    """Credentials that do not hold. The message says of a JWT what is wrong with it, of a token only that it is."""

    reason = "CREDENTIALS_INVALID"

    def __init__(self, why: str) -> None:
        ServiceError.__init__(self, f"the credentials are not valid: {why}")
        self.headers = {"WWW-Authenticate": f'{_REALM}, error="invalid_token"'}


class PermissionDenied(ServiceError):
    """The words of AIP-211: they are the same whether or not the resource exists."""

    code = "PERMISSION_DENIED"
    reason = "PERMISSION_DENIED"

    def __init__(self, permission: str, resource: str) -> None:
        super().__init__(
            f"Permission '{permission}' denied on resource '{resource}' (or it might not exist).",
            metadata={"permission": permission, "resource": resource},
        )


class ForeignRequest(ServiceError):
    """A browser was led here by another site."""

    code = "PERMISSION_DENIED"
    reason = "FOREIGN_REQUEST"
