"""gRPC and REST answer the same: the same generated calls against two services in the same state, one over each."""

import contextlib
import json
import re

import pytest
from generate import BOUNDED, Served, as_http, requests
from google.protobuf import json_format
from hypothesis import given, note
from hypothesis import strategies as st

from api.errors import HTTP_STATUS, name_of
from api.methods import METHODS

BY_RPC = {method.rpc: method for method in METHODS if method.verb}
CHANGES = [method for method in BY_RPC.values() if method.verb != "GET"]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Two services with the same rows."""
    with contextlib.ExitStack() as stack:
        one = stack.enter_context(Served(tmp_path_factory.mktemp("grpc")).serving())
        two = stack.enter_context(Served(tmp_path_factory.mktemp("rest"), copy_of=one).serving())
        yield one, two


@pytest.mark.parametrize("rpc", BY_RPC)
def test_the_same_over_grpc_and_rest(both, rpc):
    one, two = both
    method = BY_RPC[rpc]
    calls = st.tuples(requests(method, one.known), st.sampled_from(CHANGES).flatmap(
        lambda change: st.tuples(st.just(change), requests(change, one.known))), st.booleans())  # fmt: skip

    @BOUNDED
    @given(calls)
    def check(drawn):
        request, (change, changing), twice = drawn
        for each in both:
            each.put_back()
        _compare(one, two, method, request)
        _compare(one, two, change, changing)
        if twice:  # repeated as it was, and after something else has changed
            _compare(one, two, method, request)

    check()


def _compare(one, two, method, request):
    for each in (one, two):
        each.world.clock.advance(1)
    verb, target, body = as_http(method, request)
    note(f"{verb} {target} {body.decode()}")
    code, answer = one.over_grpc(method.full_name, request.SerializeToString())
    http_status, found = two.over_rest(verb, target, body)
    if code:
        expected = {"code": HTTP_STATUS[name_of(code)], "status": name_of(code), "message": answer.message,
                    "details": json_format.MessageToDict(answer).get("details", [])}  # fmt: skip
        assert _tidied(found.get("error", found)) == _tidied(expected)
        assert http_status == expected["code"]
    else:
        assert http_status == 200, found
        assert _tidied(found) == _tidied(json_format.MessageToDict(method.response.FromString(answer)))


def _tidied(answer):
    """Without what is drawn by lot: ids of operations and jobs (in the names of clones), signatures of page tokens."""
    text = json.dumps(answer, sort_keys=True)
    for lot, same in ((r"operations/operation-[0-9a-f]{32}", "operations/*"), (r'("vmName": "[^"]*-)[0-9a-f]{10}"', r'\1*"'),
                      (r'"nextPageToken": "[^"]+"', '"nextPageToken": "*"')):  # fmt: skip
        text = re.sub(lot, same, text)
    return json.loads(text)
