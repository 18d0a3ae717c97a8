"""google.cloud.location.Locations."""

from __future__ import annotations

from typing import Any

from google.cloud.location import locations_pb2
from google.protobuf.message import Message

from api.handlers.common import page_of, paging
from api.names import LOCATION, PROJECT, check_name
from tasks.services import Services


def get(services: Services, request: Any) -> Message:
    """One location."""
    name = check_name("name", request.name, LOCATION)
    return _location(name.partition("/locations/")[0], services.locations.get(name))


def list_(services: Services, request: Any) -> Message:
    """The locations of one project; here the parent is in ``name``."""
    project = check_name("name", request.name, PROJECT)
    page = services.locations.list(project, **paging(request))
    items = [_location(project, each) for each in page.items]
    return page_of(locations_pb2.ListLocationsResponse, "locations", page, items)


def _location(project: str, location_id: str) -> Message:
    name = f"{project}/locations/{location_id}"
    return locations_pb2.Location(name=name, location_id=location_id, display_name=location_id)
