"""A stub of the service: it records what the command line sends and answers what the test says."""

from __future__ import annotations

import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from instance_lab import Lab
from packages import install
from target_types import TYPES

from worker.cli import main
from worker.cli.client import Client


class Stub:
    def __init__(self):
        self.calls = []
        self.answers = {}

    def on(self, method, path, *answers):
        """Each answer is a body or (status, body); the last one is given for ever."""
        self.answers[method, path] = list(answers)

    def answer(self, method, path):
        waiting = self.answers.get((method, path))
        if not waiting:
            return 404, error("NOT_FOUND", f"{path} does not exist", code=404)
        answer = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        return answer if isinstance(answer, tuple) else (200, answer)

    def called(self):
        return [(call.method, call.path) for call in self.calls]


def error(status, message, *, code=400, reason="SOME_REASON", metadata=None):
    info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "metadata": metadata or {}}
    return {"error": {"code": code, "message": message, "status": status, "details": [info]}}


def handler(stub):
    class Handler(BaseHTTPRequestHandler):
        def handle_any(self):
            path, _, query = self.path.partition("?")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            stub.calls.append(
                SimpleNamespace(method=self.command, path=path, query=query, body=body, headers=dict(self.headers))
            )
            status, answer = stub.answer(self.command, path)
            raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_GET = do_POST = do_PUT = do_PATCH = handle_any

        def log_message(self, *_):
            pass

    return Handler


class StubServer(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        # A `watch` that is not offered a stream hangs up without reading the answer; that is no fault, and what is
        # printed of it here would be taken for the command's own stderr.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@pytest.fixture
def stub():
    stub = Stub()
    server = StubServer(("127.0.0.1", 0), handler(stub))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    stub.url = f"http://127.0.0.1:{server.server_port}"
    yield stub
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def clonejob(monkeypatch, tmp_path, capsys):
    """Runs one command in an empty folder; gives exit code, stdout and stderr."""
    for name in [name for name in os.environ if name.startswith("CLONEJOB_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    start = Client.__init__
    # A service of somebody else may listen on the default port; port 9 is where nobody does.
    monkeypatch.setattr(
        Client, "__init__", lambda self, server, **options: start(self, server.replace(":8080", ":9"), **options)
    )

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return SimpleNamespace(code=int(end.value.code), out=printed.out, err=printed.err)

    return run


@pytest.fixture
def configured(clonejob, tmp_path, monkeypatch):
    """Targets of another package's types, each named like its type."""
    site = tmp_path / "site"
    site.mkdir()
    names = ("forgetful", "protected", "ended", "killed", "provider")
    install(site, "acme-targets", "2.0", "acme_targets", TYPES, **{name: name for name in names})
    monkeypatch.syspath_prepend(site)
    monkeypatch.delitem(sys.modules, "acme_targets", raising=False)
    targets = {name: {"type": name} for name in (*names, "simulated")}
    monkeypatch.setenv("CLONEJOB_TARGETS", json.dumps(targets))
    return tmp_path / "data" / "targets"


@pytest.fixture
def lab(clonejob, tmp_path):
    """In ``./data``, where commands look; ``clonejob`` has emptied the environment."""
    made = Lab(tmp_path / "data")
    yield made
    made.runtime.store.engine.dispose()
