"""Requests out of hypothesis for any method of the table, and a service on SQLite whose state is put back at will."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import sqlite3
import urllib.parse

import grpc
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.rpc import status_pb2
from harness import PARENT, SOURCE, VM, World
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from serving import serving

from api.paths import compile_template
from tasks.services import Request

DEADLINE_S = 5
# Few, because there are many methods; CLONEJOB_TEST_EXAMPLES=200 looks harder.
BOUNDED = settings(
    max_examples=int(os.environ.get("CLONEJOB_TEST_EXAMPLES", "6")), deadline=None, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
NASTY = ["", " ", ".", "..", "../../etc/passwd", "a/b", "%2e%2e", "\0", "a\0b", "\n", "\r\n", "\x1b[0m", "'; --", "${x}", "{}", "-", "*",
         "é", "\u202e", "\ufeff", "\U0001f600", "﷐", "x" * 64, "x" * 300, "9" * 40, "-1", "1e999", "true", "null", "CON"]  # fmt: skip
TEXT = st.sampled_from(NASTY) | st.text(st.characters(codec="utf-8"), max_size=30)
PLAIN = st.from_regex(r"[a-z]([-a-z0-9]{0,6}[a-z0-9])?", fullmatch=True)
INTEGERS = st.sampled_from([0, 1, 2, -1, 7, 1000, 1001, 2**31 - 1, -(2**31), 2**32, 2**63 - 1, -(2**63)])
FILTERS = ["state=SUCCEEDED", "state = 'FAILED' OR state=ACTIVE", 'name:"clone"', "create_time > \"2026-01-01T00:00:00Z\"", "NOT state=ACTIVE",
           "no_such=1", "state=", "(((", "f(x)", "state=NO_SUCH", "labels.env=prod", "-state:x", "a AND", "description=*", 'name="\0"']  # fmt: skip
ORDERS = [
    "name",
    "name desc",
    "create_time desc, name",
    "no_such",
    ",",
    "name name",
    "name desc desc",
    "NAME",
    "create_time asc",
]
MASKS = ["*", "description", "labels", "labels.env", "name", "create_time", "no_such", "display_name", "policy.skip_os_adaptation",
         "compute_engine_target_defaults", "compute_engine_target_defaults.labels", "vmware.username", "project"]  # fmt: skip
IDS = st.sampled_from(["new", "s", "web-1", "clone-1", "clone-2", "simulated", "a-", "A", "1a"]) | PLAIN | TEXT
UUIDS = (
    st.sampled_from(
        ["", "", "123e4567-e89b-42d3-a456-426614174000", "00000000-0000-0000-0000-000000000000", "nonsense"]
    )
    | TEXT
)


def segments(template, known, hostile):
    """A name of the template's shape, one that exists or one whose segments are anything but empty."""
    shaped = [name for name in known if re.fullmatch(template.replace("*", "[^/]+"), name)]

    def made(segment):
        return st.tuples(*[segment if part == "*" else st.just(part) for part in template.split("/")]).map("/".join)

    found = [st.sampled_from(shaped)] if shaped else []
    return st.one_of(*found, made(PLAIN), *([made(PLAIN | st.just("-") | TEXT.filter(bool))] if hostile else []))


@st.composite
def requests(draw, method, known, *, hostile=False):
    """A request of the method: names in its path of the right shape, all else legal, nearly so, or hostile."""
    request = method.request()
    _fill(draw, request, known, hostile, 0)
    for field, template in path_variables(method):
        _set(request, field, draw(segments(template, known, True)))
    if not method.path and draw(st.integers(0, 3)):
        request.name = draw(segments("projects/*/locations/*/operations/*", known, True))
    return request


def path_variables(method):
    """(field, template) of the path's variables."""
    return re.findall(r"\{([\w.]+)=([^}]+)\}", method.path)


