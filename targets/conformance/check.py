"""A check: a function whose docstring says the rule and where it stands."""

from __future__ import annotations

import enum
import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from targets.base import ResourceSpec
from targets.errors import TargetError

if TYPE_CHECKING:
    from targets.conformance.bench import Bench


class Outcome(enum.StrEnum):
    """What a check ended with."""

    PASSED = "passed"
    FAILED = "failed"  # the target does not keep the rule; the detail says what was seen
    NOT_APPLICABLE = "not applicable"  # cannot be seen here; the detail says why


class CheckFailedError(Exception):
    """The rule is not kept; the message says what was seen."""


class NotApplicableError(Exception):
    """The rule cannot be looked at here; the message says why."""


@dataclass(frozen=True, slots=True)
class Check:
    """One rule of the protocol that can be looked at. ``source``: where it stands (R1 to R9: docs/guarantee.md)."""

    name: str
    rule: str
    source: str
    function: Callable[[Bench], None]


def check(function: Callable[[Bench], None]) -> Check:
    """Make a check of a function whose docstring is the rule, with its source in the last line."""
    rule, _, source = (inspect.getdoc(function) or "").partition("Source:")
    if not (rule.strip() and source.strip()):
        raise TypeError(f"{function.__name__} does not say its rule and its source")
    return Check(function.__name__, " ".join(rule.split()), " ".join(source.split()).rstrip("."), function)


def check_each(function: Callable[[Bench, ResourceSpec], None]) -> Check:
    """The same of a function that looks at one spec: it is called with one of each kind that can be made here."""

    @functools.wraps(function)
    def run(bench: Bench) -> None:
        why, looked = "", 0
        for spec in bench.specs():
            try:
                function(bench, spec)
                looked += 1
            except NotApplicableError as error:
                why = str(error)
        if not looked:
            raise NotApplicableError(why or "nothing can be made here")

    return check(run)


def expect(condition: bool, seen: object) -> None:
    """Go on if the rule is kept. Raises: CheckFailedError."""
    if not condition:
        raise CheckFailedError(str(seen))


@contextmanager
def refused(kind: type[TargetError], call: str) -> Iterator[None]:
    """The call in this block must raise that error. Raises: CheckFailedError."""
    try:
        yield
    except kind:
        return
    except TargetError as error:
        raise CheckFailedError(
            f"{call}: {kind.__name__} was due, but it raised {type(error).__name__} ({error})"
        ) from None
    raise CheckFailedError(f"{call}: {kind.__name__} was due, but it was accepted")
