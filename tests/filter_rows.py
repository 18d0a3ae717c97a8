"""Random rows, random filters, and a plain reading of AIP-160 in Python to compare the databases with.

The reference does not know SQL: it walks the syntax tree over the resource's values as the contract shows them.
"""

import datetime as dt
import re

from hypothesis import strategies as st

from models.filters import FIELDS, Kind
from models.filters.syntax import And, Comparison, Literal, Not, Or
from models.schema import CloneJob, MigratingVm
from models.states import JobState, Verdict, VmState

SOURCE = "projects/p/locations/l/sources/s"
VM = f"{SOURCE}/migratingVms/vm"
CYCLE = f"{VM}/replicationCycles/cycle-1"
START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)

WORDS = ["", "a", "A", "ab", "b%", "_", "a*b", "é", "É", "[x]", "a?", "web-1", "x\\y", 'q"uote', "null", "😀", "Z"]
KEYS = ["env", "a.b", 'k"', "é", "team", "Key", "*"]
NUMBERS = [0, 1, 2, 4, 2**31 - 1, -3]
words = st.sampled_from(WORDS)
times = st.builds(lambda s, us: START + dt.timedelta(seconds=s, microseconds=us), st.integers(0, 3), st.integers(0, 2))
maps = st.dictionaries(st.sampled_from(KEYS), words, max_size=3)
_ENUM = ("COMPUTE_ENGINE_LICENSE_TYPE_PAYG", "COMPUTE_ENGINE_LICENSE_TYPE_BYOL")


def _optional(**fields):
    return st.fixed_dictionaries({}, optional=fields)


target_details = _optional(
    vmName=words, zone=words, labels=maps, metadata=maps, secureBoot=st.booleans(),
    networkTags=st.lists(words, max_size=3), licenseType=st.sampled_from(_ENUM),
    networkInterfaces=st.lists(_optional(network=words, internalIp=words), max_size=2),
    computeScheduling=_optional(minNodeCpus=st.sampled_from(NUMBERS), restartType=st.just("AUTOMATIC_RESTART")),
    encryption=_optional(kmsKey=words),
)  # fmt: skip
bodies = _optional(
    displayName=words, description=words, labels=maps, computeEngineTargetDefaults=target_details,
    policy=_optional(idleDuration=st.sampled_from(["20s", "1.5s", "0s", "0.000000001s"]), skipOsAdaptation=st.booleans()),
)  # fmt: skip


@st.composite
def jobs(draw, number):
    state = draw(st.sampled_from([JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED]))
    verdict = {"SUCCEEDED": Verdict.SUCCEED, "FAILED": Verdict.FAIL, "CANCELLED": Verdict.CANCEL}[state]
    create = draw(times)
    end = draw(times)
    if number == 0 and draw(st.booleans()):
        state, verdict, end = JobState.ACTIVE, None, None
    error = draw(st.none() | _optional(message=words)) if state is not JobState.SUCCEEDED else None
    name = draw(st.sampled_from(["job", "web", "Job"]))
    return {
        "id": f"id-{number}", "name": f"{VM}/cloneJobs/{name}-{number}", "parent": VM, "state": state,
        "state_time": draw(times), "create_time": create, "end_time": end, "verdict": verdict, "verdict_time": None,
        "error": error, "cycle": CYCLE, "target": "simulated", "target_details": draw(target_details), "epoch": 1,
        "current_step": 0, "attempts": 0, "dispatches": 0, "stale_writes": 0, "cleanup_attempts": 0,
        "wake_at": None if end else START,
    }  # fmt: skip


@st.composite
def vms(draw, number):
    return {
        "name": f"{SOURCE}/migratingVms/{draw(words.filter(str.isalnum))}-{number}", "parent": SOURCE,
        "body": draw(bodies), "state": draw(st.sampled_from(VmState)), "state_time": draw(times),
        "create_time": draw(times), "update_time": draw(times),
    }  # fmt: skip


def some(rows):
    return st.integers(0, 6).flatmap(lambda count: st.tuples(*(rows(number) for number in range(count))))


