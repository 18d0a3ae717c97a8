"""The few calls to Compute Engine that the target makes, as JSON in and JSON out, through Google's own client library.

The library takes seconds and 150 MB to import, so it is imported with the first call. No call is repeated by the
library: whoever retries must look again first.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from targets.compute_engine.credentials import read_credentials
from targets.compute_engine.errors import NotFoundError, api_error
from targets.compute_engine.options import ComputeEngineOptions
from targets.errors import RefusedError, TransientError

Json = dict[str, Any]
_LEAST_S = 0.05  # with less time than this left, a call is not begun


@dataclass(frozen=True, slots=True)
class Collection:
    """One kind of resource of the API: the client class, the argument that names one, its message, where it lies."""

    name: str
    client: str
    argument: str
    message: str
    scope: str  # "zone" | "region" | "global"


DISKS = Collection("disks", "DisksClient", "disk", "Disk", "zone")
REGION_DISKS = Collection("disks", "RegionDisksClient", "disk", "Disk", "region")
INSTANCES = Collection("instances", "InstancesClient", "instance", "Instance", "zone")
IMAGES = Collection("images", "ImagesClient", "image", "Image", "global")
_OPERATIONS = {
    "zone": "ZoneOperationsClient",
    "region": "RegionOperationsClient",
    "global": "GlobalOperationsClient",
}


class ComputeApi:
    """The clients of one target in this process. A child process makes its own: connections are not shared."""

    def __init__(self, options: ComputeEngineOptions) -> None:
        self.options = options
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._clients: dict[str, Any] = {}
        self._credentials: Any = None

    def begin(self, timeout_s: float) -> Calls:
        """Calls that together take no longer than this."""
        return Calls(self, time.monotonic() + timeout_s)

    def close(self) -> None:
        """Close the connections; the next call opens them again."""
        with self._lock:
            clients, self._clients = self._clients, {}
        for client in clients.values():
            client.transport.close()

    def client(self, class_name: str) -> Any:
        """The library's client of that class. Raises: RefusedError for credentials that cannot be used."""
        with self._lock:
            if self._pid != os.getpid():
                self._pid, self._clients, self._credentials = os.getpid(), {}, None
            if class_name not in self._clients:
                from google.api_core.client_options import ClientOptions
                from google.cloud import compute_v1

                if self._credentials is None:
                    self._credentials = read_credentials(self.options)
                made = getattr(compute_v1, class_name)(
                    credentials=self._credentials,
                    client_options=ClientOptions(api_endpoint=self.options.endpoint or None),
                )
                self._clients[class_name] = made
            return self._clients[class_name]


