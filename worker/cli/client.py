"""The command line's REST client: JSON in, JSON out, every failure a ``CliError``."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from worker.cli.errors import CliError, ExitCode, from_status, response_of

Json = dict[str, Any]

_SILENCE_S = 60.0  # a stream says something every 15 s
_POLL_FIRST_S = 0.05
_POLL_MAX_S = 1.0


class Client:
    """Talks to one service."""

    def __init__(self, server: str, *, token: str = "", ca_file: Path | None = None) -> None:
        self._server = server
        if token and server.startswith("http://") and not _is_local(server):
            raise CliError(f"no token is sent to {server}: without TLS anybody on the way reads it; use https://",
                           ExitCode.USAGE)  # fmt: skip
        # Loopback is never behind a proxy; a write may wait for a slow disk behind the service.
        timeout = httpx.Timeout(60.0, connect=5.0)
        self._http = httpx.Client(base_url=server, timeout=timeout, trust_env=not _is_local(server),
                                  headers={"Authorization": f"Bearer {token}"} if token else {},
                                  verify=_trust(ca_file))  # fmt: skip

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def get(self, path: str, **params: Any) -> Json:
        """GET a resource of ours or of the contract."""
        return self._call("GET", path, params=params)

    def content(self, path: str) -> bytes:
        """GET bytes. Raises: CliError."""
        response = self._answer("GET", path, params={})
        if response.is_error:
            self._decode(response)
        return response.content

    def url(self, path: str) -> str:
        """The whole address of a path."""
        return f"{self._server.rstrip('/')}{path}"

    def post(self, path: str, body: Json | None = None, **params: Any) -> Json:
        """POST; ``None`` parameters are left out."""
        return self._call("POST", path, json=body or {}, params=params)

    def patch(self, path: str, body: Json, **params: Any) -> Json:
        """PATCH."""
        return self._call("PATCH", path, json=body, params=params)

    def list(self, path: str, field: str) -> list[Json]:
        """All pages of a list."""
        items: list[Json] = []
        token = ""
        while True:
            page = self.get(path, pageToken=token, pageSize=1000)
            items += page.get(field, [])
            token = page.get("nextPageToken", "")
            if not token:
                return items

    def put(self, path: str, content: Iterator[bytes], headers: dict[str, str], **params: Any) -> Json:
        """PUT a stream of bytes."""
        return self._call("PUT", path, params=params, headers=headers, content=content)

    def events(self, path: str) -> Iterator[str]:
        """The kinds of a resource's server-sent events, as they come; none if the service answers otherwise.

        Raises: CliError when the connection breaks off.
        """
        headers, timeout = {"Accept": "text/event-stream"}, httpx.Timeout(_SILENCE_S, connect=5.0)
        try:
            with self._http.stream("GET", path, headers=headers, timeout=timeout) as response:
                if not response.headers.get("content-type", "").startswith("text/event-stream"):
                    return
                for line in response.iter_lines():
                    if line.startswith("event:"):
                        yield line.partition(":")[2].strip()
        except httpx.HTTPError as error:
            raise self._unreachable(f"the stream broke off: {error}") from None

    def wait(self, operation: Json) -> Json:
        """Wait until an operation is done; returns its response. Raises: CliError when it ended in an error."""
        pause_s = _POLL_FIRST_S
        while not operation.get("done"):
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, _POLL_MAX_S)
            operation = self.get(f"/v1/{operation['name']}")
        return response_of(operation)

    def _call(self, method: str, path: str, *, params: Json, **how: Any) -> Json:
        return self._decode(self._answer(method, path, params=params, **how))

    def _answer(self, method: str, path: str, *, params: Json, **how: Any) -> httpx.Response:
        present = {key: value for key, value in params.items() if value is not None}
        try:
            return self._http.request(method, path, params=present, **how)
        except httpx.ConnectError as error:
            raise self._unreachable(str(error)) from None
        except httpx.TimeoutException:
            raise self._unreachable("it did not answer in time") from None
        except httpx.TransportError as error:
            raise self._unreachable(f"the connection broke off: {error}") from None
        except httpx.InvalidURL as error:
            raise CliError(f"{self._server} is no usable address: {error}", ExitCode.USAGE) from None

    def _decode(self, response: httpx.Response) -> Json:
        try:
            body = response.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise CliError(
                f"{self._server} answered HTTP {response.status_code} without JSON; is it a clonejob service? "
                "Give its address with --server"
            )
        if response.is_error:
            error = body.get("error") or {}
            raise from_status(error, str(error.get("message") or f"the service answered HTTP {response.status_code}"))
        return body

    def _unreachable(self, why: str) -> CliError:
        return CliError(
            f"the service at {self._server} cannot be reached ({why}); start it with `clonejob up`, "
            "or give its address with --server",
            ExitCode.UNREACHABLE,
        )


def _trust(ca_file: Path | None) -> ssl.SSLContext | bool:
    """The system's certificates, or only those of a file. Raises: CliError."""
    if ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=ca_file.expanduser())
    except OSError as error:  # ssl.SSLError is one
        raise CliError(f"CLONEJOB_CA_FILE: {ca_file} cannot be used: {error}", ExitCode.USAGE) from None


def _is_local(server: str) -> bool:
    return httpx.URL(server).host in ("127.0.0.1", "localhost", "::1")
