"""Every method on both front ends under hostile input: an error of the caller's or an answer, in time and in Google's shape.

Never a status of 5xx but 501 (not covered), never INTERNAL or UNKNOWN, no traceback in the log, nothing written by a call
that was refused.
"""

import contextlib
import json
import logging
import urllib.parse

import pytest
from generate import BOUNDED, NASTY, TEXT, Served, as_http, requests
from hypothesis import given, note, settings
from hypothesis import strategies as st

from api.additions import ADDITIONS
from api.errors import name_of
from api.methods import METHODS, VM_MIGRATION
from api.uncovered import UNCOVERED

BY_RPC = {method.rpc: method for method in METHODS}
OURS = {f"{each.verb} {each.path}": each for each in ADDITIONS if not each.streams}
REFUSALS = {"INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "ABORTED", "UNIMPLEMENTED",
            "RESOURCE_EXHAUSTED", "OUT_OF_RANGE"}  # fmt: skip
NUMBERS = st.sampled_from([0, -1, 2**31, 2**63, 2**64, 10**400, 1e308, -1e-400, float("inf"), float("nan")])
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT | st.sampled_from(["\ud800", "2026-13-45T99:99:99Z", "x" * 20_000]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
DEEP = st.sampled_from([b"[" * 5000, b'{"labels":' * 3000 + b"1" + b"}" * 3000, b'{"description":' + b"[" * 99 + b"]" * 99 + b"}",
                        b'{"a":1}{"b":2}', b'\xff\xfe{"a":1}', b"9" * 50_000, b'{"\\ud800": 1}', b"\0", b'"', b"[]", b"null"])  # fmt: skip
PARTS = st.sampled_from([*(urllib.parse.quote(each, safe="") for each in NASTY if each), "%ff", "%", "%zz", "a:cancel", "a%3Acancel", ";", "web-1", "..%2f.."])  # fmt: skip


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with Served(tmp_path_factory.mktemp("fuzz")).serving() as found:
        yield found


@pytest.fixture(autouse=True)
def no_traceback(caplog):
    with caplog.at_level(logging.INFO):
        yield
    bad = [r for r in caplog.records if r.exc_info or (r.levelno >= logging.ERROR and r.name != "grpc._cython.cygrpc")]
    assert not bad, [r.getMessage() for r in bad]


@contextlib.contextmanager
def judged(served):
    """Puts back what was; collects (refused?) and holds a refusal to having written nothing."""
    served.put_back()
    before, outcome = served.version(), []
    yield outcome
    if outcome == ["refused"]:
        assert served.version() == before, "written although it was refused"


def over_grpc(served, path, raw):
    note(f"{path} {raw!r}")
    with judged(served) as outcome:
        code, answer = served.over_grpc(path, raw)
        outcome.append("refused" if code else "done")
        assert not code or (name_of(code) in REFUSALS and answer.code == code), answer
        assert not code or any(each.type_url.endswith("google.rpc.ErrorInfo") for each in answer.details)
        assert not code or len(answer.SerializeToString()) < 8000
    return code


def over_rest(served, verb, target, body=b"", headers=None):
    note(f"{verb} {target} {body!r} {headers}")
    with judged(served) as outcome:
        status, answer = served.over_rest(verb, target, body, headers)
        outcome.append("done" if status == 200 else "refused")
        assert status == 200 or 400 <= status < 500 or status == 501, (status, answer)
        if status != 200:
            error = answer["error"]
            assert error["code"] == status and error["status"] in REFUSALS, error
            assert [each["reason"] for each in error["details"] if each["@type"].endswith("google.rpc.ErrorInfo")]
            assert len(json.dumps(error)) < 12_000 and "Traceback" not in error["message"]
    return status


@pytest.mark.parametrize("rpc", BY_RPC)
def test_grpc_messages(served, rpc):
    method = BY_RPC[rpc]

    @BOUNDED
    @given(requests(method, served.known, hostile=True), st.binary(max_size=60), st.data())
    def check(request, junk, data):
        if method.waits:
            request.timeout.Clear()
            request.timeout.nanos = 1  # else it waits, as it should
        raw = request.SerializeToString()
        over_grpc(served, method.full_name, raw)
        if not method.waits:  # whose timeout may be anything, then
            at = data.draw(st.integers(0, len(raw)))
            over_grpc(served, method.full_name, raw[:at] + junk + raw[at:])
            over_grpc(served, method.full_name, junk)

    check()


@pytest.mark.parametrize("rpc", [rpc for rpc, method in BY_RPC.items() if method.verb])
def test_rest_calls(served, rpc):
    method = BY_RPC[rpc]
    fields = [name for field in method.request.DESCRIPTOR.fields for name in (field.name, field.json_name)]
    below = [field.json_name for holder in method.request.DESCRIPTOR.fields if holder.name == method.body
             for field in holder.message_type.fields]  # fmt: skip
    names = st.sampled_from([*fields, *below]) | TEXT
    queries = st.lists(st.tuples(names | st.sampled_from(["$alt", "alt", "key"]), TEXT | NUMBERS.map(str)), max_size=3)
    bodies = st.dictionaries(names, JSON, max_size=4).map(dumped) | JSON.map(dumped) | st.binary(max_size=60) | DEEP

    @BOUNDED
    @given(requests(method, served.known), queries, bodies, st.lists(PARTS, min_size=5, max_size=5), st.booleans())
    def check(request, query, body, parts, well_formed):
        verb, target, good = as_http(method, request)
        path, _, asked = target.partition("?")
        over_rest(served, verb, f"{path}?{asked}&{urllib.parse.urlencode(query)}", good)
        over_rest(served, verb, target if well_formed else path, body)
        over_rest(served, verb, hostile_path(method.path, parts), good)

    check()


@pytest.mark.parametrize("route", OURS)
def test_additions(served, route):
    @BOUNDED
    @given(
        st.sampled_from(served.known),
        st.lists(PARTS, min_size=6, max_size=6),
        JSON.map(dumped) | DEEP | st.binary(max_size=60),
        TEXT,
    )
    def check(name, parts, body, text):
        verb, path = OURS[route].verb, OURS[route].path
        over_rest(served, verb, hostile_path(path, parts), body)
        real = path[: path.index("{")] + name + path[path.index("}") + 1 :]
        over_rest(served, verb, f"{real}?{urllib.parse.urlencode([(text, text)])}", body)
        over_rest(served, verb, real, body)

    check()


@settings(BOUNDED, max_examples=30)
@given(data=st.data())
def test_raw_queries_paths_and_headers(served, data):
    method = data.draw(st.sampled_from([each for each in METHODS if each.verb]))
    path = hostile_path(method.path, data.draw(st.lists(PARTS, min_size=5, max_size=5)))
    verb = data.draw(st.sampled_from([method.verb, "GET", "PUT", "PATCH", "DELETE", "POST", "OPTIONS", "NONSENSE"]))
    query = data.draw(
        st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="#"), max_size=40) | PARTS
    )
    header = (
        data.draw(st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=40)).strip().encode("latin-1")
    )
    name = data.draw(
        st.sampled_from(["Content-Type", "X-Goog-Api-Client", "Authorization", "Accept", "Content-Encoding"])
    )
    over_rest(served, verb, f"{path}?{query}", b"{}", {name: header})


@settings(BOUNDED, max_examples=20)
@given(
    rpc=st.sampled_from([each.rpc for each in UNCOVERED])
    | st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30),
    raw=st.binary(max_size=40),
)
def test_methods_that_are_not_covered(served, rpc, raw):
    if rpc not in BY_RPC:
        assert over_grpc(served, f"/{VM_MIGRATION}/{rpc}", raw) == 12


def dumped(value):
    return json.dumps(value).encode()


def hostile_path(template, parts):
    """The method's path with its variables' segments taken from ``parts``, in turn."""
    left = iter(parts * 3)
    start, _, rest = template.partition("{")
    pattern, _, end = rest.partition("}")
    return start + "/".join(next(left) if part == "*" else part for part in pattern.partition("=")[2].split("/")) + end