def _fill(draw, message, known, hostile, depth):
    if message.DESCRIPTOR.full_name in ("google.protobuf.Timestamp", "google.protobuf.Duration"):
        whole = st.sampled_from([0, 1, 1767225600, 253402300799]) | (INTEGERS if hostile else st.just(60))
        message.seconds = max(-(2**63), min(2**63 - 1, draw(whole)))
        message.nanos = draw(st.sampled_from([0, 1000])) if not hostile else draw(st.sampled_from([0, -1, 2**31 - 1]))
        return
    if message.DESCRIPTOR.full_name == "google.protobuf.FieldMask":
        message.paths.extend(draw(st.lists(st.sampled_from(MASKS) | (TEXT if hostile else st.nothing()), max_size=3)))
        return
    if message.DESCRIPTOR.full_name == "google.protobuf.Any":  # JSON has no unknown types
        return
    for field in message.DESCRIPTOR.fields:
        if draw(st.integers(0, 2 + 2 * depth)) == 0 or (depth > 2 and field.message_type is not None):
            continue
        if depth and draw(st.booleans()):
            continue
        _fill_field(draw, message, field, known, hostile, depth)


def _fill_field(draw, message, field, known, hostile, depth):
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        if field.message_type.fields_by_name["value"].message_type is None:
            with contextlib.suppress(TypeError):
                for key in draw(st.lists(PLAIN | TEXT, max_size=3)):
                    getattr(message, field.name)[key] = draw(TEXT)
    elif field.message_type is not None:
        target = getattr(message, field.name)
        for _ in range(draw(st.integers(0, 2)) if field.is_repeated else 1):
            each = target.add() if field.is_repeated else target
            each.SetInParent()
            _fill(draw, each, known, hostile, depth + 1)
    elif field.is_repeated:
        values = [draw(_scalar(field, known)) for _ in range(draw(st.integers(0, 2)))]
        with contextlib.suppress(ValueError, TypeError):
            getattr(message, field.name).extend(values)
    else:
        with contextlib.suppress(ValueError, TypeError):  # out of the range of its type
            setattr(message, field.name, draw(_scalar(field, known)))


def _scalar(field, known):
    special = {"filter": st.sampled_from(["", *FILTERS]) | TEXT, "order_by": st.sampled_from(["", *ORDERS]) | TEXT,
               "request_id": UUIDS, "page_token": st.just("") | TEXT, "page_size": INTEGERS | st.just(0),
               "target_project": st.sampled_from(sorted(known)) | TEXT}  # fmt: skip
    if field.name in special:
        return special[field.name]
    if field.name.endswith("_id"):
        return IDS
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            return st.binary(max_size=20) if field.type == FieldDescriptor.TYPE_BYTES else PLAIN | TEXT
        case FieldDescriptor.CPPTYPE_BOOL:
            return st.booleans()
        case FieldDescriptor.CPPTYPE_ENUM:
            return st.integers(0, 4) | st.just(99)
        case FieldDescriptor.CPPTYPE_FLOAT | FieldDescriptor.CPPTYPE_DOUBLE:
            return st.floats(allow_nan=False, allow_infinity=False, width=32)
    return INTEGERS


def _set(message, path, value):
    *parents, last = path.split(".")
    for part in parents:
        message = getattr(message, part)
    setattr(message, last, value)


def _get(message, path):
    for part in path.split("."):
        message = getattr(message, part)
    return message


def as_http(method, request):
    """(verb, target, body) of the request by the rules of google.api.http."""
    path = method.path
    for field, template in path_variables(method):
        # All but the slashes of the template is encoded, so that each segment stays one.
        parts, value = template.split("/"), _get(request, field)
        expression = "/".join("(.+)" if part == "*" else re.escape(part) for part in parts)
        found = iter(re.fullmatch(expression, value, re.DOTALL).groups())
        quoted = "/".join(_quoted(next(found)) if part == "*" else part for part in parts)
        path = path.replace(f"{{{field}={template}}}", quoted)
    bound = {field.split(".")[0] for field in compile_template(method.path)[1]} | {method.body}
    body = None
    if method.body == "*":
        body = json_format.MessageToDict(request)
        for field in bound:
            body.pop(request.DESCRIPTOR.fields_by_name[field].json_name, None) if field != "*" else None
        query = []
    else:
        if method.body:
            body = json_format.MessageToDict(getattr(request, method.body))
        query = [
            pair for field, value in request.ListFields() if field.name not in bound for pair in _pairs(field, value)
        ]
    target = path + ("?" + urllib.parse.urlencode(query) if query else "")
    return method.verb, target, b"" if body is None else json.dumps(body).encode()


