"""The AIP-160 filter grammar: text to a tree of and, or, not, comparisons and bare literals.

A parser of its own, because the grammar's words are no tokens of a fixed kind: ``:`` and ``-`` are operators before a
comparator and part of the value after it (``create_time > 2026-01-01T00:00:00-04:00``), keywords are keywords only
where a term may stand, and every error should name its position and what is allowed there. Bounded in length, depth
and number of terms; depth bounds recursion.

    expression: sequence {AND sequence}      sequence: factor {factor}      factor: term {OR term}
    term: [NOT | -] (restriction | "(" expression ")")      restriction: member [comparator arg]
    member: value {"." value}      arg: value | "(" expression of values ")"

A sequence (``a b``) is AIP-160's fuzzy AND; nothing is ranked here, so it is AND. An arg in parentheses distributes:
``state = (FAILED OR CANCELLED)`` is ``(state = FAILED OR state = CANCELLED)``, and ``!=`` means none of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

MOST_CHARACTERS, MOST_DEPTH, MOST_TERMS, MOST_WILDCARDS = 2000, 20, 100, 10

_SPACE = re.compile(r"\s*")
_KEYWORD = re.compile(r"(AND|OR|NOT)(?![^\s()])")
_MISTAKEN = ("and", "or", "not")
_COMPARATOR = re.compile(r"<=|>=|!=|=|<|>|:")
_TEXT = re.compile(r"""[^\s().,:<>=!"'\\]+""")  # of a field or a bare literal
_ARG = re.compile(r"""[^\s()<>=!,"'\\]+""")  # of a value: times have colons, numbers a sign and a point
_QUOTED = re.compile(r"""(?P<quote>["'])(?P<body>(?:(?!(?P=quote)|\\).|\\.)*)(?P=quote)""", re.DOTALL)
_ESCAPE = re.compile(r"\\(.)|(\*)", re.DOTALL)
_STAR = "\0"  # an unescaped wildcard, while a text is being read; NUL is refused in filters


