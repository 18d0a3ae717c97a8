"""Every setting, in one place: the only module that reads the environment.

A setting ``lease_s`` is read from ``CLONEJOB_LEASE_S``. An empty variable counts as not set. ``load_settings`` turns
whatever is wrong into one sentence per setting; ``redacted`` is what may be printed.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

import pydantic_settings
from pydantic import ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from targets.registry import TargetOptions, options_of
from worker.settings_access import AccessSettings, without_command_line
from worker.settings_boot import BootSettings
from worker.settings_files import FileSettings

PREFIX = "CLONEJOB_"
_ID = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_SECRET = re.compile(r"password|secret|token|credential|private|api_?key", re.IGNORECASE)
_MASK = "***"


class SettingsError(Exception):
    """The settings cannot be used; ``problems`` holds one sentence per setting."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__(" ".join(problems))
        self.problems = tuple(problems)


class TargetSettings(BootSettings):
    """One configured target: a place where clones may be created. What else it has are its type's own options."""

    model_config = ConfigDict(frozen=True, extra="allow")

    type: str = Field(description="Which type of target this is; clonejob target types shows them.")

    @model_validator(mode="after")
    def _known(self) -> TargetSettings:
        _ = self.options
        return self

    @property
    def options(self) -> TargetOptions:
        """What its type makes of the rest. Raises: ValueError."""
        try:
            return options_of(self.type, self.model_extra or {})
        except ValidationError as error:
            # pydantic's own text of a nested error would name the type's class, which no user has written.
            problems = (f"{'.'.join(map(str, each['loc']))}: {each['msg'].lower()}" for each in error.errors())
            raise ValueError(f"type {self.type}: {'; '.join(problems)}") from None


def _default_targets() -> dict[str, TargetSettings]:
    return {"local": TargetSettings(type="qemu"), "simulated": TargetSettings(type="simulated")}


class Settings(AccessSettings, FileSettings):
    """The settings of one process. Immutable; ``database_url`` and ``data_dir`` are always filled in and absolute."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid")

    data_dir: Path = Field(
        default=Path("data"),
        validate_default=True,
        description="Folder for all that the service keeps; default ./data.",
    )
    database_url: str = Field(
        default="", validate_default=True, description="Database; empty: sqlite in data_dir/clonejob.sqlite3."
    )
    broker_url: str = Field(
        default="", description="Celery broker; empty: the embedded broker that `clonejob up` starts."
    )
    targets: dict[str, TargetSettings] = Field(
        default_factory=_default_targets, description="Targets by name, as JSON."
    )

    project: str = Field(default="clonejob", description="Project of short resource names.")
    location: str = Field(default="global", description="Location of short resource names.")

    lease_s: float = Field(default=15.0, gt=0, description="Seconds for which a step's claim holds without a renewal.")
    provider_call_limit_s: float = Field(
        default=30.0, gt=0, description="Seconds after which one call to a target gives up."
    )
    reconcile_interval_s: float = Field(default=2.0, gt=0, description="Seconds between two looks of the reconciler.")
    dispatch_grace_s: float = Field(
        default=15.0, gt=0, description="Seconds for a dispatched message to start its step."
    )
    freeze_limit_s: float = Field(
        default=20.0,
        gt=0,
        description="Seconds for which a process of `up` may be stopped (SIGSTOP) until it is killed and started again: "
        "it may hold the database's lock.",
    )
    step_attempts: int = Field(default=5, ge=1, description="Starts of one step before the job fails.")
    retry_pause_s: float = Field(
        default=1.0, gt=0, description="Seconds before a step's first retry; doubles each time."
    )
    retry_pause_max_s: float = Field(
        default=60.0, gt=0, description="Longest pause in seconds between two retries of a step."
    )
    step_timeout_s: float = Field(default=3600.0, gt=0, description="Seconds that one step may take in all.")
    boot_timeout_s: float = Field(
        default=60.0,
        gt=0,
        description="Seconds that a job watches its clone boot: one in which nothing was seen by then succeeds all the "
        "same, with boot verdict UNKNOWN.",
    )
    inline_wait_s: float = Field(
        default=1.0, ge=0, description="Seconds that a step waits for a target before it comes back."
    )
    poll_s: float = Field(default=1.0, gt=0, description="Seconds between two looks at an operation of a target.")
    cleanup_pause_s: float = Field(
        default=1.0, gt=0, description="Seconds before clean-up's first retry; doubles each time."
    )
    cleanup_pause_max_s: float = Field(
        default=300.0, gt=0, description="Longest pause in seconds between clean-up retries."
    )
    audit_interval_s: float = Field(
        default=300.0, gt=0, description="Seconds between two looks of the orphan auditor in the worker pool."
    )
    audit_delete: bool = Field(
        default=False, description="Whether the worker pool's auditor deletes orphans once there is proof."
    )
    create_operation: Literal["created", "finished"] = Field(
        default="created",
        description="When CreateCloneJob's operation is done: the job is created, or it has finished.",
    )
    upload_idle_s: float = Field(
        default=86_400.0, gt=0, description="Seconds without data after which an upload is given up."
    )
    page_token_key: str = Field(
        default="",
        description="Secret of page tokens, 32 characters or more, the same for every API process; "
        "empty: one is made in data_dir.",
    )
    workers: int = Field(default=2, ge=1, le=1024, description="Processes that run steps.")
    task_events: bool = Field(default=True, description="Whether workers send task events, which Flower needs.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Least severe level logged."
    )
    fault_plan: Path | None = Field(default=None, description="Tests only: file with the faults to inject.")

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("database_url")
    @classmethod
    def _database(cls, value: str, info: ValidationInfo) -> str:
        if not value:
            return f"sqlite:///{info.data['data_dir']}/clonejob.sqlite3" if "data_dir" in info.data else ""
        if not value.startswith(("sqlite:///", "postgresql://", "postgresql+psycopg://")):
            raise ValueError("must be sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME")
        return value

    @field_validator("broker_url")
    @classmethod
    def _broker(cls, value: str) -> str:
        if value and "://" not in value:
            raise ValueError("must be a URL such as redis://:PASSWORD@HOST:6379/0 or amqp://USER:PASSWORD@HOST")
        return value

    @field_validator("page_token_key")
    @classmethod
    def _page_token_key(cls, value: str) -> str:
        if value and len(value) < 32:
            raise ValueError("must have at least 32 characters, such as the output of: openssl rand -hex 32")
        return value

    @field_validator("project")
    @classmethod
    def _project(cls, value: str) -> str:
        if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", value):
            raise ValueError("must be lower-case letters, digits and dashes, such as my-project")
        return value

    @field_validator("location")
    @classmethod
    def _location(cls, value: str) -> str:
        if not _ID.fullmatch(value):
            raise ValueError("must be lower-case letters, digits and dashes, such as global or europe-west1")
        return value

    @field_validator("targets")
    @classmethod
    def _target_names(cls, value: dict[str, TargetSettings]) -> dict[str, TargetSettings]:
        wrong = [name for name in value if not _ID.fullmatch(name)]
        if not value or wrong:
            raise ValueError("needs one target at least, each named with lower-case letters, digits and dashes")
        return value

    @model_validator(mode="after")
    def _pauses(self) -> Settings:
        for name in ("retry_pause", "cleanup_pause"):
            if getattr(self, f"{name}_s") > getattr(self, f"{name}_max_s"):
                raise ValueError(f"{name}_s must not be longer than {name}_max_s")
        return self

    def redacted(self) -> dict[str, Any]:
        """All settings as JSON types, with passwords in URLs and secrets masked: safe to print."""
        masked: dict[str, Any] = _mask(self.model_dump(mode="json"))
        return masked


def load_settings(**overrides: Any) -> Settings:
    """Settings from the environment; an override that is not None wins over it.

    Raises: SettingsError.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        raise SettingsError([_sentence(dict(problem)) for problem in error.errors()]) from None
    except pydantic_settings.SettingsError as error:
        raise SettingsError([_unparsable(error)]) from None


