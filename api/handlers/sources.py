"""Sources."""

from __future__ import annotations

from typing import Any

from google.cloud import vmmigration_v1 as v1
from google.protobuf.message import Message

from api import translate
from api.fields import user_body
from api.handlers.common import idempotency, page_of, paging
from api.masks import change_by
from api.names import LOCATION, SOURCE, check_id, check_name
from tasks.services import Services


def create(services: Services, request: Any) -> Message:
    """Credentials in the body are not stored: nothing here connects to a source."""
    parent = check_name("parent", request.parent, LOCATION)
    source_id = check_id("source_id", request.source_id)
    body = user_body(request.source)
    return translate.operation(*services.sources.create(parent, source_id, body, idempotency(request, "source")))


def get(services: Services, request: Any) -> Message:
    """One Source."""
    return translate.source(services.sources.get(check_name("name", request.name, SOURCE)))


def list_(services: Services, request: Any) -> Message:
    """The Sources of one location."""
    page = services.sources.list(check_name("parent", request.parent, LOCATION, wildcards=True), **paging(request))
    items = [translate.source(row) for row in page.items]
    return page_of(v1.ListSourcesResponse.pb(), "sources", page, items)


def update(services: Services, request: Any) -> Message:
    """By field mask (``api/masks.py``)."""
    name = check_name("source.name", request.source.name, SOURCE)
    change = change_by(request.update_mask.paths, request.source)
    # The name says which resource, so it counts although it is output only.
    return translate.operation(*services.sources.update(name, change, idempotency(request)))


def delete(services: Services, request: Any) -> Message:
    """Refused while it has migrating VMs."""
    name = check_name("name", request.name, SOURCE)
    return translate.operation(services.sources.delete(name, idempotency(request)), None)
