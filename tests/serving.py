"""Both front ends in a thread, with a gate, TLS or limits of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ipaddress
import threading
from types import SimpleNamespace

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from api.server import serve


@contextlib.contextmanager
def serving(services, **options):
    """Serve on free ports; gives ``rest_port``, ``grpc_port`` and ``url``."""
    loop, ready = asyncio.new_event_loop(), threading.Event()
    leave, found, failed = asyncio.Event(), SimpleNamespace(), []

    def on_ready(rest_port, grpc_port):
        found.rest_port, found.grpc_port = rest_port, grpc_port
        found.url = f"{'https' if options.get('tls') else 'http'}://localhost:{rest_port}"
        ready.set()

    def run():
        try:
            loop.run_until_complete(serve(services, rest_host="127.0.0.1", rest_port=0, grpc_host="127.0.0.1",
                                          grpc_port=0, on_ready=on_ready, should_exit=leave, **options))  # fmt: skip
        except BaseException as error:
            failed.append(error)
        finally:
            loop.close()
            ready.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(10)
    if failed:
        thread.join()
        raise failed[0]
    try:
        yield found
    finally:
        loop.call_soon_threadsafe(leave.set)
        thread.join(15)
    assert not failed, failed


def make_ca(folder, *names):
    """A certificate authority and a certificate for ``names``; gives the files ``ca``, ``cert`` and ``key``."""
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
    ca = _certificate(ca_name, ca_name, ca_key.public_key(), ca_key, x509.BasicConstraints(ca=True, path_length=0))
    own = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    alternatives = x509.SubjectAlternativeName([_general(name) for name in names])
    cert = _certificate(own, ca_name, key.public_key(), ca_key, x509.BasicConstraints(ca=False, path_length=None),
                        alternatives)  # fmt: skip
    files = SimpleNamespace(ca=folder / "ca.pem", cert=folder / "cert.pem", key=folder / "key.pem")
    files.ca.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    files.cert.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    files.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                            serialization.NoEncryption()))  # fmt: skip
    return files


def _general(name):
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _certificate(subject, issuer, public_key, signer, *extensions):
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=1))
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
    return builder.sign(signer, hashes.SHA256())
