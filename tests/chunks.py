"""Chunks of one disk, as a client of the upload protocol sends them."""

from __future__ import annotations

import hashlib
import random
import socket
import time

KIB, MIB = 1 << 10, 1 << 20
CONTENT = random.Random(3).randbytes(300 * KIB)[:-2] + b"\x55\xaa"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def path_of(cycle, disk=0):
    return f"/clonejob/v1/{cycle}/disks/{disk}"


def send(live, cycle, first, last, *, total=len(CONTENT), content=None, disk=0, **headers):
    span = f"{first}-{last}" if first is not None else "*"
    content = CONTENT[first : last + 1] if content is None else content
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    headers["Content-Range"] = f"bytes {span}/{'*' if total is None else total}"
    return live.http.put(path_of(cycle, disk), params={"format": "raw"}, content=content, headers=headers)


def reason(response):
    return response.json()["error"]["details"][0]["reason"]


def raw_put(live, cycle, sent, announced):
    connection = socket.create_connection(("127.0.0.1", live.http.base_url.port))
    head = (f"PUT {path_of(cycle)}?format=raw HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {announced}\r\n"
            f"Content-Range: bytes 0-{announced - 1}/{len(CONTENT)}\r\n\r\n")  # fmt: skip
    connection.sendall(head.encode() + CONTENT[:sent])
    return connection


def until(check, seconds=10):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := check():
            return value
        time.sleep(0.02)
    raise AssertionError("it did not come to pass")
