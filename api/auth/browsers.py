"""Protection of people whose browser runs next to a service that asks for no credentials.

A page of any site may send requests to 127.0.0.1, and with DNS rebinding it may even read the answers under a name of
its own. So, while no credentials are asked for: only names of loopback are served (``Host``), and writes are refused
that a browser says come from elsewhere (``Origin``, ``Sec-Fetch-Site``: W3C Fetch Metadata). Programs send neither.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from api.auth.errors import ForeignRequest
from api.names import shown

_SAFE = ("GET", "HEAD")


def refuse_foreign(verb: str, headers: Headers) -> None:
    """Raises: ForeignRequest."""
    host = headers.get("host", "")
    if host and not is_loopback(_hostname(host)):
        raise ForeignRequest(
            f"this service is for this machine alone, but the request is for Host {shown(host)}; use 127.0.0.1 or"
            " localhost, or configure credentials (docs/access.md)"
        )
    if verb in _SAFE:
        return
    origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
    if site not in ("none", "same-origin") or (origin is not None and urlsplit_netloc(origin) != host.lower()):
        raise ForeignRequest(
            f"a page of another site ({shown(origin or site)}) may not write here; without credentials the service"
            " takes writes from programs and from its own pages only"
        )


def is_loopback(host: str) -> bool:
    """Whether a host name means this machine without asking any DNS."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def urlsplit_netloc(origin: str) -> str:
    """``host:port`` of an origin; empty for ``null`` and what is none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _hostname(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
