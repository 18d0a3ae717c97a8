"""Whom Compute Engine knows us as."""

from __future__ import annotations

from typing import Any

from targets.compute_engine.options import ComputeEngineOptions
from targets.errors import RefusedError

_SCOPES = ("https://www.googleapis.com/auth/compute",)


def read_credentials(options: ComputeEngineOptions) -> Any:
    """The credentials that calls are signed with; whether they are accepted is not asked.

    Raises: RefusedError, which says how to give some.
    """
    import google.auth
    from google.auth.credentials import AnonymousCredentials
    from google.auth.exceptions import GoogleAuthError
    from google.oauth2 import service_account

    if options.is_stand_in:
        return AnonymousCredentials()  # type: ignore[no-untyped-call, unused-ignore]
    try:
        if options.credentials_file is not None:
            return service_account.Credentials.from_service_account_file(  # type: ignore[no-untyped-call, unused-ignore]
                str(options.credentials_file), scopes=_SCOPES
            )
        return google.auth.default(scopes=_SCOPES)[0]
    except (GoogleAuthError, OSError, ValueError) as error:
        raise RefusedError(
            "There are no credentials for Compute Engine: name a service account's key file with credentials_file, or "
            f"run gcloud auth application-default login ({error})"
        ) from error
