"""Start and stop: ports, a port in use, uploads at shutdown, the table against the official client."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import sys
import time

import grpc
import httpx
import pytest
from google.cloud import vmmigration_v1 as v1
from google.cloud.vmmigration_v1.services.vm_migration.transports import rest_base
from google.cloud.vmmigration_v1.types import vmmigration as types

from api.fields import CREDENTIALS, OUTPUT_ONLY
from api.methods import METHODS
from api.server import CannotListen, PortInUse, serve
from api.uncovered import UNCOVERED


def start(fake, **ports):
    conftest = next(m for m in list(sys.modules.values()) if hasattr(m, "Running") and hasattr(m, "make_client"))
    return conftest.Running(fake, **ports)


@pytest.mark.parametrize("which", ["rest_port", "grpc_port"])
def test_a_port_in_use_is_named_and_nothing_is_served(server, which):
    taken = getattr(server, which)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    other = "grpc_port" if which == "rest_port" else "rest_port"
    failed = start(server.fake, **{which: taken, other: free})
    assert isinstance(failed.error, PortInUse)
    assert str(taken) in str(failed.error) and "another process listens there" in str(failed.error)
    assert (failed.error.port, failed.ports) == (taken, (0, 0))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", free), timeout=1)
    assert httpx.get(f"{server.url}/healthz").status_code == 200


@pytest.mark.parametrize(("host", "port"), [("no.such.host.invalid", 0), ("127.0.0.1", 70000), ("192.0.2.1", 0)])
def test_an_address_that_cannot_be_served(server, host, port):
    with pytest.raises(CannotListen):
        asyncio.run(serve(server.fake, rest_host=host, rest_port=port, grpc_host="127.0.0.1", grpc_port=0,
                          should_exit=asyncio.Event()))  # fmt: skip


def test_signal_handlers_stay_the_callers(server):
    before = signal.getsignal(signal.SIGTERM)

    async def scenario():
        leave = asyncio.Event()
        await serve(server.fake, rest_host="127.0.0.1", rest_port=0, grpc_host="127.0.0.1", grpc_port=0,
                    on_ready=lambda *_: (seen.append(signal.getsignal(signal.SIGTERM)), leave.set()),
                    should_exit=leave)  # fmt: skip

    seen = []
    asyncio.run(scenario())
    assert seen == [before]


def test_shutdown_aborts_an_upload_and_frees_the_ports(server, vm, monkeypatch):
    monkeypatch.setattr("api.server._GRACE_SECONDS", 1)
    process = start(server.fake)
    rest_port, grpc_port = process.ports
    cycle = httpx.post(f"http://127.0.0.1:{rest_port}/clonejob/v1/{vm}/replicationCycles").json()["name"]
    with socket.create_connection(("127.0.0.1", rest_port)) as connection:
        connection.sendall(
            f"PUT /clonejob/v1/{cycle}/disks/0?format=raw HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nabc".encode()
        )
        time.sleep(0.2)
        started = time.monotonic()
        process.stop()
    assert time.monotonic() - started < 5
    assert server.fake.uploads.failed.is_set() and server.fake.uploads.kept == {}
    for port in (rest_port, grpc_port):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=1)
    with grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel, pytest.raises(grpc.FutureTimeoutError):
        grpc.channel_ready_future(channel).result(timeout=0.2)


def test_the_table_is_the_official_clients():
    base = rest_base._BaseVmMigrationRestTransport
    official = {}
    for name, inner in vars(base).items():
        if name.startswith("_Base") and hasattr(inner, "_get_http_options"):
            (option,) = inner._get_http_options()
            official[name.removeprefix("_Base")] = (option["method"].upper(), option["uri"], option.get("body", ""))
    ours = {m.rpc: (m.verb, m.path, m.body) for m in METHODS if m.verb}
    assert ours == {rpc: official[rpc] for rpc in ours}
    assert {u.rpc: (u.verb, u.path) for u in UNCOVERED} == {r: o[:2] for r, o in official.items() if r not in ours}


def test_field_behaviour_is_the_official_types():
    prefixes = {
        "Source": {
            "": "Source",
            "vmware.": "VmwareSourceDetails",
            "aws.": "AwsSourceDetails",
            "azure.": "AzureSourceDetails",
        },
        "MigratingVm": {"": "MigratingVm", "compute_engine_target_defaults.": "ComputeEngineTargetDefaults"},
        "TargetProject": {"": "TargetProject"},
        "CloneJob": {"": "CloneJob"},
    }
    for kind, inner in prefixes.items():
        found = {"Output": set(), "Input": set()}
        for prefix, name in inner.items():
            text = getattr(types, name).__doc__
            for field, behaviour in re.findall(r"\n        (\w+) \(.*?\):\n\s+(Output|Input) only", text):
                found[behaviour].add(prefix + field)
        # The official documentation of this one forgets the mark; a host name that was resolved is no input.
        assert set(OUTPUT_ONLY[kind]) - {"vmware.resolved_vcenter_host"} == found["Output"]
        assert found["Input"] <= set(CREDENTIALS.get(kind, ()))
    assert {f.name for f in v1.CloneJob.pb().DESCRIPTOR.fields} == set(OUTPUT_ONLY["CloneJob"])
