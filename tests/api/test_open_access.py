"""Without credentials configured: loopback alone, and browsers are not to be misled."""

from __future__ import annotations

import json
import socket

import pytest
from guarded import VM_P, info_of


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8080", "[::1]:8080", "LOCALHOST:1", "127.3.2.1"])
def test_names_of_loopback_are_served(http, host):
    assert http.get("/v1/projects/p/locations/l/sources", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example.com", "localhost.evil.example.com", "169.254.169.254", "[::2]", "a:b:c"]
)
def test_a_rebound_name_is_refused(http, host):
    for verb, path in (("GET", "/v1/projects/p/locations/l/sources"), ("GET", "/healthz"), ("POST", "/nowhere")):
        answer = http.request(verb, path, headers={"Host": host})
        assert answer.status_code == 403
        assert info_of(answer)["reason"] == "FOREIGN_REQUEST"


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://evil.example.com"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:1"},
     {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
     {"Origin": "https://evil.example.com", "Sec-Fetch-Site": "same-origin"}],
)  # fmt: skip
def test_a_page_of_another_site_may_not_write(server, http, headers):
    url = "/v1/projects/p/locations/l/sources?sourceId=s"
    answer = http.post(url, headers={**headers, "Content-Type": "text/plain"}, content=b"")
    assert answer.status_code == 403 and info_of(answer)["reason"] == "FOREIGN_REQUEST"
    assert http.get("/v1/projects/p/locations/l/sources").json() == {}
    own = {"Origin": server.url, "Sec-Fetch-Site": "same-origin"}
    assert http.post(url, headers=own).status_code == 200


def test_a_request_of_http_1_0_without_a_host_is_a_program(server):
    with socket.create_connection(("127.0.0.1", server.rest_port), timeout=5) as connection:
        connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert b"200" in connection.recv(100)


def test_with_credentials_any_host_is_served(place):
    secret = place.token("ci", "p", "viewer")
    answer = place.rest("GET", f"/v1/{VM_P}", secret, headers={"Host": "clonejob.example.com"})
    assert answer.status_code == 200 and json.loads(answer.text)["name"] == VM_P
