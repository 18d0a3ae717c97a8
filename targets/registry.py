"""The types of targets that can be configured: ours, and those that other packages bring.

A type is a pydantic model of its options that makes the target. Another package brings one by an entry point of the
group ``clonejob.targets``; see docs/adding-a-target.md.
"""

from __future__ import annotations

import abc
import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from targets.base import Target
from targets.snapshot_store import FileSnapshotStore

ENTRY_POINT_GROUP = "clonejob.targets"
_OUR_PACKAGE = "clonejob"
# Modules that are light to import: the settings of every process name them, what they drive is imported by make().
_OURS = {
    "compute_engine": "targets.compute_engine.options:ComputeEngineOptions",
    "ec2": "targets.ec2.options:Ec2Options",
    "qemu": "targets.qemu_options:QemuOptions",
    "simulated": "targets.simulated_options:SimulatedOptions",
}


@dataclass(frozen=True, slots=True)
class Place:
    """What the service gives a target: its configured name, a folder of its own, the snapshot store, how long one call
    may take."""

    name: str
    root: Path
    snapshots: FileSnapshotStore
    call_timeout_s: float


@dataclass(frozen=True, slots=True)
class Finding:
    """Why clones cannot be made with these options on this machine, and what to do about it.

    ``is_certain``: False if it may be otherwise for the service, which may run as another user or elsewhere.
    """

    detail: str
    action: str
    is_certain: bool = True


class TargetOptions(BaseModel, abc.ABC):
    """The options of one type of target, validated when the settings are read.

    Two facts about the type are for the conformance kit. ``is_billable``: whether what is made there may cost money, so
    that somebody is asked first. ``reads_snapshots``: whether disks hold what the snapshots hold.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    is_billable: ClassVar[bool] = True
    reads_snapshots: ClassVar[bool] = True

    @abc.abstractmethod
    def make(self, place: Place) -> Target:
        """The target. Makes no connection yet. Raises: UnsupportedError if what it needs is not installed."""

    def findings(self) -> Iterator[Finding]:
        """What is wrong with them on this machine, for ``clonejob doctor``: a look that makes nothing and calls no provider."""
        yield from ()


class UnknownTargetTypeError(ValueError):
    """No package that is installed brings this type of target, or the one that does cannot be used."""


@dataclass(frozen=True, slots=True)
class TargetType:
    """One type of target and the package that brings it. ``problem``: why it cannot be used, or empty."""

    name: str
    package: str
    version: str
    options: type[TargetOptions] | None
    problem: str = ""


def options_of(type_name: str, options: Mapping[str, Any]) -> TargetOptions:
    """The options of a target of this type; no other type's package is imported.

    Raises: UnknownTargetTypeError, pydantic.ValidationError.
    """
    if type_name in _OURS:
        return _our_options(type_name)(**options)
    brought = [each for each in _brought() if each.name == type_name]
    if not brought:
        raise UnknownTargetTypeError(f"no type {type_name!r}; there are {', '.join(type_names())}")
    loaded = _load(brought[0], brought)
    if loaded.options is None:
        raise UnknownTargetTypeError(loaded.problem)
    return loaded.options(**options)


def type_names() -> list[str]:
    """Every type that can be configured here."""
    return sorted({*_OURS, *(each.name for each in _brought())})


def types() -> list[TargetType]:
    """Every type that is installed here, ours first; a package that cannot be imported is a problem of its types alone."""
    version = metadata.version(_OUR_PACKAGE)
    ours = [TargetType(name, _OUR_PACKAGE, version, _our_options(name)) for name in sorted(_OURS)]
    brought = _brought()
    return [*ours, *(_load(each, [other for other in brought if other.name == each.name]) for each in brought)]


def _our_options(name: str) -> type[TargetOptions]:
    module, _, attribute = _OURS[name].partition(":")
    found: type[TargetOptions] = getattr(importlib.import_module(module), attribute)
    return found


def _load(entry: metadata.EntryPoint, of_that_name: Sequence[metadata.EntryPoint]) -> TargetType:
    """The type behind an entry point, or why it cannot be used."""
    package, version = _package(entry)
    if entry.name in _OURS:
        return TargetType(entry.name, package, version, None, f"{entry.name!r} is a type of clonejob's own")
    if len(of_that_name) > 1:
        packages = " and ".join(sorted(" ".join(_package(each)) for each in of_that_name))
        problem = f"type {entry.name!r} is brought by {packages}; uninstall all but one of them"
        return TargetType(entry.name, package, version, None, problem)
    whose = f"type {entry.name!r} ({entry.value}) of package {package} {version}"
    try:
        found = entry.load()
    except Exception as error:  # noqa: BLE001 - another package's code
        problem = f"{whose} cannot be loaded: {type(error).__name__}: {error}; repair or uninstall that package"
        return TargetType(entry.name, package, version, None, problem)
    if not (isinstance(found, type) and issubclass(found, TargetOptions)):
        return TargetType(
            entry.name, package, version, None, f"{whose} is not a class of targets.registry.TargetOptions"
        )
    return TargetType(entry.name, package, version, found)


def _package(entry: metadata.EntryPoint) -> tuple[str, str]:
    return (entry.dist.name, entry.dist.version) if entry.dist else ("an unknown package", "")


def _brought() -> list[metadata.EntryPoint]:
    """The entry points of other packages; one that is found twice on the path counts once."""
    found = {(each.name, each.value, _package(each)): each for each in metadata.entry_points(group=ENTRY_POINT_GROUP)}
    return sorted(found.values(), key=lambda each: (each.name, _package(each)))