def resource(cls, row):
    """The row as the contract shows it: nested, by JSON names; times stay times."""
    if cls is CloneJob:
        shown = {"name": row["name"], "state": str(row["state"]), "computeEngineTargetDetails": row["target_details"]}
        if row["error"] is not None:
            shown["error"] = {"code": 2, "message": row["error"].get("message", "")}
        times_ = ("create_time", "state_time", "end_time")
    else:
        assert cls is MigratingVm
        shown = {**row["body"], "name": row["name"], "state": str(row["state"])}
        times_ = ("create_time", "state_time", "update_time")
    return shown | {_camel(key): row[key] for key in times_ if row[key] is not None}


def _camel(name):
    head, *rest = name.split("_")
    return head + "".join(part.title() for part in rest)


# Filters


def quoted(text):
    return '"' + re.sub(r'(["\\*])', r"\\\1", text) + '"'


_patterns = st.lists(words, min_size=2, max_size=3).map(
    lambda parts: '"' + "*".join(quoted(part)[1:-1] for part in parts) + '"'
)
_texts = st.one_of(words.map(quoted), _patterns, st.just("null"))
_stamps = times.map(lambda t: t.isoformat()) | st.sampled_from(
    ["2026-01-01T02:00:01+02:00", "2026-01-01T00:00:01.0000011Z", "0001-01-01T00:00:00Z", "null"]
)
_VALUES = {
    Kind.TEXT: _texts,
    Kind.NUMBER: st.sampled_from([*map(str, NUMBERS), "2.5", "1e0", "-1e400", "9" * 30, "null"]),
    Kind.BOOL: st.sampled_from(["true", "false", "null"]),
    Kind.TIME: _stamps,
    Kind.DURATION: st.sampled_from(["20s", "1.5s", "0s", "-1s", "1.500s", "0.000000001s", "null"]),
}
_ANY = st.sampled_from(["=", "!=", "<", "<=", ">", ">=", ":"])
_EQUAL = st.sampled_from(["=", "!=", ":"])
_NULL = st.sampled_from(["= null", "!= null", ":*"])


@st.composite
def comparisons(draw, cls):
    path = draw(st.sampled_from(sorted(FIELDS[cls].table)))
    field = FIELDS[cls].table[path]
    key = draw(st.sampled_from(KEYS))
    if field.kind is Kind.MESSAGE:
        inner = [
            p[len(path) + 1 :] for p in FIELDS[cls].table if p.startswith(path + ".") and "." not in p[len(path) + 1 :]
        ]
        return draw(st.sampled_from([*(f"{path}:{each}" for each in inner), f"{path}:*", f"{path} = null"]))
    if field.kind is Kind.MAP:
        has, value = f"{path}:{draw(_texts)}", draw(_texts)
        comparator = draw(_EQUAL if value == "null" else _ANY)
        return draw(st.sampled_from([has, f"{path}:*", f"{path}.{quoted(key)} {comparator} {value}",
                                     f"{path}.{quoted(key)}:*"]))  # fmt: skip
    if field.kind is Kind.LIST:
        inner = draw(st.sampled_from(field.inner)) if field.inner else ""
        return f"{path}{'.' if inner else ''}{inner}:{draw(_texts.filter(lambda t: t != 'null') | st.just('*'))}"
    if draw(st.integers(0, 9)) == 0:
        return f"{path}{draw(_NULL)}"
    if field.kind is Kind.ENUM:
        return f"{path} {draw(_EQUAL)} {draw(st.sampled_from([*field.names, 'null']))}"
    value = draw(_VALUES[field.kind])
    comparator = draw(_EQUAL if field.kind is Kind.BOOL or value == "null" else _ANY)
    return f"{path} {comparator} {value}"


def filters(cls):
    leaf = comparisons(cls) | words.filter(bool).map(quoted) | _patterns
    return st.recursive(leaf, lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=3).map(lambda xs: "(" + " AND ".join(xs) + ")"),
        st.lists(inner, min_size=2, max_size=3).map(lambda xs: "(" + " ".join(xs) + ")"),
        st.lists(inner, min_size=2, max_size=3).map(lambda xs: "(" + " OR ".join(xs) + ")"),
        inner.map(lambda x: f"NOT ({x})"), inner.map(lambda x: f"-({x})"),
    ), max_leaves=8).filter(lambda text: len(text) <= 1900)  # fmt: skip


# The reference


