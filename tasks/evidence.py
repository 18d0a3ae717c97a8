"""Evidence of a boot: files that stay with the job when its instance is gone.

``evidence/JOB_ID/`` below the data folder has ``console.txt``, ``screen.png`` and ``evidence.json``, which says what was
seen and has the SHA-256 of the other two. The files are written by a worker, before success is committed, and read by
the API on the same data folder. The row has the SHA-256 of all three: what it does not name is no evidence.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from targets.local_files import fsync_folder, locked, read_json

CONSOLE, SCREEN, SUMMARY = "console.txt", "screen.png", "evidence.json"
CONSOLE_LIMIT_BYTES = 256 * 1024
SCREEN_LIMIT_BYTES = 8 * 2**20
_LOCK_TIMEOUT_S = 2.0

Json = dict[str, Any]


class EvidenceStore:
    """The folder ``evidence``. Holds nothing in the process; makes nothing before it is used."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def keep(self, job_id: str, epoch: int, *, console: str, screen: bytes | None, summary: Mapping[str, Any]) -> Json:
        """Write all of a job's evidence, in place of what there was; size and SHA-256 of each file by its name.

        The console's end is kept, the screen whole. Evidence of a later epoch stays as it is: this caller has lost the
        job. Raises: OSError, after removing what was written; TransientError while somebody else writes;
        EvidenceTakenError.
        """
        folder = self._root / job_id
        folder.mkdir(parents=True, exist_ok=True)
        with locked(self._root / f".{job_id}.lock", timeout_s=_LOCK_TIMEOUT_S):
            if _epoch(folder) > epoch:
                raise EvidenceTakenError(job_id)
            text = console.encode(errors="replace")[-CONSOLE_LIMIT_BYTES:].decode(errors="ignore")
            parts = {CONSOLE: text.encode()}
            if screen is not None:
                parts[SCREEN] = screen
            files = {name: fact(content) for name, content in parts.items()}
            text = json.dumps({**summary, "epoch": epoch, "files": files}, indent=2, sort_keys=True) + "\n"
            parts[SUMMARY] = text.encode()
            try:
                # The summary goes first and comes last: without it there is no evidence.
                for name in (SUMMARY, SCREEN, CONSOLE):
                    (folder / name).unlink(missing_ok=True)
                for name, content in parts.items():
                    _write(_temporary(folder, name), content)
                for name in parts:  # after all are written: the first one takes the others along, nearly
                    _make_durable(_temporary(folder, name))
                for name in parts:
                    _temporary(folder, name).replace(folder / name)
                fsync_folder(folder)
                fsync_folder(self._root)
            except OSError:
                self._remove(folder)
                raise
        return files | {SUMMARY: fact(parts[SUMMARY])}

    def read(self, job_id: str, name: str, sha256: str) -> bytes | None:
        """The file, if it is here and is the one that the row names."""
        limit = max(CONSOLE_LIMIT_BYTES, SCREEN_LIMIT_BYTES)
        try:
            with (self._root / job_id / name).open("rb") as file:
                content = file.read(limit + 1)
        except OSError:
            return None
        return content if hashlib.sha256(content).hexdigest() == sha256 else None

    @staticmethod
    def _remove(folder: Path) -> None:
        with contextlib.suppress(OSError):
            for path in folder.iterdir():
                path.unlink(missing_ok=True)
            folder.rmdir()


class EvidenceTakenError(Exception):
    """A later epoch of the job has kept its evidence; ``args[0]`` is the job's id."""


def fact(content: bytes) -> Json:
    """Size and SHA-256, as they stand in the row."""
    return {"sizeBytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _epoch(folder: Path) -> int:
    try:
        kept = read_json(folder / SUMMARY)
    except ValueError:
        return 0
    epoch = 0 if kept is None else kept.get("epoch", 0)
    return epoch if isinstance(epoch, int) else 0


def _temporary(folder: Path, name: str) -> Path:
    return folder / f".{name}.tmp"


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _make_durable(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