def child_environment(settings: Settings) -> dict[str, str]:
    """The environment of a child process that must see exactly these settings."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    again = settings.read_from_files()
    for name, value in without_command_line(settings.model_dump(mode="json")).items():
        if name in again:
            environment |= {key: os.environ[key] for key in [PREFIX + name.upper()] if key in os.environ}
        elif value not in (None, ""):
            environment[PREFIX + name.upper()] = value if isinstance(value, str) else json.dumps(value)
    root = str(Path(__file__).resolve().parent.parent)
    paths = [root, *environment.get("PYTHONPATH", "").split(os.pathsep)]
    environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(path for path in paths if path))
    return environment


def child_command(*arguments: str) -> list[str]:
    """Command line that runs a module of ours with this interpreter; the current folder shadows no module of it."""
    return [sys.executable, "-P", "-m", *arguments]


def unknown_variables() -> list[str]:
    """Variables with our prefix that no setting reads: most likely misspelt."""
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    return sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known)


def redact_url(url: str) -> str:
    """The URL with its password masked."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:{_MASK}@{host}"))


def _mask(value: Any, name: str = "") -> Any:
    if isinstance(value, Mapping):
        return {key: _mask(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, str):
        if value and _SECRET.search(name):
            return _MASK
        return redact_url(value) if "://" in value else value
    return value


def _sentence(problem: dict[str, Any]) -> str:
    location = [str(part) for part in problem["loc"]]
    message = str(problem["msg"]).removeprefix("Value error, ").rstrip(".")
    if not location:
        return f"{message}."
    shown = "" if problem["type"] == "value_error" or isinstance(problem["input"], Mapping) else problem["input"]
    got = f" (got {shown!r})" if shown != "" and "url" not in location[0] else ""
    return f"{PREFIX}{location[0].upper()}{''.join('.' + part for part in location[1:])}: {message}{got}."


def _unparsable(error: Exception) -> str:
    match = re.search(r'field "(\w+)"', str(error))
    name = match.group(1) if match else "?"
    example = '{"local": {"type": "qemu"}}'
    return f"{PREFIX}{name.upper()}: is not valid JSON; write it like {example}."
