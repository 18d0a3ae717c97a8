"""The Python clients, driven by lines of JSON on stdin, answered by one line each on stdout.

``drive.py grpc|grpc_asyncio|rest|discovery``. A command is ``do`` (call, finish, pages), ``method``, ``request`` and ``at``
(endpoint, tls, token); ``finish`` waits for the operation and ``pages`` follows page tokens, with the client's own means.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import re
import sys
from pathlib import Path

CALLS = json.loads(Path(__file__).with_name("calls.json").read_text())


class Gapic:
    """google-cloud-vm-migration."""

    def __init__(self, transport: str, endpoint: str, tls: bool, token: str) -> None:
        import grpc
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import vmmigration_v1 as v1
        from google.cloud.location import locations_pb2
        from google.cloud.vmmigration_v1.services.vm_migration import transports
        from google.longrunning import operations_pb2
        from google.oauth2.credentials import Credentials

        self._v1, self._others, self._rest = v1, (operations_pb2, locations_pb2), transport == "rest"
        self._metadata: list[tuple[str, str]] = []
        cls = v1.VmMigrationAsyncClient if transport == "grpc_asyncio" else v1.VmMigrationClient
        if tls or transport == "rest":
            address = endpoint if tls else f"http://{endpoint}"
            credentials = Credentials(token) if token else AnonymousCredentials()
            self._client = cls(transport=transport, credentials=credentials, client_options={"api_endpoint": address})
            return
        if token:  # gRPC refuses to carry call credentials over a plaintext channel
            self._metadata = [("authorization", f"Bearer {token}")]
        if transport == "grpc":
            self._client = cls(transport=transports.VmMigrationGrpcTransport(channel=grpc.insecure_channel(endpoint)))
        else:
            channel = grpc.aio.insecure_channel(endpoint)
            self._client = cls(transport=transports.VmMigrationGrpcAsyncIOTransport(channel=channel))

    async def call(self, method: str, request: dict) -> object:
        answer = await self._start(method, request)
        return _plain(getattr(answer, "operation", answer))

    async def finish(self, method: str, request: dict) -> object:
        operation = await self._start(method, request)
        return _plain(await _settled(operation.result(timeout=30)))

    async def pages(self, method: str, request: dict) -> object:
        pager, items = await self._start(method, request), re.sub(r"([A-Z])", r"_\1", CALLS[method]["items"]).lower()
        if not hasattr(pager, "pages"):  # Operations and Locations come without a pager
            found = [pager]
            while found[-1].next_page_token:
                found.append(await self._start(method, {**request, "pageToken": found[-1].next_page_token}))
        elif hasattr(pager.pages, "__aiter__"):
            found = [page async for page in pager.pages]
        else:
            found = list(pager.pages)
        return [[_plain(item) for item in getattr(page, items)] for page in found]

    async def _start(self, method: str, request: dict) -> object:
        from google.protobuf import json_format

        wrapper = getattr(self._v1, method + "Request", None)
        raw = wrapper.pb() if wrapper else next(
            getattr(module, method + "Request") for module in self._others if hasattr(module, method + "Request")
        )  # fmt: skip
        message = json_format.ParseDict(request, raw())
        bound = getattr(self._client, re.sub(r"(?<!^)([A-Z])", r"_\1", method).lower())
        sent = wrapper.wrap(message) if wrapper else message
        return await _settled(bound(request=sent, timeout=20, metadata=self._metadata))

    def failure(self, error: Exception) -> dict:
        from google.api_core.exceptions import GoogleAPICallError

        if not isinstance(error, GoogleAPICallError):
            raise error
        kinds = [each["@type"].rpartition(".")[2] if isinstance(each, dict) else type(each).__name__
                 for each in error.details]  # fmt: skip
        # Over REST the client goes by the HTTP status alone: Conflict is ALREADY_EXISTS or ABORTED.
        code = None if self._rest else error.grpc_status_code.name
        return {"code": code, "http": error.code, "reason": error.reason, "details": kinds, "message": error.message}


class Discovery:
    """google-api-python-client with the discovery document that it ships."""

    def __init__(self, endpoint: str, tls: bool, token: str) -> None:
        import google_auth_httplib2
        import httplib2
        from google.oauth2.credentials import Credentials
        from googleapiclient.discovery import build

        http = httplib2.Http(timeout=20)
        if token:
            http = google_auth_httplib2.AuthorizedHttp(Credentials(token), http=http)
        self._service = build("vmmigration", "v1", http=http, static_discovery=True,
                              client_options={"api_endpoint": f"http{'s' if tls else ''}://{endpoint}"})  # fmt: skip

    async def call(self, method: str, request: dict) -> object:
        return self._request(method, request)[1].execute()

    async def finish(self, method: str, request: dict) -> object:
        operation = await self.call(method, request)
        for _ in range(600):
            if operation.get("done"):
                return operation["response"]
            await asyncio.sleep(0.05)
            operation = await self.call("GetOperation", {"name": operation["name"]})
        raise TimeoutError(operation["name"])

    async def pages(self, method: str, request: dict) -> object:
        resource, current = self._request(method, request)
        found = []
        while current is not None:
            page = current.execute()
            found.append(page.get(CALLS[method]["items"], []))
            current = resource.list_next(current, page)
        return found

    def _request(self, method: str, request: dict) -> tuple:
        *collections, verb = CALLS[method]["path"].split(".")
        resource = self._service
        for collection in collections:
            resource = getattr(resource, collection)()
        arguments = dict(request)
        body, lift = CALLS[method].get("body"), CALLS[method].get("lift")
        if body == "*":
            arguments = {"name": arguments.pop("name"), "body": arguments}
        elif body:
            arguments["body"] = arguments.pop(body)
        if lift:
            arguments[lift] = arguments["body"][lift]
        return resource, getattr(resource, verb)(**arguments)

    def failure(self, error: Exception) -> dict:
        from googleapiclient.errors import HttpError

        if not isinstance(error, HttpError):
            raise error
        details = error.error_details
        info = next(each for each in details if each["@type"].endswith(".ErrorInfo"))
        kinds = [each["@type"].rpartition(".")[2] for each in details]
        code = json.loads(error.content)["error"]["status"]
        return {"code": code, "http": error.status_code, "reason": info["reason"], "details": kinds,
                "message": error.reason}  # fmt: skip


async def _settled(value: object) -> object:
    return await value if inspect.isawaitable(value) else value


def _plain(message: object) -> object:
    from google.protobuf import json_format

    if message is None:  # delete and cancel
        return {}
    return json_format.MessageToDict(getattr(message, "_pb", message))


async def main(kind: str) -> None:
    make = Discovery if kind == "discovery" else functools.partial(Gapic, kind)
    clients: dict[str, Gapic | Discovery] = {}
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        where = json.dumps(command["at"])
        if where not in clients:
            clients[where] = make(**command["at"])
        client = clients[where]
        try:
            answer = {"result": await getattr(client, command["do"])(command["method"], command["request"])}
        except Exception as error:
            answer = {"error": client.failure(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
