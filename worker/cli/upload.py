"""Sending a disk in chunks: what has arrived need not be sent again, whatever breaks in between."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.cli.errors import CliError, ExitCode

if TYPE_CHECKING:
    from worker.cli.client import Client

Json = dict[str, Any]
CHUNK_BYTES = 32 << 20
PATIENCE_S = 150.0  # without a byte that arrives; longer than a service takes to notice that a connection is dead
_BLOCK_BYTES = 1 << 20
_PAUSE_FIRST_S, _PAUSE_MAX_S = 0.2, 5.0
_RETRIED = ("UPLOAD_RUNNING", "UPLOAD_OFFSET_MISMATCH", "UPLOAD_INTERRUPTED", "REQUEST_TIMEOUT")


def upload(client: Client, path: str, file: Path, image_format: str, show: Callable[[int], None]) -> Json:
    """Send a disk image; ``show`` is told how many bytes have been sent in all. Raises: CliError."""
    total = file.stat().st_size
    digest = _sha256(file)
    offset, moved_at, pause_s = 0, time.monotonic(), _PAUSE_FIRST_S
    while True:
        try:
            answer = _send(client, path, file, image_format, offset, total, digest, show)
            if answer.get("complete", True):
                return answer
            received: int | None = int(answer["receivedBytes"])
        except CliError as error:
            worth_it = error.code is ExitCode.UNREACHABLE or error.reason in _RETRIED
            if not worth_it or time.monotonic() - moved_at > PATIENCE_S:
                raise
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, _PAUSE_MAX_S)
            received = _ask(client, path, total)
        if received is not None and received != offset:
            offset, moved_at, pause_s = received, time.monotonic(), _PAUSE_FIRST_S
            show(offset)


def _send(
    client: Client, path: str, file: Path, image_format: str, offset: int, total: int, digest: str,
    show: Callable[[int], None],
) -> Json:  # fmt: skip
    """The next chunk; or, when all has arrived, only the question what became of it."""
    size = min(CHUNK_BYTES, total - offset)
    span = f"{offset}-{offset + size - 1}" if size else "*"
    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Length": str(size),
        "Content-Range": f"bytes {span}/{total}",
        "X-Clonejob-Sha256": digest,
    }
    return client.put(path, _blocks(file, offset, size, show), headers, format=image_format)


def _ask(client: Client, path: str, total: int) -> int | None:
    """How much has arrived; None if the service does not answer yet."""
    try:
        answer = client.get(path)
    except CliError as error:
        return 0 if error.code is ExitCode.NOT_FOUND else None
    return total if answer.get("complete") else int(answer["receivedBytes"])


def _blocks(file: Path, offset: int, size: int, show: Callable[[int], None]) -> Iterator[bytes]:
    with file.open("rb") as opened:
        opened.seek(offset)
        end = offset + size
        while block := opened.read(min(_BLOCK_BYTES, end - offset)):
            yield block
            offset += len(block)
            show(offset)


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