class Calls:
    """Calls to the API for one call to the target. After ``deadline`` none is begun: what a frozen process had still
    to do it does not do when it wakes up."""

    def __init__(self, api: ComputeApi, deadline: float) -> None:
        self._api = api
        self._deadline = deadline

    def get(self, collection: Collection, name: str) -> Json | None:
        """The resource, by name or numeric id; None for 404."""
        request = {**self._where(collection.scope), collection.argument: name}
        try:
            return self._call(collection.client, "get", request)
        except NotFoundError:
            return None

    def source(self, collection: str, project: str, region: str, name: str) -> Json | None:
        """A snapshot or image of any project; None for 404."""
        client = {"snapshots": "SnapshotsClient", "images": "ImagesClient"}[collection]
        request = {"project": project, collection[:-1]: name}
        if region:
            client, request = "RegionSnapshotsClient", {**request, "region": region}
        try:
            return self._call(client, "get", request)
        except NotFoundError:
            return None

    def address(self, project: str, region: str, name: str) -> Json:
        """A reserved address. Raises: NotFoundError."""
        return self._call("AddressesClient", "get", {"project": project, "region": region, "address": name})

    def insert(self, collection: Collection, body: Json, request_id: str) -> Json:
        """Start to create; the operation. Raises: AlreadyExistsError, NotFoundError, TargetError."""
        from google.cloud import compute_v1

        message = getattr(compute_v1, collection.message).from_json(json.dumps(body))
        argument = f"{collection.argument}_resource"
        return self._call(
            collection.client,
            "insert_unary",
            {**self._where(collection.scope), argument: message, "request_id": request_id},
        )

    def delete(self, collection: Collection, uid: str) -> None:
        """Start to delete what has that numeric id, whatever has its name by now. Raises: NotFoundError, TargetError."""
        self._call(collection.client, "delete_unary", {**self._where(collection.scope), collection.argument: uid})

    def power_on(self, name: str, *, suspended: bool) -> None:
        """Start an instance that does not run. Raises: NotFoundError, TargetError."""
        method = "resume_unary" if suspended else "start_unary"
        self._call("InstancesClient", method, {**self._where("zone"), "instance": name})

    def labelled(self, collection: Collection, label: str) -> list[Json]:
        """What carries the label. A list may be some seconds old."""
        return self._list(collection.client, collection.scope, f"labels.{label}:*")

    def operations(self, collection: Collection, name: str) -> list[Json]:
        """What was begun with the name, newest first."""
        target = f".*/{collection.name}/{name}"
        found = self._list(_OPERATIONS[collection.scope], collection.scope, f'targetLink eq "{target}"')
        return sorted(found, key=lambda each: str(each.get("insertTime", "")), reverse=True)

    def serial_output(self, name: str) -> str:
        """What the first serial port has shown: at most its last megabyte."""
        answer = self._call(
            "InstancesClient", "get_serial_port_output", {**self._where("zone"), "instance": name, "port": 1}
        )
        return str(answer.get("contents", ""))

    def screenshot(self, name: str) -> str:
        """The screen in base64, or nothing."""
        answer = self._call("InstancesClient", "get_screenshot", {**self._where("zone"), "instance": name})
        return str(answer.get("contents", ""))

    def _where(self, scope: str) -> Json:
        options = self._api.options
        where = {"project": options.project}
        if scope == "zone":
            where["zone"] = options.zone
        elif scope == "region":
            where["region"] = options.region
        return where

    def _list(self, client: str, scope: str, expression: str) -> list[Json]:
        request = {**self._where(scope), "filter": expression}
        found: list[Json] = []
        while True:
            # Page by page: the library's own pager would give each page the time of the first.
            page = self._raw(client, "list", request)
            found += [_json(each) for each in page.items]
            if not page.next_page_token:
                return found
            request = {**request, "page_token": page.next_page_token}

    def _call(self, client: str, method: str, request: Mapping[str, Any]) -> Json:
        return _json(self._raw(client, method, request))

    def _raw(self, client: str, method: str, request: Mapping[str, Any]) -> Any:
        """One HTTP request. A connection may take half of the time that is left, and an answer the other half."""
        with _translated():
            made: Callable[..., Any] = getattr(self._api.client(client), method)
            left = self._deadline - time.monotonic()
            if left < _LEAST_S:
                raise TransientError("Compute Engine took too long; try again.")
            return made(request=dict(request), retry=None, timeout=left / 2)


@contextmanager
def _translated() -> Iterator[None]:
    """The library's errors as those of a target."""
    import requests
    from google.api_core.exceptions import GoogleAPICallError
    from google.auth.exceptions import GoogleAuthError, TransportError

    try:
        yield
    except GoogleAPICallError as error:
        reason = next((str(each.get("reason", "")) for each in error.errors if isinstance(each, Mapping)), "")
        raise api_error(int(error.code or 500), reason, str(error.message)) from error
    except (requests.exceptions.RequestException, TransportError) as error:
        raise TransientError(f"Compute Engine could not be reached: {_short(error)}") from error
    except GoogleAuthError as error:
        if getattr(error, "retryable", False):
            raise TransientError(f"No access token for now: {error}") from error
        raise RefusedError(f"Google does not accept the credentials of this target: {error}") from error


def _short(error: Exception) -> str:
    return str(error).split("(Caused by", maxsplit=1)[0][:300]


def _json(message: Any) -> Json:
    from google.protobuf import json_format

    plain: Json = json_format.MessageToDict(type(message).pb(message))
    return plain