def _quoted(text):
    return urllib.parse.quote(text, safe="").replace(".", "%2E")


def _pairs(field, value):
    if field.message_type is not None and field.message_type.full_name == "google.protobuf.FieldMask":
        yield field.json_name, ",".join(value.paths)
    elif field.type == FieldDescriptor.TYPE_BOOL:
        yield field.json_name, "true" if value else "false"
    else:
        for each in value if field.is_repeated else [value]:
            yield field.json_name, str(each)


class Served:
    """A service on SQLite behind both front ends, with jobs in several states; ``put_back`` undoes what was done."""

    def __init__(self, folder, copy_of=None):
        self.world = World(folder)
        self._path = folder / "db.sqlite3"
        if copy_of is None:
            _populate(self.world)
        else:
            with contextlib.closing(sqlite3.connect(self._path)) as live:
                copy_of.template.backup(live)
            self.world.clock.now = copy_of.started
        self.started = self.world.clock.now
        self.template = sqlite3.connect(":memory:", check_same_thread=False)
        with contextlib.closing(sqlite3.connect(self._path)) as live:
            live.backup(self.template)
        self._watch = sqlite3.connect(self._path, check_same_thread=False)
        self.known = [name for table in ("sources", "target_projects", "migrating_vms", "replication_cycles", "clone_jobs", "operations")
                      for (name,) in self.template.execute(f"SELECT name FROM {table} ORDER BY name")]  # noqa: S608  # fmt: skip
        self.known += [
            PARENT,
            "projects/p",
            f"{PARENT.rpartition('/')[0]}/-",
            f"{SOURCE.rpartition('/')[0]}/-",
            f"{SOURCE}/migratingVms/-",
        ]

    @contextlib.contextmanager
    def serving(self):
        with (
            serving(self.world.services) as found,
            grpc.insecure_channel(f"127.0.0.1:{found.grpc_port}") as self._channel,
        ):
            self._rest_port = found.rest_port
            yield self
        self._watch.close()
        self.template.close()
        self.world.close()

    def put_back(self):
        """The rows and the time as they were."""
        with contextlib.closing(sqlite3.connect(self._path, timeout=DEADLINE_S)) as live:
            self.template.backup(live)
        self.world.clock.now = self.started
        self.world.mail.messages.clear()

    def version(self):
        """Changes with every commit that changes anything (PRAGMA data_version)."""
        return self._watch.execute("PRAGMA data_version").fetchone()[0]

    def over_grpc(self, path, raw):
        """(code's number, response bytes or Status)."""
        try:
            return 0, self._channel.unary_unary(path)(raw, timeout=DEADLINE_S)
        except grpc.RpcError as error:
            details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
            assert details is not None, f"no details: {error}"
            return error.code().value[0], status_pb2.Status.FromString(details)

    def over_rest(self, verb, target, body=b"", headers=None):
        """(HTTP status, JSON of the body)."""
        with contextlib.closing(
            http.client.HTTPConnection("127.0.0.1", self._rest_port, timeout=DEADLINE_S)
        ) as connection:
            connection.putrequest(verb, target)
            for name, value in {
                "Content-Type": "application/json",
                "Content-Length": str(len(body)),
                **(headers or {}),
            }.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())


def _populate(world):
    """Jobs that have succeeded, failed and were cancelled, one that runs, a VM that is paused and one without a cycle."""
    world.set_up(labels={"env": "prod"})
    world.create("clone-1")
    world.run_to_end(_job_id(world, "clone-1"))
    world.clock.advance(10)
    world.create("clone-2")
    world.services.clone_jobs.cancel(f"{VM}/cloneJobs/clone-2")
    world.run_to_end(_job_id(world, "clone-2"))
    world.add_vm("web-2")
    world.upload(f"{SOURCE}/migratingVms/web-2")
    world.clock.advance(10)
    world.create("clone-1", vm=f"{SOURCE}/migratingVms/web-2")
    world.add_vm("empty")
    world.services.sources.create(PARENT, "bare", {}, Request())
    world.clock.advance(10)


def _job_id(world, job_id):
    return world.services.clone_jobs.get(f"{VM}/cloneJobs/{job_id}").id