class FilterError(ValueError):
    """The filter cannot be applied; the message says where and what is allowed, and is safe to show."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(f"{message} (at character {position + 1})")


@dataclass(frozen=True, slots=True)
class Literal:
    """A value as written. ``parts`` are what stands between its wildcards: one part means that it has none."""

    text: str
    parts: tuple[str, ...]
    quoted: bool
    position: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """``path comparator value``."""

    path: tuple[str, ...]
    comparator: str
    value: Literal
    position: int


@dataclass(frozen=True, slots=True)
class Not:
    """True if the node is not true."""

    node: Node


@dataclass(frozen=True, slots=True)
class And:
    """True if all nodes are."""

    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """True if any node is."""

    nodes: tuple[Node, ...]


Node = And | Or | Not | Comparison | Literal


def parse(text: str) -> Node | None:
    """The tree of a filter, None for an empty one. Raises: FilterError."""
    if len(text) > MOST_CHARACTERS:
        raise FilterError(f"a filter has at most {MOST_CHARACTERS} characters, this one {len(text)}", MOST_CHARACTERS)
    for position, character in enumerate(text):
        if character == "\0" or "\ud800" <= character <= "\udfff":
            raise FilterError("a filter is Unicode text without NUL", position)
    if not text.strip():
        return None
    return _Parser(text).filter()


def shown(text: str) -> str:
    """What a user wrote, for a message: quoted, and cut where it is long."""
    return repr(text if len(text) <= 60 else text[:57] + "…")


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.depth = 0
        self.terms = 0

    def filter(self) -> Node:
        node = self.expression(self.restriction)
        if self.at < len(self.text):
            raise self.unexpected("the end, AND, OR or another term")
        return node

    def expression(self, leaf: Callable[[], Node]) -> Node:
        factors = [self.factor(leaf)]
        while self.space() < len(self.text) and self.text[self.at] != ")":
            self.keyword("AND")
            factors.append(self.factor(leaf))
        return factors[0] if len(factors) == 1 else And(tuple(factors))

    def factor(self, leaf: Callable[[], Node]) -> Node:
        terms = [self.term(leaf)]
        while self.keyword("OR"):
            terms.append(self.term(leaf))
        return terms[0] if len(terms) == 1 else Or(tuple(terms))

    def term(self, leaf: Callable[[], Node]) -> Node:
        self.space()
        is_number = leaf == self.argument and re.match(r"-[\d.]", self.text[self.at :])
        if self.keyword("NOT") or (not is_number and self.take("-")):
            return Not(self.simple(leaf))
        return self.simple(leaf)

    def simple(self, leaf: Callable[[], Node]) -> Node:
        opened = self.at
        if not self.take("("):
            self.terms += 1
            if self.terms > MOST_TERMS:
                raise FilterError(f"a filter has at most {MOST_TERMS} terms", opened)
            node = leaf()
            if (
                isinstance(node, Literal)
                and not node.quoted
                and node.text in _MISTAKEN
                and self.text.strip() != node.text
            ):
                raise FilterError("operators are written in capitals: AND, OR, NOT", opened)
        else:
            self.depth += 1
            if self.depth > MOST_DEPTH:
                raise FilterError(f"parentheses nest at most {MOST_DEPTH} deep", opened)
            node = self.expression(leaf)
            if not self.take(")"):
                raise FilterError("this parenthesis is not closed", opened)
            self.depth -= 1
        if self.at < len(self.text) and self.text[self.at] != ")" and not self.text[self.at].isspace():
            raise self.unexpected("white space or a closing parenthesis")
        return node

    def restriction(self) -> Node:
        start = self.at
        parts = [self.value(_TEXT, "a field, a literal or a parenthesis")]
        while self.take("."):
            parts.append(self.value(_TEXT, "a field name after the point", keywords=True))
        path = tuple(part.text for part in parts)
        if self.text[self.at : self.at + 1] == "(":
            raise FilterError(f"function {shown('.'.join(path))} is not known; no functions are", start)
        after_member = self.at
        self.space()
        comparator = _COMPARATOR.match(self.text, self.at)
        if comparator is None:
            self.at = after_member
            joined = ".".join(_STAR.join(part.parts) for part in parts)
            return _literal(joined, start, quoted=any(part.quoted for part in parts))
        self.at = comparator.end()
        self.space()
        if self.text[self.at : self.at + 1] != "(":
            return Comparison(path, comparator[0], self.argument(), start)
        self.terms -= 1  # the values in the parentheses are what counts
        return _distributed(path, comparator[0], self.simple(self.argument), start)

    def argument(self) -> Literal:
        value = self.value(_ARG, "a value")
        if not value.quoted and self.text[self.at : self.at + 1] == "(":
            raise FilterError(f"function {shown(value.text)} is not known; no functions are", value.position)
        return value

    def value(self, pattern: re.Pattern[str], wanted: str, *, keywords: bool = False) -> Literal:
        start = self.at
        if self.text[start : start + 1] in ("'", '"'):
            quoted = _QUOTED.match(self.text, start)
            if quoted is None:
                raise FilterError("this quote is not closed", start)
            self.at = quoted.end()
            return _literal(_unescaped(quoted["body"], start + 1), start, quoted=True)
        text = pattern.match(self.text, start)
        if text is None or (not keywords and _KEYWORD.match(self.text, start)):
            raise self.unexpected(wanted)
        self.at = text.end()
        return _literal(text[0].replace("*", _STAR), start, quoted=False)

    def keyword(self, word: str) -> bool:
        """Take the keyword, if it comes next; otherwise stay."""
        start = self.at
        self.space()
        found = _KEYWORD.match(self.text, self.at)
        if found is None or found[1] != word:
            self.at = start
            return False
        self.at = found.end()
        self.space()
        return True

    def take(self, character: str) -> bool:
        if self.text[self.at : self.at + 1] != character:
            return False
        self.at += 1
        return True

    def space(self) -> int:
        found = _SPACE.match(self.text, self.at)
        assert found is not None
        self.at = found.end()
        return self.at

    def unexpected(self, wanted: str) -> FilterError:
        found = shown(self.text[self.at : self.at + 20]) if self.at < len(self.text) else "the end"
        return FilterError(f"expected {wanted}, found {found}", self.at)


def _literal(text: str, position: int, *, quoted: bool) -> Literal:
    parts = tuple(text.split(_STAR))
    if len(parts) > MOST_WILDCARDS + 1:
        raise FilterError(f"a value has at most {MOST_WILDCARDS} wildcards", position)
    return Literal("*".join(parts), parts, quoted, position)


def _unescaped(body: str, position: int) -> str:
    def replace(found: re.Match[str]) -> str:
        if found[2]:
            return _STAR
        if found[1] not in "\\\"'*":
            message = f"\\{found[1]} is no escape; there are \\\\ \\\" \\' and \\* (a star that is no wildcard)"
            raise FilterError(message, position + found.start())
        return found[1]

    return _ESCAPE.sub(replace, body)


def _distributed(path: tuple[str, ...], comparator: str, argument: Node, position: int) -> Node:
    """The comparison with each value of the argument; ``!=`` by De Morgan, so that it still skips what is not set."""

    def each(node: Node, comparator: str) -> Node:
        negated = comparator == "!="
        if isinstance(node, Literal):
            return Comparison(path, comparator, node, position)
        if isinstance(node, Not):
            return each(node.node, "=") if negated else Not(each(node.node, comparator))
        assert isinstance(node, And | Or)
        nodes = tuple(each(child, comparator) for child in node.nodes)
        return And(nodes) if isinstance(node, And) is not negated else Or(nodes)

    return each(argument, comparator)
