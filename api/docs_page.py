"""The OpenAPI document and a page to browse it, without any network but this service.

The page is Swagger UI as its makers publish it, from the wheel ``swagger-ui-bundle-v2``; one script and nothing inline, so
that the Content-Security-Policy can forbid whatever does not come from here.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass

from starlette.responses import Response

from api.reasons import HELP_PATH, page

_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _CSP,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_INDEX = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>clonejob: REST</title>
<link rel="stylesheet" href="swagger-ui.css">
<link rel="icon" href="favicon-32x32.png">
</head>
<body>
<div id="swagger-ui"></div>
<noscript>This page needs JavaScript; the document itself is at <a href="../openapi.json">/openapi.json</a>.</noscript>
<script src="swagger-ui-bundle.js"></script>
<script src="start.js"></script>
</body>
</html>
"""
_START = """window.ui = SwaggerUIBundle({
  url: "../openapi.json", dom_id: "#swagger-ui", deepLinking: true, docExpansion: "none", validatorUrl: null,
  filter: true, defaultModelsExpandDepth: 0, persistAuthorization: false
});
"""
_KINDS = {"css": "text/css", "js": "text/javascript", "png": "image/png"}


@dataclass(frozen=True)
class Page:
    """One public file; ``name`` is empty for the redirect to the page."""

    path: str
    name: str
    verb: str = "GET"
    permission: str = ""  # what they show is the same for everybody

    def answer(self) -> Response:
        """The response."""
        if not self.name:
            return Response(status_code=308, headers={"Location": "/docs/", **_HEADERS})
        body, kind = _content(self.name)
        kept = "no-cache" if self.name.endswith((".html", ".json", "start.js")) else "public, max-age=86400"
        return Response(body, media_type=kind, headers={**_HEADERS, "Cache-Control": kept})


PAGES = (
    Page("/openapi.json", "openapi.json"),
    Page("/docs", ""),
    Page("/docs/", "index.html"),
    Page("/docs/start.js", "start.js"),
    Page(HELP_PATH, "errors.html"),
    *(Page(f"/docs/{name}", name) for name in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png")),
)


@functools.cache
def _content(name: str) -> tuple[bytes, str]:
    if name == "openapi.json":
        from api.openapi import document

        return json.dumps(document(), separators=(",", ":")).encode(), "application/json"
    if name == "index.html":
        return _INDEX.encode(), "text/html"
    if name == "errors.html":
        return page().encode(), "text/html"
    if name == "start.js":
        return _START.encode(), _KINDS["js"]
    import swagger_ui_bundle

    return (swagger_ui_bundle.swagger_ui_path / name).read_bytes(), _KINDS[name.rpartition(".")[2]]
