"""The secret of page tokens: from the settings, or from a file in the data folder that the first process makes."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from pathlib import Path

_FILE = "page_token.key"
_BYTES = 32


def page_token_key(setting: str, data_dir: Path) -> bytes:
    """The same key in every process with this setting, or else with this data folder."""
    if setting:
        return setting.encode()
    path = data_dir / _FILE
    try:
        return _read(path)
    except FileNotFoundError:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make(path)
        return _read(path)


def _make(path: Path) -> None:
    """Whole or not at all, and whoever comes second keeps the first one's: a link never replaces a file."""
    descriptor, name = tempfile.mkstemp(prefix=f".{_FILE}.", dir=path.parent)  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(name, path)
    finally:
        Path(name).unlink()


def _read(path: Path) -> bytes:
    key = path.read_bytes()
    if len(key) < _BYTES:
        raise ValueError(f"{path} is damaged; remove it, and the next start makes a new one (page tokens end with it)")
    return key
