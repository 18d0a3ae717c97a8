"""The grammar, example by example (AIP-160), and what is refused."""

import pytest
from google.cloud import vmmigration_v1 as v1
from google.protobuf.descriptor import FieldDescriptor

from models.filters import FIELDS, FilterError, Kind, condition, parse
from models.filters.syntax import And, Comparison, Literal, Not, Or
from models.schema import CloneJob


def text_of(node):
    """The tree with all its parentheses."""
    match node:
        case And(nodes):
            return "(" + " & ".join(map(text_of, nodes)) + ")"
        case Or(nodes):
            return "(" + " | ".join(map(text_of, nodes)) + ")"
        case Not(inner):
            return f"!{text_of(inner)}"
        case Comparison():
            return f"{'.'.join(node.path)}{node.comparator}{text_of(node.value)}"
        case Literal():
            return f"{node.text!r}" if node.quoted else node.text
    return ""


@pytest.mark.parametrize(("text", "tree"), [
    ("", ""),
    ("   ", ""),
    ("a", "a"),
    ("42", "42"),
    ("Victor Hugo", "(Victor & Hugo)"),
    ("a AND b", "(a & b)"),
    ("a OR b OR c", "(a | b | c)"),
    ("a AND b OR c", "(a & (b | c))"),
    ("a b AND c AND d", "(a & b & c & d)"),
    ("New York Giants OR Yankees", "(New & York & (Giants | Yankees))"),
    ("a < 10 OR a >= 100", "(a<10 | a>=100)"),
    ("NOT a OR b", "(!a | b)"),
    ("NOT (a OR b) c", "(!(a | b) & c)"),
    ("NOT(a)", "!a"),
    ("-a:b", "!a:b"),
    ("-(a b)", "!(a & b)"),
    ('-"a"', "!'a'"),
    ("((a))", "a"),
    ("a = true", "a=true"),
    ("a!=42", "a!=42"),
    ("a\n\t=\n1", "a=1"),
    ("a.b.c = 'foo'", "a.b.c='foo'"),
    ('m."k.1":x', "m.k.1:x"),
    ("m.AND:x", "m.AND:x"),
    ("m:*", "m:*"),
    ("r:42", "r:42"),
    ("a = -30", "a=-30"),
    ("a > 2.997e9", "a>2.997e9"),
    ("a = 1.2s", "a=1.2s"),
    ("a > 2012-04-21T11:30:00-04:00", "a>2012-04-21T11:30:00-04:00"),
    ("a = projects/p/sources/s", "a=projects/p/sources/s"),
    ("a = (x OR y)", "(a=x | a=y)"),
    ("a != (x OR y)", "(a!=x & a!=y)"),
    ("a != (NOT x)", "a=x"),
    ("a:(x y)", "(a:x & a:y)"),
    ("a = (-5 OR -x)", "(a=-5 | !a=x)"),
    ("ANDROID ORB NOTE", "(ANDROID & ORB & NOTE)"),
    (r'a = "q\"\\\*"', "a='q\"\\\\*'"),
])  # fmt: skip
def test_what_is_understood(text, tree):
    assert text_of(parse(text)) == tree


@pytest.mark.parametrize(("text", "message"), [
    ("a AND", "expected a field, a literal or a parenthesis, found the end (at character 6)"),
    ("AND a", "found 'AND a' (at character 1)"),
    ("a OR", "found the end (at character 5)"),
    ("NOT NOT a", "(at character 5)"),
    ("(a", "this parenthesis is not closed (at character 1)"),
    ("a)", "expected the end, AND, OR or another term, found ')' (at character 2)"),
    ("()", "(at character 2)"),
    ("a =", "expected a value, found the end (at character 4)"),
    ("= 1", "expected a field"),
    ("a = b = c", "(at character 7)"),
    ("a = AND", "expected a value"),
    ("a.", "expected a field name after the point"),
    ("a, b", "(at character 2)"),
    ("a[0].b = 1", None),
    ("a='x", "this quote is not closed (at character 3)"),
    (r'a="\n"', "is no escape"),
    ("regex(a, 'x')", "function 'regex' is not known; no functions are (at character 1)"),
    ("a = now()", "function 'now' is not known"),
    ("math.mem('30mb')", "function 'math.mem' is not known"),
    ("a" * 2001, "at most 2000 characters, this one 2001"),
    ("(" * 21 + "a" + ")" * 21, "at most 20 deep"),
    ("a " * 101, "at most 100 terms"),
    ("a:(" + "x " * 101 + ")", "at most 100 terms"),
    ("a = " + "*" * 11, "at most 10 wildcards"),
    ("a\0", "without NUL (at character 2)"),
    ("\ud800", "Unicode text"),
])  # fmt: skip
def test_what_is_refused(text, message):
    with pytest.raises(FilterError) as caught:
        tree = parse(text)
        condition(tree, FIELDS[CloneJob], "sqlite")
    assert message is None or message in str(caught.value)


