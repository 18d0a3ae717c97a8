"""What the stand-in does for each method that it knows."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from standins.compute_engine.discovery import Call
from standins.compute_engine.faults import Fault
from standins.compute_engine.project import ApiError, Project, Resource

Json = dict[str, Any]
_COLLECTIONS = {"disks": "disks", "regionDisks": "disks", "instances": "instances", "images": "images"}
_ARGUMENTS = {"disks": "disk", "instances": "instance", "images": "image"}
_OPERATIONS = ("zoneOperations", "regionOperations", "globalOperations")


class Methods:
    """The methods on one project. ``sources``: the snapshots, images and addresses that exist, by path."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.sources: dict[str, Json] = {}
        self.consoles: dict[str, str] = {}
        self.screens: dict[str, bytes] = {}
        self.page_size = 500

    def run(self, call: Call, fault: Fault | None) -> Json:
        """Raises: ApiError."""
        family, _, verb = call.method.rpartition(".")
        if call.method in ("snapshots.get", "regionSnapshots.get", "addresses.get"):
            return self._source(call)
        if family in _OPERATIONS:
            return self._operations(call, verb)
        act: Callable[..., Json] | None = getattr(self, f"_{verb}", None)
        if family not in _COLLECTIONS or act is None:
            raise ApiError(501, "notImplemented", f"The stand-in does not do {call.method}")
        return act(call, _COLLECTIONS[family], fault)

    def _path(self, call: Call, collection: str) -> str:
        return f"{_where(call)}/{collection}/{call.path[_ARGUMENTS[collection]]}"

    def _get(self, call: Call, collection: str, fault: Fault | None) -> Json:
        path = self._path(call, collection)
        if path in self.sources:
            return self.sources[path]
        return self.project.must_get(path).shown()

    def _list(self, call: Call, collection: str, fault: Fault | None) -> Json:
        return self._page(call, self.project.listed(f"{_where(call)}/{collection}", call.query.get("filter", "")))

    def _page(self, call: Call, items: list[Json]) -> Json:
        start = int(call.query.get("pageToken", "0"))
        page: Json = {"items": items[start : start + self.page_size]}
        if start + self.page_size < len(items):
            page["nextPageToken"] = str(start + self.page_size)
        return page

    def _insert(self, call: Call, collection: str, fault: Fault | None) -> Json:
        path, request_id = f"{_where(call)}/{collection}/{call.body['name']}", call.query.get("requestId", "")
        if done := self.project.repeated(request_id, "insert", path):
            return done.shown()
        self.project.called("create", collection, call.body["name"])
        if collection == "instances":
            self._check_instance(call)
        else:
            self._check_source(call.body)
        return self.project.begin_insert(call.method, path, call.body, request_id, fault).shown()

    def _check_source(self, body: Json) -> None:
        given = [body[key] for key in ("sourceSnapshot", "sourceImage") if key in body]
        if len(given) != 1:
            raise ApiError(400, "invalid", "One of sourceSnapshot and sourceImage must be given")
        if given[0] in self.sources:
            return
        resource = self.project.must_get(given[0])
        if resource.status != "READY":
            raise ApiError(400, "resourceNotReady", f"The resource '{given[0]}' is not ready")

    def _check_instance(self, call: Call) -> None:
        body = call.body
        if not body.get("networkInterfaces"):
            raise ApiError(400, "required", "At least one network interface is required.")
        if not str(body.get("machineType", "")).startswith(f"zones/{call.path['zone']}/machineTypes/"):
            raise ApiError(
                400, "invalid", f"Invalid value for field 'resource.machineType': '{body.get('machineType')}'"
            )
        if [bool(disk.get("boot")) for disk in body.get("disks", ())] != [True, *[False] * (len(body["disks"]) - 1)]:
            raise ApiError(400, "invalid", "The first disk must be the boot disk, and no other")
        for disk in body["disks"]:
            resource = self.project.must_get(disk["source"])
            if resource.status != "READY":
                raise ApiError(400, "resourceNotReady", f"The resource '{disk['source']}' is not ready")
            if user := self._user_of(resource):
                raise ApiError(400, "resourceInUseByAnotherResource", _in_use(resource, user))

    def _user_of(self, disk: Resource) -> Resource | None:
        instances = (each for each in self.project.resources.values() if each.collection == "instances")
        return next((i for i in instances if disk.path in [d["source"] for d in i.body.get("disks", ())]), None)

    def _delete(self, call: Call, collection: str, fault: Fault | None) -> Json:
        resource = self.project.must_get(self._path(call, collection))
        self.project.called("delete", collection, resource.name, resource.uid)
        if collection == "disks" and (user := self._user_of(resource)):
            raise ApiError(400, "resourceInUseByAnotherResource", _in_use(resource, user))
        running = [o for o in self.project.operations if o.uid == resource.uid and not o.applied]
        if any(operation.kind == "delete" for operation in running):
            raise ApiError(400, "resourceNotReady", f"The resource '{resource.path}' is not ready")
        for operation in running:
            operation.applied, operation.error = True, ("ABORTED", "The resource was deleted")
        return self.project.begin(call.method, "delete", resource, call.query.get("requestId", ""), fault).shown()

    def _start(self, call: Call, collection: str, fault: Fault | None, kind: str = "start") -> Json:
        resource = self.project.must_get(self._path(call, collection))
        self.project.called("create", collection, resource.name, resource.uid)
        if resource.status not in ("TERMINATED", "STOPPED", "SUSPENDED"):
            raise ApiError(400, "resourceNotReady", f"The resource '{resource.path}' is not ready")
        return self.project.begin(call.method, kind, resource, call.query.get("requestId", ""), fault).shown()

    def _resume(self, call: Call, collection: str, fault: Fault | None) -> Json:
        return self._start(call, collection, fault, "resume")

    def _getSerialPortOutput(self, call: Call, collection: str, fault: Fault | None) -> Json:  # noqa: N802
        resource = self.project.must_get(self._path(call, collection))
        if resource.status != "RUNNING":
            raise ApiError(400, "resourceNotReady", f"The resource '{resource.path}' is not ready")
        text = self.consoles.get(resource.name, self.consoles.get("*", f"\r\n{resource.name} login: "))
        return {"contents": text, "start": "0", "next": str(len(text))}

    def _getScreenshot(self, call: Call, collection: str, fault: Fault | None) -> Json:  # noqa: N802
        resource = self.project.must_get(self._path(call, collection))
        if not resource.body.get("displayDevice", {}).get("enableDisplay"):
            raise ApiError(400, "invalid", "The display device is not enabled on the instance")
        return {"contents": base64.b64encode(self.screens.get(resource.name, b"\xff\xd8\xff\xe0 a picture")).decode()}

    def _source(self, call: Call) -> Json:
        kind = {"snapshots": "snapshot", "regionSnapshots": "snapshot", "addresses": "address"}[
            call.method.split(".")[0]
        ]
        plural = {"snapshot": "snapshots", "address": "addresses"}[kind]
        path = f"{_where(call)}/{plural}/{call.path[kind]}"
        if path not in self.sources:
            raise ApiError(404, "notFound", f"The resource '{path}' was not found")
        return self.sources[path]

    def _operations(self, call: Call, verb: str) -> Json:
        where = _where(call)
        if verb == "list":
            found = self.project.listed_operations(where, call.query.get("filter", ""))
            return self._page(call, found)
        name = call.path["operation"]
        found = [each for each in self.project.listed_operations(where, "") if each["name"] == name]
        if verb != "get" or not found:
            raise ApiError(404, "notFound", f"The resource '{where}/operations/{name}' was not found")
        return found[0]


def _where(call: Call) -> str:
    if "zone" in call.path:
        place = f"zones/{call.path['zone']}"
    elif "region" in call.path:
        place = f"regions/{call.path['region']}"
    else:
        place = "global"
    return f"projects/{call.path['project']}/{place}"


def _in_use(disk: Resource, user: Resource) -> str:
    return f"The disk resource '{disk.path}' is already being used by '{user.path}'"
