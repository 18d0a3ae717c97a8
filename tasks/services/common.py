"""What all services share: idempotent requests, pages, look-ups that say what to do."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypedDict, TypeVar

from models import operations
from models.catalog import Catalog, JobRecord, L, N
from models.filters import FilterError
from models.listing import OrderError
from models.operations import NewOperation
from models.schema import CloneJob, MigratingVm, Operation, ReplicationCycle, Source, TargetProject
from tasks.errors import InvalidArgument, NotFound
from tasks.names import location_of
from tasks.runtime import Runtime
from tasks.services.page_tokens import PageTokens

T = TypeVar("T")
R = TypeVar("R", bound=Source | TargetProject | MigratingVm | CloneJob | JobRecord)
MOST, _DEFAULT = 1000, 500  # contract section 2.2: 500 by default, 1000 at most
TYPE_NAMES: dict[type, str] = {
    Source: "Source", TargetProject: "TargetProject", MigratingVm: "MigratingVm",
    ReplicationCycle: "ReplicationCycle", CloneJob: "CloneJob", JobRecord: "CloneJob", Operation: "Operation",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Request:
    """Idempotency of a write (AIP-155). ``body_hash`` covers the request without its id."""

    id: str = ""
    body_hash: str = ""


class Paging(TypedDict, total=False):
    """The arguments that every list takes besides its parent: AIP-158, AIP-160 (filter), AIP-132 (order_by)."""

    page_size: int
    page_token: str
    filter: str
    order_by: str


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some of a list; an empty ``next_page_token`` is its end (AIP-158).

    ``token_after`` makes the token that goes on after the first n items, for whoever can give no more of them at once.
    """

    items: Sequence[T]
    next_page_token: str
    token_after: Callable[[int], str] | None = None


def new_operation(verb: str, method: str, target: str, request: Request) -> NewOperation:
    """Raises: InvalidArgument for a request id that is not a UUID, or the zero UUID."""
    if request.id:
        try:
            zero = uuid.UUID(request.id).int == 0
        except ValueError:
            zero = True
        if zero:
            raise InvalidArgument("request_id", "must be a UUID, and not the zero UUID")
    return NewOperation(location_of(target), verb, method, target, request.id, request.body_hash)


def reused(error: operations.RequestIdReused) -> InvalidArgument:
    """What a request id with another body gets."""
    return InvalidArgument("request_id", f"{error.args[0]} was used with another request; send a new one",
                           reason="REQUEST_ID_REUSED")  # fmt: skip


def result_of(operation: Operation, row: R | None) -> R | None:
    """``row``, which has the name that the operation is about, unless that resource was deleted and another one has its
    name now: no operation is older than its resource."""
    return None if row is None or row.create_time > operation.create_time else row


def must_get(catalog: Catalog, cls: type[N], name: str, hint: str = "") -> N:
    """Raises: NotFound."""
    row = catalog.get(cls, name)
    if row is None:
        raise NotFound(TYPE_NAMES[cls], name, hint)
    return row


def list_page(runtime: Runtime, cls: type[L], parent: str, paging: Paging) -> Page[L]:
    """A page of the parent's resources. Raises: InvalidArgument for a size, filter, order or token that cannot be used."""
    page_size, page_token = paging.get("page_size", 0), paging.get("page_token", "")
    filter_text, order_by = paging.get("filter", ""), paging.get("order_by", "")
    if page_size < 0:
        raise InvalidArgument("page_size", "must not be negative; 0 means the default of 500")
    size = min(page_size or _DEFAULT, MOST)
    tokens, now = PageTokens(runtime.page_token_key), runtime.clock()
    binding = (TYPE_NAMES[cls], parent, filter_text, order_by)
    after = tokens.read(page_token, binding, now) if page_token else None
    try:
        found = runtime.catalog.list_page(
            cls, parent, limit=size + 1, filter_text=filter_text, order_by=order_by, after=after
        )
    except FilterError as error:
        raise InvalidArgument("filter", str(error), reason="INVALID_FILTER") from None
    except OrderError as error:
        raise InvalidArgument("order_by", str(error), reason="INVALID_ORDER_BY") from None
    more = len(found) > size
    token = tokens.make(binding, found[size - 1].keys, now) if more else ""
    places = [each.keys for each in found[:size]]
    return Page([each.row for each in found[:size]], token, lambda count: tokens.make(binding, places[count - 1], now))
