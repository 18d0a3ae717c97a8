"""Secrets that are read from files, as containers are given them: none is in an environment or on a command line.

``CLONEJOB_DATABASE_URL_FILE`` and its like name a file that holds the setting. A file of a password is for servers that
want the password alone: it is put into the URL.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings

_PREFIX = "CLONEJOB_"
_WHOLE = ("database_url", "broker_url", "page_token_key")
_PASSWORDS = {"database_password_file": "database_url", "broker_password_file": "broker_url"}
_MAX_BYTES = 16 * 1024


class FileSettings(BaseSettings):
    """A part of ``Settings``: where its secrets come from."""

    database_url_file: Path | None = Field(default=None, description="File that holds database_url.")
    database_password_file: Path | None = Field(
        default=None, description="File that holds the password of database_url, which then has none."
    )
    broker_url_file: Path | None = Field(default=None, description="File that holds broker_url.")
    broker_password_file: Path | None = Field(
        default=None, description="File that holds the password of broker_url, which then has none."
    )
    page_token_key_file: Path | None = Field(default=None, description="File that holds page_token_key.")

    @model_validator(mode="before")
    @classmethod
    def _read_files(cls, given: Any) -> Any:
        values = dict(given)
        for name in _WHOLE:
            if path := values.get(f"{name}_file"):
                if values.get(name):
                    raise ValueError(
                        f"{_PREFIX}{name.upper()} and {_PREFIX}{name.upper()}_FILE are both set; unset one"
                    )
                values[name] = _read(f"{name}_file", path)
        for name, url in _PASSWORDS.items():
            if path := values.get(name):
                values[url] = _with_password(values.get(url) or "", _read(name, path), name, url)
        return values

    def read_from_files(self) -> set[str]:
        """The settings that hold what was read from a file: a child process reads it again."""
        whole = {name for name in _WHOLE if getattr(self, f"{name}_file")}
        return whole | {url for name, url in _PASSWORDS.items() if getattr(self, name)}


def _read(name: str, path: Any) -> str:
    """Raises: ValueError that names the setting and the file, never what is in it."""
    said = f"{_PREFIX}{name.upper()}: {path}"
    try:
        with Path(path).expanduser().open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        text = data.decode().strip()
    except OSError as error:
        raise ValueError(f"{said} cannot be read ({error.strerror}); make it, or check its owner and mode") from None
    except UnicodeDecodeError:
        raise ValueError(f"{said} is not text") from None
    if not text or len(data) > _MAX_BYTES or "\n" in text:
        raise ValueError(f"{said} must hold one line, which is the secret")
    return text


def _with_password(url: str, password: str, name: str, setting: str) -> str:
    parts = urlsplit(url)
    if not parts.hostname:
        raise ValueError(
            f"{_PREFIX}{name.upper()} needs {_PREFIX}{setting.upper()} with a host, such as redis://redis:6379/0"
        )
    if parts.password:
        raise ValueError(f"{_PREFIX}{setting.upper()} has a password, and so has {_PREFIX}{name.upper()}; unset one")
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:{quote(password, safe='')}@{host}"))
