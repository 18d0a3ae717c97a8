"""google.longrunning.Operations."""

from __future__ import annotations

from typing import Any

from google.longrunning import operations_pb2
from google.protobuf import empty_pb2
from google.protobuf.message import Message

from api import translate
from api.handlers.common import page_of, paging
from api.names import LOCATION, OPERATION, check_name
from tasks.errors import InvalidArgument
from tasks.services import Services


def get(services: Services, request: Any) -> Message:
    """One operation."""
    return translate.operation(*services.operations.get(check_name("name", request.name, OPERATION)))


def list_(services: Services, request: Any) -> Message:
    """The operations of one location; here the parent is in ``name``."""
    parent = check_name("name", request.name, LOCATION, wildcards=True)
    page = services.operations.list(parent, **paging(request))
    items = [translate.operation(*item) for item in page.items]
    return page_of(operations_pb2.ListOperationsResponse, "operations", page, items)


def cancel(services: Services, request: Any) -> Message:
    """Asks for the cancellation of what the operation waits for; best effort, as the contract says."""
    services.operations.cancel(check_name("name", request.name, OPERATION))
    return empty_pb2.Empty()


def delete(services: Services, request: Any) -> Message:
    """Forgets the operation; what it does goes on."""
    services.operations.delete(check_name("name", request.name, OPERATION))
    return empty_pb2.Empty()


def wait_once(services: Services, request: Any) -> Message:
    """One look at the operation; the gRPC front end repeats it until it is done or the time is up."""
    if request.timeout.seconds < 0 or request.timeout.nanos < 0:
        raise InvalidArgument("timeout", "must not be negative")
    return get(services, request)
