"""google.cloud.location.Locations: where a project can have resources."""

from __future__ import annotations

from typing import Unpack

from tasks.errors import InvalidArgument, NotFound
from tasks.runtime import Runtime
from tasks.services.common import MOST, Page, Paging
from tasks.services.page_tokens import PageTokens


class LocationService:
    """Locations are names, not places: all are in one database. Known are ``global``, the location of the settings and
    every one in which the project has a source."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def _ids(self, project: str) -> list[str]:
        return sorted({"global", self._runtime.location, *self._runtime.catalog.locations(project)})

    def get(self, name: str) -> str:
        """The id of the location ``projects/P/locations/L``. Raises: NotFound."""
        project, _, location = name.partition("/locations/")
        if location not in self._ids(project):
            raise NotFound("Location", name, "; a location is known once it has a source")
        return location

    def list(self, project: str, **paging: Unpack[Paging]) -> Page[str]:
        """The ids of the project's locations, in order. Raises: InvalidArgument, also for any filter."""
        if paging.get("filter"):
            raise InvalidArgument("filter", "is not supported here; leave it empty", reason="UNSUPPORTED_FIELD")
        if (page_size := paging.get("page_size", 0)) < 0:
            raise InvalidArgument("page_size", "must not be negative")
        tokens, now = PageTokens(self._runtime.page_token_key), self._runtime.clock()
        binding = ("Location", project, "", "")
        token = paging.get("page_token", "")
        after = tokens.read(token, binding, now)[0] if token else ""
        ids = [each for each in self._ids(project) if each > after]
        size = min(page_size or MOST, MOST)
        more = len(ids) > size

        def token_after(count: int) -> str:
            return tokens.make(binding, (ids[count - 1],), now)

        return Page(ids[:size], token_after(size) if more else "", token_after)
