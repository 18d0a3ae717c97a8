"""What the services of sources, target projects and migrating VMs share: errors of their writes, in the contract's terms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from models.catalog import ParentGone, ResourceExists, TargetGone
from models.operations import NewOperation, RequestIdReused
from models.schema import MigratingVm, Operation, Source, TargetProject
from tasks.errors import AlreadyExists, NotFound
from tasks.runtime import Runtime
from tasks.services import preconditions
from tasks.services.common import TYPE_NAMES, result_of, reused

S = TypeVar("S", Source, TargetProject, MigratingVm)
# From the JSON that the user set so far to what it is to be; it refuses by raising InvalidArgument.
Change = Callable[[dict[str, Any]], dict[str, Any]]


class ResourceService:
    """Base."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._catalog = runtime.catalog

    def _insert(self, row: S, operation: NewOperation) -> tuple[Operation, S | None]:
        """The operation, and the resource, None if a repeated request finds it deleted again."""
        try:
            done = self._catalog.insert(row, operation)
        except RequestIdReused as error:
            raise reused(error) from None
        except ResourceExists:
            raise AlreadyExists(TYPE_NAMES[type(row)], row.name) from None
        except ParentGone as error:
            raise NotFound("Source", error.args[0]) from None
        except TargetGone as error:
            raise preconditions.no_target_project(row.name, error.args[0]) from None
        return done, result_of(done, self._catalog.get(type(row), done.target))

    def _update(
        self, cls: type[S], name: str, change: Callable[[S], None], operation: NewOperation
    ) -> tuple[Operation, S | None]:
        try:
            done = self._catalog.update(cls, name, change, operation)
        except RequestIdReused as error:
            raise reused(error) from None
        except TargetGone as error:
            raise preconditions.no_target_project(name, error.args[0]) from None
        if done is None:
            raise NotFound(TYPE_NAMES[cls], name)
        return done, result_of(done, self._catalog.get(cls, name))