@pytest.mark.parametrize(("text", "message"), [
    ("nope = 1", "CloneJob has no field 'nope' to filter by; there are compute_engine_disks_target_details, "),
    ("steps.0.start_time = 1", "has no field"),
    ("compute_engine_target_details.labels.a.b = 1", "a map key with points is quoted"),
    ("compute_engine_target_details.network_tags.0 = x", "has no field"),
    ("state = RUNNING", "state is compared with one of STATE_UNSPECIFIED, PENDING, ACTIVE"),
    ("state = active", "state is compared with one of"),
    ("state < ACTIVE", "state is of type enum: < does not apply, =, != and : do"),
    ("create_time > yesterday", "create_time is compared with an RFC 3339 time such as"),
    ("create_time > 2026-01-01", "RFC 3339"),
    ("create_time > 2026-02-30T00:00:00Z", "RFC 3339"),
    ("create_time < null", "create_time is compared with null: < does not apply, = and != do"),
    ("error.code = x", "a number such as 42"),
    ("compute_engine_target_details.secure_boot = 1", "true or false"),
    ("compute_engine_target_details.labels = x", "the has operator"),
    ("compute_engine_target_details.network_tags = x", "the has operator"),
    ("compute_engine_target_details = x", "the has operator"),
    ("compute_engine_target_details:nope", "has no field 'nope'"),
    ("compute_engine_target_details.network_interfaces:x", "network_interfaces.network:VALUE"),
])  # fmt: skip
def test_what_a_clone_job_cannot_answer(text, message):
    with pytest.raises(FilterError) as caught:
        condition(parse(text), FIELDS[CloneJob], "sqlite")
    assert message in str(caught.value), str(caught.value)
    assert "(at character " in str(caught.value)


@pytest.mark.parametrize("cls", [each for each in FIELDS if each.__name__ != "Operation"])
def test_the_fields_are_those_of_the_contract(cls):
    """Each path exists in the official types, with the type and the enum names that the table says."""
    for path, field in FIELDS[cls].table.items():
        descriptor, found = getattr(v1, FIELDS[cls].resource).pb().DESCRIPTOR, None
        for part in path.split("."):
            found = descriptor.fields_by_name.get(part) or descriptor.fields_by_name[part + "_"]
            descriptor = found.message_type
        assert _kind(found) is field.kind, path
        if field.kind is Kind.ENUM:
            assert field.names == tuple(found.enum_type.values_by_name), path
        for inner in field.inner:
            assert _kind(descriptor.fields_by_name[inner]) is Kind.TEXT


def _kind(field):
    if field.message_type is not None:
        if field.message_type.GetOptions().map_entry:
            return Kind.MAP
        names = {"google.protobuf.Timestamp": Kind.TIME, "google.protobuf.Duration": Kind.DURATION}
        return Kind.LIST if field.is_repeated else names.get(field.message_type.full_name, Kind.MESSAGE)
    if field.is_repeated:
        return Kind.LIST
    kinds = {FieldDescriptor.TYPE_STRING: Kind.TEXT, FieldDescriptor.TYPE_BOOL: Kind.BOOL,
             FieldDescriptor.TYPE_ENUM: Kind.ENUM}  # fmt: skip
    return kinds.get(field.type, Kind.NUMBER)


@pytest.mark.parametrize(
    "text", ["a and b", "a = 1 or b = 2", "not a = 1", "a AND (b or c)", "a = (b or c)", "a -or b"]
)
def test_operators_in_lower_case_are_a_mistake(text):
    with pytest.raises(FilterError, match="operators are written in capitals: AND, OR, NOT"):
        parse(text)


@pytest.mark.parametrize("text", ['a "and" b', "or", "a = or", "a = not AND b", "android a", "a.or = 1"])
def test_the_same_words_as_literals(text):
    assert parse(text) is not None
