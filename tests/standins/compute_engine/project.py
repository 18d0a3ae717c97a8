"""What exists in the stand-in's project, and how operations change it by a clock that the test moves."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from standins.compute_engine.faults import Fault
from targets.base import LABEL_JOB_ID, Observed, ResourceKind, ResourceRef, Status
from targets.simulated_log import Call

Json = dict[str, Any]
HOST = "https://www.googleapis.com/compute/v1"
KINDS = {"disks": ResourceKind.DISK, "images": ResourceKind.ADAPTED_IMAGE, "instances": ResourceKind.INSTANCE}
_BEGUN = {"disks": "CREATING", "images": "PENDING", "instances": "PROVISIONING"}
_MADE = {"disks": "READY", "images": "READY", "instances": "RUNNING"}
_GOING = {"disks": "DELETING", "images": "DELETING", "instances": "STOPPING"}


class ApiError(Exception):
    """An HTTP error as the API words it."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason


@dataclass
class Resource:
    """One disk, image or instance. ``path`` is below the API's root, ``since`` when a get shows it."""

    path: str
    uid: str
    body: Json
    status: str
    since: float
    gone_at: float | None = None

    @property
    def collection(self) -> str:
        return self.path.split("/")[-2]

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    def shown(self) -> Json:
        return {
            **self.body,
            "id": self.uid,
            "name": self.name,
            "status": self.status,
            "selfLink": f"{HOST}/{self.path}",
        }


@dataclass
class Operation:
    """What is under way, or was."""

    name: str
    kind: str  # "insert" | "delete" | "start" | "resume"
    path: str  # of its target
    uid: str
    request_id: str
    begun_at: float
    done_at: float
    error: tuple[str, str] | None = None
    leaves_failed: bool = False
    applied: bool = False

    def shown(self) -> Json:
        made: Json = {
            "name": self.name, "id": self.name.partition("-")[2], "operationType": self.kind, "targetId": self.uid,
            "targetLink": f"{HOST}/{self.path}", "status": "DONE" if self.applied else "RUNNING",
            "insertTime": _rfc3339(self.begun_at), "progress": 100 if self.applied else 0,
        }  # fmt: skip
        if self.request_id:
            made["clientOperationId"] = self.request_id
        if self.applied and self.error:
            made["error"] = {"errors": [{"code": self.error[0], "message": self.error[1]}]}
            made["httpErrorStatusCode"] = 403
        return made


