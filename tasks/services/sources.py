"""Sources: where VMs migrate from."""

from __future__ import annotations

from typing import Any, Unpack

from models.catalog import InUse
from models.operations import RequestIdReused
from models.schema import Operation, Source
from tasks.errors import FailedPrecondition, NotFound
from tasks.names import check_id
from tasks.services.bounds import check_attached
from tasks.services.common import Page, Paging, Request, list_page, must_get, new_operation, reused
from tasks.services.resources import Change, ResourceService


class SourceService(ResourceService):
    """Sources. What they replicate from is not our business; a clone needs only their name."""

    def create(
        self, parent: str, source_id: str, body: dict[str, Any], request: Request
    ) -> tuple[Operation, Source | None]:
        """Raises: InvalidArgument, AlreadyExists."""
        name = f"{parent}/sources/{check_id('source_id', source_id)}"
        check_attached("source", body)
        now = self._runtime.clock()
        row = Source(name=name, parent=parent, body=body, create_time=now, update_time=now)
        return self._insert(row, new_operation("create", "CreateSource", name, request))

    def update(self, name: str, change: Change, request: Request) -> tuple[Operation, Source | None]:
        """Raises: InvalidArgument, NotFound."""

        def write(row: Source) -> None:
            body = change(row.body)
            check_attached("source", body)
            row.body = body

        return self._update(Source, name, write, new_operation("update", "UpdateSource", name, request))

    def delete(self, name: str, request: Request) -> Operation:
        """Raises: InvalidArgument, NotFound, FailedPrecondition (it has VMs; says how many)."""
        try:
            done = self._catalog.delete_source(name, new_operation("delete", "DeleteSource", name, request))
        except RequestIdReused as error:
            raise reused(error) from None
        except InUse as error:
            raise FailedPrecondition(
                name,
                f"{name} has {error.args[0]} migrating VM{'s' if error.args[0] > 1 else ''}; delete them first",
                reason="SOURCE_HAS_VMS",
            ) from None
        if done is None:
            raise NotFound("Source", name)
        return done

    def get(self, name: str) -> Source:
        """Raises: NotFound."""
        return must_get(self._catalog, Source, name)

    def list(self, parent: str, **paging: Unpack[Paging]) -> Page[Source]:
        """Raises: InvalidArgument."""
        return list_page(self._runtime, Source, parent, paging)
