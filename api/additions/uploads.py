"""Upload of a disk: whole, or resumable in chunks with Content-Range (docs/rest.md has the protocol).

PUT …/disks/0?format=qcow2                                    the whole disk in one request
PUT …/disks/0?format=qcow2  Content-Range: bytes 0-99/250     one chunk; 308 with Range until all has arrived
PUT …/disks/0?format=qcow2  Content-Range: bytes */250        nothing: how much has arrived, or finish
GET, HEAD …/disks/0                                           how much has arrived
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import functools
import re
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response

from api.body import Body, Chunks
from api.names import REPLICATION_CYCLE, check_name, shown
from api.translate import rfc3339
from models import schema
from targets.uploads import Received
from tasks.errors import InvalidArgument
from tasks.services import Services
from tasks.services.uploads import Chunk

Json = dict[str, Any]
_FORMATS = ("raw", "qcow2")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # a tab may stand in a header
_DISK_NUMBER = re.compile(r"[0-9]{1,4}")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_CONTENT_RANGE = re.compile(r"bytes (?:([0-9]{1,18})-([0-9]{1,18})|\*)/([0-9]{1,18}|\*)")
_SHA256_MEMBER = re.compile(r"=:([A-Za-z0-9+/]{43}=):[ \t]*(?:;.*)?")


@dataclass(frozen=True)
class UploadRoute:
    """One verb on a disk."""

    verb: str
    path: str
    permission: str


@dataclass(frozen=True)
class Upload:
    """The checked arguments of an upload; ``chunk`` is None for a whole disk."""

    cycle: str
    disk_number: int
    format: str
    sha256: str
    chunk: Chunk | None


def check_plain(query: list[tuple[str, str]], headers: Headers) -> None:
    """Nothing that a disk comes with may have control characters. Raises: InvalidArgument, which names the first."""
    for name, value in (*query, *headers.items()):
        if _CONTROL.search(name):
            raise InvalidArgument("query", f"{shown(name)} has control characters", reason="INVALID_ENCODING")
        if _CONTROL.search(value):
            raise InvalidArgument(name[:80], f"{shown(value)} has control characters", reason="INVALID_ENCODING")


def check_upload(variables: dict[str, str], query: list[tuple[str, str]], headers: Headers) -> Upload:
    """The arguments of a PUT; the format is named, never guessed. Raises: InvalidArgument."""
    cycle, disk_number = _disk(variables)
    image_format = dict(query).get("format", "")
    if image_format not in _FORMATS:
        raise InvalidArgument("format", f"{shown(image_format)} is not one of {', '.join(_FORMATS)}; add ?format=raw")
    sha256 = headers.get("x-clonejob-sha256", "")
    if sha256 and not _SHA256.fullmatch(sha256):
        raise InvalidArgument("X-Clonejob-Sha256", "is not 64 hexadecimal digits")
    digest, chunk = _content_digest(headers), _chunk(headers)
    if chunk is not None:
        return Upload(cycle, disk_number, image_format, sha256.lower(), dataclasses.replace(chunk, sha256=digest))
    if sha256 and digest and sha256.lower() != digest:
        raise InvalidArgument("Content-Digest", "is not that of X-Clonejob-Sha256", reason="CHECKSUM_MISMATCH")
    return Upload(cycle, disk_number, image_format, sha256.lower() or digest, None)


async def put(
    services: Services, executor: Executor, body: Body, upload: Upload
) -> Response:  # fmt: skip
    """Stream the body to a worker thread. 200 with the snapshot, or 308 with what has arrived so far."""
    loop = asyncio.get_running_loop()
    chunks = Chunks(body, loop)
    where = (upload.cycle, upload.disk_number, upload.format, chunks)
    store: Callable[[], schema.Snapshot | Received]
    if upload.chunk is None:
        store = functools.partial(services.cycles.put_disk, *where, upload.sha256)
    else:
        store = functools.partial(services.cycles.put_chunk, *where, upload.chunk, upload.sha256)
    try:
        stored = await loop.run_in_executor(executor, store)
    finally:
        chunks.close()
    return _answer(upload.cycle, upload.disk_number, stored, 308)


def received(services: Services, variables: dict[str, str]) -> Response:
    """How much of a disk has arrived. Raises: InvalidArgument, NotFound."""
    cycle, disk_number = _disk(variables)
    return _answer(cycle, disk_number, services.cycles.received(cycle, disk_number), 200)


def snapshot_json(row: schema.Snapshot) -> Json:
    """A disk that has arrived in full."""
    return {
        "replicationCycle": row.cycle,
        "diskNumber": row.disk_number,
        "complete": True,
        "format": row.format,
        "receivedBytes": str(row.stored_size_bytes),
        "totalBytes": str(row.stored_size_bytes),
        "virtualSizeBytes": str(row.virtual_size_bytes),
        "storedSizeBytes": str(row.stored_size_bytes),
        "sha256": row.sha256,
        "createTime": rfc3339(row.create_time),
    }


def _answer(cycle: str, disk_number: int, stored: schema.Snapshot | Received, partly: int) -> Response:
    if isinstance(stored, schema.Snapshot):
        headers = {"Upload-Offset": str(stored.stored_size_bytes), "Cache-Control": "no-store"}
        return JSONResponse(snapshot_json(stored), headers=headers)
    headers = {"Upload-Offset": str(stored.received_bytes), "Cache-Control": "no-store"}
    if stored.received_bytes:
        headers["Range"] = f"bytes=0-{stored.received_bytes - 1}"
    content = {
        "replicationCycle": cycle,
        "diskNumber": disk_number,
        "complete": False,
        "format": stored.format,
        "receivedBytes": str(stored.received_bytes),
        "totalBytes": None if stored.total_bytes is None else str(stored.total_bytes),
    }
    return JSONResponse(content, status_code=partly, headers=headers)


def _disk(variables: dict[str, str]) -> tuple[str, int]:
    cycle = check_name("name", variables["name"], REPLICATION_CYCLE)
    if not _DISK_NUMBER.fullmatch(variables["disk"]):
        raise InvalidArgument("disk", f"{shown(variables['disk'])} is not a disk number")
    return cycle, int(variables["disk"])


def _chunk(headers: Headers) -> Chunk | None:
    given = headers.get("content-range")
    if given is None:
        return None
    match = _CONTENT_RANGE.fullmatch(given.strip())
    if match is None or (match[1] is None and match[3] == "*"):
        raise InvalidArgument("Content-Range", "is not bytes FIRST-LAST/TOTAL, bytes FIRST-LAST/* or bytes */TOTAL")
    total = None if match[3] == "*" else int(match[3])
    first = None if match[1] is None else int(match[1])
    last = -1 if match[2] is None else int(match[2])
    if (first is not None and first > last) or (total is not None and last >= total):
        raise InvalidArgument("Content-Range", "its first byte must not come after its last, nor that after the total")
    return Chunk(first, last, total)


def _content_digest(headers: Headers) -> str:
    """RFC 9530, of this body; algorithms other than SHA-256 are ignored, as it says, and the last member counts."""
    found = ""
    for member in map(str.strip, ",".join(headers.getlist("content-digest")).split(",")):
        if re.split("[=;]", member, maxsplit=1)[0].rstrip().lower() != "sha-256":
            continue
        match = _SHA256_MEMBER.fullmatch(member[len("sha-256") :])
        if match is None:
            raise InvalidArgument("Content-Digest", "is not sha-256=:BASE64:, with the 32 bytes of a SHA-256")
        found = base64.b64decode(match[1]).hex()
    return found