@dataclass
class Project:
    """``quotas``: how many may exist, by collection; ``quota_by_operation`` says it in the operation, not at once.

    ``durations``: seconds that an operation takes, by method. ``list_lag_s``: how old a list is.
    """

    clock: Callable[[], float]
    durations: dict[str, float] = field(default_factory=dict)
    quotas: dict[str, int] = field(default_factory=dict)
    quota_by_operation: bool = False
    list_lag_s: float = 0.0
    resources: dict[str, Resource] = field(default_factory=dict)
    graves: list[Resource] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    log: list[Call] = field(default_factory=list)
    next_uid: int = 1000

    def settle(self) -> None:
        """Let everything happen that was to happen by now."""
        now = self.clock()
        for operation in sorted((each for each in self.operations if not each.applied), key=lambda each: each.done_at):
            if operation.done_at <= now:
                self._apply(operation)

    def _apply(self, operation: Operation) -> None:
        operation.applied = True
        resource = self.resources.get(operation.path)
        if resource is None or resource.uid != operation.uid:
            return
        if operation.kind == "delete":
            self._end(resource, operation.done_at, "delete")
        elif operation.error is None:
            resource.status = _MADE[resource.collection]
        elif operation.leaves_failed:
            resource.status = "FAILED"
        else:
            self._end(resource, operation.done_at, "rolled back")

    def _end(self, resource: Resource, at: float, by: str) -> None:
        resource.gone_at = at
        self.graves.append(self.resources.pop(resource.path))
        self.effect(by, resource, "gone", at)

    def effect(self, op: str, resource: Resource, outcome: str, at: float) -> None:
        """Write down what came to exist or went."""
        job_id = resource.body.get("labels", {}).get(LABEL_JOB_ID)
        self.log.append(
            Call(at, 0, op, "effect", KINDS[resource.collection], resource.name, job_id, None, resource.uid, outcome)
        )

    def called(self, op: str, collection: str, name: str, uid: str | None = None) -> None:
        """Write down a call that changes something."""
        self.log.append(Call(self.clock(), 0, op, "start", KINDS.get(collection), name, None, None, uid))

    def at(self, path: str) -> Resource | None:
        """What a get of the path shows; its last part may be a numeric id."""
        parent, _, last = path.rpartition("/")
        if last.isdigit():
            found = (
                each for each in self.resources.values() if each.uid == last and each.path.startswith(f"{parent}/")
            )
            resource = next(found, None)
        else:
            resource = self.resources.get(path)
        return resource if resource is not None and resource.since <= self.clock() else None

    def must_get(self, path: str) -> Resource:
        resource = self.at(path)
        if resource is None:
            raise ApiError(404, "notFound", f"The resource '{path}' was not found")
        return resource

    def repeated(self, request_id: str, kind: str, path: str) -> Operation | None:
        """The operation that was begun with the same request id."""
        found = (
            each for each in self.operations
            if request_id and (each.request_id, each.kind, each.path) == (request_id, kind, path)
        )  # fmt: skip
        return next(found, None)

    def begin_insert(self, method: str, path: str, body: Json, request_id: str, fault: Fault | None) -> Operation:
        """Raises: ApiError for a name that is taken, or a quota that is used up."""
        collection = path.split("/")[-2]
        if path in self.resources:
            raise ApiError(409, "alreadyExists", f"The resource '{path}' already exists")
        error = None
        used = sum(each.collection == collection for each in self.resources.values())
        if used >= self.quotas.get(collection, used + 1):
            text = f"Quota '{collection.upper()}' exceeded.  Limit: {float(self.quotas[collection])} in region europe-west1."
            if not self.quota_by_operation:
                raise ApiError(403, "quotaExceeded", text)
            error = ("QUOTA_EXCEEDED", text)
        if fault is not None and fault.kind in ("operation", "half_made"):
            error = (fault.reason, fault.message)
        self.next_uid += 1
        hidden_s = fault.delay_s if fault is not None and fault.kind == "hidden" else 0.0
        resource = Resource(path, str(self.next_uid), dict(body), _BEGUN[collection], self.clock() + hidden_s)
        operation = self._operation(method, "insert", resource, request_id, fault)
        operation.error, operation.leaves_failed = error, fault is not None and fault.kind == "half_made"
        self.resources[path] = resource
        self.effect("create", resource, "made", self.clock())
        self.settle()
        return operation

    def begin(self, method: str, kind: str, resource: Resource, request_id: str, fault: Fault | None) -> Operation:
        """Begin to delete, start or resume."""
        operation = self._operation(method, kind, resource, request_id, fault)
        resource.status = _GOING[resource.collection] if kind == "delete" else "STAGING"
        self.settle()
        return operation

    def _operation(self, method: str, kind: str, of: Resource, request_id: str, fault: Fault | None) -> Operation:
        now, more = self.clock(), fault.delay_s if fault is not None and fault.kind == "slow" else 0.0
        done_at = now + self.durations.get(method, 0.0) + more
        operation = Operation(
            f"operation-{len(self.operations) + 1}", kind, of.path, of.uid, request_id, now, max(done_at, of.since)
        )
        self.operations.append(operation)
        return operation

    def listed(self, parent: str, expression: str) -> list[Json]:
        """What a list shows: the state of ``list_lag_s`` ago."""
        at = self.clock() - self.list_lag_s
        stood = [
            each for each in (*self.resources.values(), *self.graves)
            if each.since <= at and (each.gone_at is None or each.gone_at > at) and each.path.startswith(f"{parent}/")
        ]  # fmt: skip
        return [shown for each in stood if _matches(shown := each.shown(), expression)]

    def listed_operations(self, where: str, expression: str) -> list[Json]:
        """The operations of a zone, a region, or of what is global."""
        found = (each.shown() for each in self.operations if each.path.startswith(f"{where}/"))
        return [shown for shown in found if _matches(shown, expression)]

    def everything(self) -> list[Observed]:
        """All that exists, for a judge."""
        return [
            Observed(
                ResourceRef(KINDS[each.collection], each.name), each.uid, Status.READY, each.body.get("labels", {})
            )
            for each in self.resources.values()
        ]


def _matches(shown: Json, expression: str) -> bool:
    """The two kinds of filter that a client of this stand-in uses. Raises: ApiError for any other."""
    if not expression:
        return True
    if match := re.fullmatch(r"labels\.([-_a-z0-9]+):\*", expression):
        return match[1] in shown.get("labels", {})
    if match := re.fullmatch(r'(\w+) eq "([^"]*)"', expression):
        return re.fullmatch(match[2], str(shown.get(match[1], ""))) is not None
    raise ApiError(400, "invalid", f"Invalid value for field 'filter': '{expression}'. Invalid list filter expression.")


def _rfc3339(time: float) -> str:
    return dt.datetime.fromtimestamp(time, dt.UTC).isoformat(timespec="milliseconds")
