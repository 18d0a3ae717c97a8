"""What the handlers share: idempotency, paging arguments, pages that clients can take."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

from google.protobuf.message import Message

from api.fields import clear_unsettable
from api.names import check_request_id
from tasks.services import Paging, Request
from tasks.services.common import Page

P = ParamSpec("P")
T = TypeVar("T")

# gRPC clients refuse answers above 4 MiB unless told otherwise, and the official one is not told.
MOST_ANSWER_BYTES = 3584 << 10
_FRAME_BYTES = 8  # tag and length of one item


def attempt(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T | Exception:
    """The result or the error: among calls that are answered together, what is wrong with one is no other's affair."""
    try:
        return function(*args, **kwargs)
    except Exception as error:  # noqa: BLE001  (it goes to its own caller)
        return error


def idempotency(request: Any, body_field: str = "") -> Request:
    """The request's id and the hash of all the rest, by which a retry is told from another request (AIP-155).

    Fields that the API ignores on input do not count.
    """
    copy = type(request)()
    copy.CopyFrom(request)
    copy.ClearField("request_id")
    if body_field:
        clear_unsettable(getattr(copy, body_field))
    digest = hashlib.sha256(copy.SerializeToString(deterministic=True)).hexdigest()
    return Request(id=check_request_id(request.request_id), body_hash=digest)


def paging(request: Any) -> Paging:
    """The arguments of a list, all of them: ``filter`` and ``order_by`` are applied or refused, never ignored.

    ListOperationsRequest has no ``order_by``. ``unreachable`` of the responses stays empty: all locations of a service
    are in one database, so that a list is whole or an error.
    """
    return Paging(
        page_size=request.page_size, page_token=request.page_token,
        filter=request.filter, order_by=getattr(request, "order_by", ""),
    )  # fmt: skip


def page_of(response: Any, field: str, page: Page[Any], items: Sequence[Message]) -> Message:
    """The page as a response message, which ends early where it would be larger than clients take (AIP-158 allows it).

    One item is always given, so that a list goes on.
    """
    room, count = MOST_ANSWER_BYTES, 0
    for item in items:
        room -= item.ByteSize() + _FRAME_BYTES
        if room < 0 and count:
            break
        count += 1
    token = page.next_page_token
    if count < len(items) and page.token_after is not None:
        items, token = items[:count], page.token_after(count)
    message: Message = response(**{field: items}, next_page_token=token)
    return message