def holds(node, cls, shown):
    match node:
        case And(nodes):
            return all(holds(each, cls, shown) for each in nodes)
        case Or(nodes):
            return any(holds(each, cls, shown) for each in nodes)
        case Not(inner):
            return not holds(inner, cls, shown)
        case Literal():
            texts = [shown["name"].rpartition("/")[2]]
            for path, field in FIELDS[cls].table.items():
                if field.searched:
                    texts.append(_get(shown, path.split("."))[0] or "")
            return any(_like(text, ("", *node.parts, "")) for text in texts)
        case Comparison():
            return _compares(node, cls, shown)
    raise AssertionError(node)


_MISSING = object()


def _get(shown, path):
    """Value (None if unset) and whether everything that holds it is set."""
    current = shown
    for index, part in enumerate(path):
        if _camel(part) not in current:
            return None, index == len(path) - 1
        current = current[_camel(part)]
    return current, True


def _compares(node, cls, shown):
    table = FIELDS[cls].table
    length = next(n for n in range(len(node.path), 0, -1) if ".".join(node.path[:n]) in table)
    field, rest = table[".".join(node.path[:length])], node.path[length:]
    value, parents = _get(shown, node.path[:length])
    if field.kind is Kind.MAP:
        return _map(node, value or {}, rest)
    if field.kind is Kind.LIST:
        items = [each.get(_camel(rest[0]), "") if rest else each for each in value or []]
        star = node.value.parts == ("", "")
        return any((each != "" if rest else True) if star else _like(each, node.value.parts) for each in items)
    if field.kind is Kind.MESSAGE:
        if node.value.text in ("*", "null"):
            return (value is not None) is (node.value.text == "*")
        inner = table[".".join((*node.path, node.value.text))]
        return _present(inner, *_get(shown, (*node.path, node.value.text)))
    present = _present(field, value, parents)
    if node.value.text == "null" and not node.value.quoted:
        return present is (node.comparator == "!=")
    if node.comparator == ":" and node.value.parts == ("", ""):
        return present
    if field.kind not in (Kind.TIME, Kind.DURATION):
        if not parents:
            return False
        value = field.default if value is None else value
    elif value is None:
        return False
    return _scalar(field, value, node)


def _present(field, value, parents):
    if field.kind in (Kind.MAP, Kind.LIST):
        return bool(value)
    if field.kind in (Kind.TIME, Kind.DURATION, Kind.MESSAGE):
        return value is not None
    return parents and value is not None and value != field.default


def _map(node, value, rest):
    if not rest:
        if node.value.parts == ("", ""):
            return bool(value)
        if node.value.text == "null" and not node.value.quoted:
            return not value
        return any(_like(key, node.value.parts) for key in value)
    if node.value.text == "null" and not node.value.quoted:
        return (rest[0] in value) is (node.comparator == "!=")
    if rest[0] not in value:
        return False
    if node.comparator == ":" and node.value.parts == ("", ""):
        return True
    return _text(value[rest[0]], node)


def _text(value, node):
    if node.comparator in ("=", ":", "!="):
        return _like(value, node.value.parts) is (node.comparator != "!=")
    return _order(value.encode(), node.comparator, node.value.text.encode())


def _scalar(field, value, node):
    text = node.value.text
    if field.kind is Kind.TEXT:
        return _text(value, node)
    if field.kind is Kind.TIME:  # in units of 0.1 microseconds
        digits = re.search(r"\.(\d+)", text)
        finer = int(digits[1][6:7] or 0) if digits else 0
        moment = dt.datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text))

        def units(t):
            return (t - dt.datetime(1, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1) * 10

        return _order(units(value), node.comparator, units(moment) + finer)
    if field.kind is Kind.DURATION:
        return _order(float(value[:-1]), node.comparator, float(text[:-1]))
    if field.kind is Kind.NUMBER:
        return _order(value, node.comparator, float(text))
    if field.kind is Kind.BOOL:
        return _order(value, node.comparator, text == "true")
    return _order(value, node.comparator, text)


def _order(left, comparator, right):
    return {"=": left == right, ":": left == right, "!=": left != right, "<": left < right, "<=": left <= right,
            ">": left > right, ">=": left >= right}[comparator]  # fmt: skip


def _like(text, parts):
    return re.fullmatch(".*".join(map(re.escape, parts)), text, re.DOTALL) is not None
