"""Our own ways between JSON and messages say what json_format says, for every message of the contract."""

import math

import pytest
from google.cloud import vmmigration_v1 as v1
from google.longrunning import operations_pb2
from google.protobuf import any_pb2, duration_pb2, json_format, struct_pb2
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import given, settings
from hypothesis import strategies as st

from api.json_text import to_dict
from api.stored_json import arguments

_F = FieldDescriptor
CLASSES = [
    getattr(v1, name).pb() for name in sorted(v1.__all__)
    if hasattr(getattr(v1, name), "pb") and not hasattr(v1, f"{name}AsyncClient")
]  # fmt: skip
# Those whose JSON is stored: what a user sets, and what a job's target details are made of.
STORED = [v1.ComputeEngineTargetDetails.pb(), v1.ComputeEngineTargetDefaults.pb(), v1.Source.pb(), v1.MigratingVm.pb()]
SCALARS = {
    _F.TYPE_STRING: st.text(max_size=5).filter(lambda text: text.isprintable()),
    _F.TYPE_BYTES: st.binary(max_size=5),
    _F.TYPE_BOOL: st.booleans(),
    _F.TYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    _F.TYPE_UINT32: st.integers(0, 2**32 - 1),
    _F.TYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    _F.TYPE_UINT64: st.integers(0, 2**64 - 1),
    _F.TYPE_DOUBLE: st.floats(),
    _F.TYPE_FLOAT: st.floats(width=32),
}


def scalar(field):
    if field.enum_type is not None:
        return st.one_of(st.sampled_from([value.number for value in field.enum_type.values]), st.just(77))
    return SCALARS[field.type]


@st.composite
def filled(draw, cls, depth=3):
    message = cls()
    fill(draw, message, depth)
    return message


def fill(draw, message, depth):
    full_name = message.DESCRIPTOR.full_name
    if full_name == "google.protobuf.Timestamp":
        message.seconds = draw(st.integers(-62135596800, 253402300799))
        message.nanos = draw(st.sampled_from([0, 1, 1_000, 123_000_000, 123_456_000, 999_999_999]))
        return
    if full_name == "google.protobuf.Duration":
        message.seconds = draw(st.integers(0, 1000))
        return
    if full_name == "google.protobuf.FieldMask":
        message.paths.append(draw(st.sampled_from(["name", "migrating_vm.labels"])))  # not every text is a path
        return
    if full_name == "google.protobuf.Any":
        inner = v1.CloneJob.pb()()
        fill(draw, inner, 1)
        message.Pack(inner)
        return
    for field in message.DESCRIPTOR.fields:
        if not draw(st.booleans()):
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            value = field.message_type.fields_by_name["value"]
            if value.message_type is None:
                getattr(message, field.name)["k"] = draw(scalar(value))
        elif field.message_type is not None:
            if depth:
                item = getattr(message, field.name)
                fill(draw, item.add() if field.is_repeated else item, depth - 1)
                if not field.is_repeated:
                    item.SetInParent()
        elif field.is_repeated:
            getattr(message, field.name).extend(draw(st.lists(scalar(field), max_size=2)))
        else:
            setattr(message, field.name, draw(scalar(field)))


def same(a, b):
    """Equal, and NaN is NaN."""
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and math.isnan(a):
        return isinstance(b, float) and math.isnan(b)
    return type(a) is type(b) and a == b


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(CLASSES).flatmap(filled))
def test_json_of_every_message(message):
    assert same(to_dict(message), json_format.MessageToDict(message))


@pytest.mark.parametrize(
    "message",
    [
        duration_pb2.Duration(seconds=3),
        struct_pb2.Value(string_value="text"),
        operations_pb2.Operation(name="n", response=any_pb2.Any()),
        any_pb2.Any(),
    ],
)
def test_json_of_well_known_types(message):
    assert to_dict(message) == json_format.MessageToDict(message)


def test_an_any_of_a_type_that_nobody_knows_is_refused_alike():
    message = operations_pb2.Operation(response=any_pb2.Any(type_url="example.com/no.such.Type", value=b"x"))
    for write in (to_dict, json_format.MessageToDict):
        with pytest.raises(TypeError):
            write(message)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(STORED).flatmap(filled))
def test_what_was_stored_is_read_back(message):
    cls, body = type(message), json_format.MessageToDict(message)
    given = arguments(cls, body)
    assert (cls(**given) if isinstance(given, dict) else given) == json_format.ParseDict(body, cls())


@pytest.mark.parametrize(
    "body",
    [
        {"vmName": None, "machineType": "e2-small"},
        {"nobody_knows": 1, "vm_name": "by the field's name"},
        {"diskType": "COMPUTE_ENGINE_DISK_TYPE_OF_TOMORROW"},
        {"labels": {}},
        {"computeScheduling": {"minNodeCpus": "3"}},
    ],
)
def test_what_is_not_as_expected_is_left_to_json_format(body):
    cls = v1.ComputeEngineTargetDetails.pb()
    given = arguments(cls, body)
    expected = json_format.ParseDict(body, cls(), ignore_unknown_fields=True)
    assert (cls(**given) if isinstance(given, dict) else given) == expected
