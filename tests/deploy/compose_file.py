"""The compose files as docker compose reads them: YAML with merge keys, overrides laid over it, variables filled in."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).parents[2]
BASE = "docker-compose.yml"
OVERRIDES = ("compose.rabbitmq.yml", "compose.tls.yml", "compose.kvm.yml")
_VARIABLE = re.compile(r"\$(?:(\$)|\{(\w+)(?::([-?])([^}]*))?\})")
_REPLACED = {"command", "entrypoint", "test"}  # what an override replaces whole; other lists are joined


def load(*overrides: str, **variables: str) -> dict[str, Any]:
    """The project of the base file with the overrides over it."""
    project: Any = {}
    for name in (BASE, *overrides):
        project = _merge(project, yaml.safe_load((ROOT / name).read_text()))
    return _filled(project, variables)


def _merge(base: Any, over: Any, key: str = "") -> Any:
    if isinstance(base, Mapping) and isinstance(over, Mapping):
        both = {name: _merge(base[name], over[name], name) if name in base else over[name] for name in over}
        return {**base, **both}
    if isinstance(base, list) and isinstance(over, list) and key not in _REPLACED:
        return [*base, *over]
    return over


def _filled(value: Any, variables: Mapping[str, str]) -> Any:
    """Raises: KeyError for a variable that must be set."""
    if isinstance(value, dict):
        return {key: _filled(inner, variables) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, variables) for inner in value]
    if not isinstance(value, str):
        return value

    def one(found: re.Match[str]) -> str:
        escaped, name, how, text = found.groups()
        if escaped:
            return "$"
        if name in variables:
            return variables[name]
        if how == "?":
            raise KeyError(f"{name}: {text}")
        return text or ""

    return _VARIABLE.sub(one, value)


def after(service: Mapping[str, Any]) -> dict[str, str]:
    """Which services it waits for, and for what of each."""
    return {name: each["condition"] for name, each in service.get("depends_on", {}).items()}


def mounts(project: Mapping[str, Any], service: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Kind ("volume", "config", "secret", "tmpfs"), source and place in the container."""
    for volume in service.get("volumes", ()):
        source, place = volume.split(":")[:2]
        yield "volume", source, place
    for config in service.get("configs", ()):
        yield "config", project["configs"][config["source"]]["file"], config["target"]
    for secret in service.get("secrets", ()):
        yield "secret", project["secrets"][secret]["file"], f"/run/secrets/{secret}"
    for tmpfs in service.get("tmpfs", ()):
        yield "tmpfs", "", tmpfs.partition(":")[0]


def dockerfile(folder: Path) -> DockerfileParser:
    """The Dockerfile, parsed; the parser writes, so it is given a copy."""
    path = folder / "Dockerfile"
    path.write_bytes((ROOT / "Dockerfile").read_bytes())
    return DockerfileParser(path=str(path))


def stages(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """Name of each stage to its instructions, those that it inherits first."""
    found: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for each in dockerfile(folder).structure:
        instruction, value = each["instruction"], each["value"]
        if instruction == "FROM":
            base, *alias = value.split()  # IMAGE [AS NAME]
            name = alias[-1] if alias else base
            found[name] = list(found.get(base, ()))
        elif instruction != "COMMENT" and name:
            found[name].append((instruction, value))
    return found
