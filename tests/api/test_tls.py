"""TLS on both ports, with the official clients constructed by their endpoint alone, and no plaintext beside it."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import time

import httpx
import pytest
from serving import make_ca, serving

from api.server import CannotUseTls, Tls
from tasks.services import Request

LOCATION = "projects/p/locations/l"
# In a process of its own: gRPC reads its roots once, from the environment.
CLIENT = """
import asyncio, sys
from google.auth.credentials import AnonymousCredentials
from google.cloud import vmmigration_v1 as v1

transport, endpoint = sys.argv[1:]
how = dict(credentials=AnonymousCredentials(), client_options={"api_endpoint": endpoint}, transport=transport)

async def poll():
    client = v1.VmMigrationAsyncClient(**how)
    return [source.name async for source in await client.list_sources(parent="projects/p/locations/l")]

if transport == "grpc_asyncio":
    names = asyncio.run(poll())
else:
    with v1.VmMigrationClient(**how) as client:
        names = [source.name for source in client.list_sources(parent="projects/p/locations/l")]
print(*names)
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return make_ca(tmp_path_factory.mktemp("tls"), "localhost", "127.0.0.1")


@pytest.fixture(scope="module")
def secure(running, files):
    fake = type(running[1])()
    fake.sources.create(LOCATION, "src", {}, Request())
    with serving(fake, tls=Tls(files.cert, files.key)) as found:
        yield found


@pytest.mark.parametrize("transport", ["grpc", "grpc_asyncio", "rest"])
def test_the_official_client_with_an_endpoint_alone(secure, files, transport):
    port = secure.rest_port if transport == "rest" else secure.grpc_port
    trust = {"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(files.ca), "REQUESTS_CA_BUNDLE": str(files.ca)}
    command = [sys.executable, "-c", CLIENT, transport, f"localhost:{port}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=trust)
    assert (done.returncode, done.stdout.strip()) == (0, f"{LOCATION}/sources/src"), done.stderr


def test_a_certificate_that_is_not_trusted_is_not_talked_to(secure):
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(secure.url)


@pytest.mark.parametrize("which", ["rest_port", "grpc_port"])
def test_old_versions_of_tls_are_refused(secure, files, which):
    context = ssl.create_default_context(cafile=files.ca)
    with pytest.warns(DeprecationWarning):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    plain = socket.create_connection(("localhost", getattr(secure, which)), timeout=10)
    with context.wrap_socket(plain, server_hostname="localhost", do_handshake_on_connect=False) as wrapped:
        with pytest.raises(ssl.SSLError):
            wrapped.do_handshake()


def test_plaintext_on_a_tls_port_gets_nothing(secure):
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://localhost:{secure.rest_port}/healthz", timeout=10)


def test_files_that_cannot_be_used_are_named(running, files, tmp_path):
    fake = running[1]
    (tmp_path / "empty.pem").write_bytes(b"")
    other = make_ca(tmp_path, "localhost")
    for tls in (Tls(tmp_path / "none.pem", files.key), Tls(tmp_path / "empty.pem", files.key),
                Tls(files.cert, other.key)):  # fmt: skip
        with pytest.raises(CannotUseTls, match=r"both must be PEM, belong together"), serving(fake, tls=tls):
            pass


def test_an_idle_client_does_not_delay_the_end(running, files):
    with httpx.Client(verify=ssl.create_default_context(cafile=files.ca)) as client:
        with serving(running[1], tls=Tls(files.cert, files.key)) as found:
            assert client.get(f"{found.url}/healthz").status_code == 200
            started = time.monotonic()
        assert time.monotonic() - started < 3


def test_up_and_the_command_line_reach_it(secure, files, monkeypatch, tmp_path):
    from worker.access import own_certificate
    from worker.cli.client import Client
    from worker.settings import load_settings

    settings = load_settings(data_dir=tmp_path, tls_cert_file=files.cert, tls_key_file=files.key,
                             rest_port=secure.rest_port)  # fmt: skip
    assert settings.rest_url == f"https://127.0.0.1:{secure.rest_port}"
    assert httpx.get(f"{settings.rest_url}/healthz", verify=own_certificate(settings)).status_code == 200
    client = Client(secure.url, ca_file=files.ca)
    with client._http:
        assert client.list(f"/v1/{LOCATION}/sources", "sources")[0]["name"] == f"{LOCATION}/sources/src"
