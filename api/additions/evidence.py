"""Evidence of a clone's boot: what was seen, the console's text, the screen; and what a VM's clones have shown.

The console comes from a guest, which may be hostile: it is sent as plain text that no browser takes for anything else.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from api.names import CLONE_JOB, MIGRATING_VM, check_name
from api.translate import rfc3339
from tasks.services import Services
from tasks.services.evidence import EvidenceFile, Part

Json = dict[str, Any]
MEDIA_TYPES: dict[Part, str] = {"console": "text/plain; charset=utf-8", "screenshot": "image/png"}


@dataclass(frozen=True)
class EvidenceRoute:
    """A file of the evidence, by GET."""

    path: str
    permission: str
    part: Part
    verb: str = "GET"


def evidence(services: Services, name: str, _body: Json) -> Json:
    """What a job saw of its clone: whether it boots, after how long, and the hashes of console and screen."""
    found = services.evidence.get(check_name("name", name, CLONE_JOB))
    return {
        "name": found.job,
        "verdict": found.verdict,
        "seconds": found.seconds,
        "firstOutputSeconds": found.first_output_seconds,
        "detail": found.detail,
        "time": rfc3339(found.time),
        "requireBoot": found.required,
        "console": _file(found.job, "console", found.console),
        "screenshot": _file(found.job, "screenshot", found.screenshot),
        "summary": None if found.summary is None else _fact(found.summary),
        "consoleEnd": found.console_end,
        "missing": dict(found.missing),
    }


def boot_proofs(services: Services, name: str, _body: Json) -> Json:
    """What a VM's clones have shown of its snapshots, newest first: a cycle that BOOTED is proven bootable."""
    found = services.evidence.proofs(check_name("name", name, MIGRATING_VM))
    return {
        "bootProofs": [
            {
                "replicationCycle": each.cycle,
                "cloneJob": each.job,
                "verdict": each.verdict,
                "time": rfc3339(each.time),
                "seconds": each.seconds,
                "consoleSha256": each.console_sha256,
                "screenshotSha256": each.screen_sha256,
            }
            for each in found
        ]
    }


def file(services: Services, route: EvidenceRoute, name: str) -> Response:
    """The file itself, after its SHA-256 was compared with the one on record. Raises: NotFound, which says why."""
    content, sha256 = services.evidence.read(check_name("name", name, CLONE_JOB), route.part)
    digest = base64.b64encode(bytes.fromhex(sha256)).decode()
    headers = {
        "Content-Type": MEDIA_TYPES[route.part],
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Cache-Control": "private, no-cache",
        "ETag": f'"{sha256}"',
        "Content-Digest": f"sha-256=:{digest}:",  # RFC 9530
    }
    return Response(content, headers=headers)


def _file(job: str, part: Part, found: EvidenceFile | None) -> Json | None:
    return None if found is None else _fact(found) | {"path": f"/clonejob/v1/{job}/evidence/{part}"}


def _fact(found: EvidenceFile) -> Json:
    return {"sha256": found.sha256, "sizeBytes": str(found.size_bytes)}
