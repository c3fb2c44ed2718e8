"""An expression of a rule as an expression of Envoy's, which gives the same: or why there is none.

In:  a compiled `Expression`, and where it is to run: `Where`.
Out: an `EnvoyExpression`, as a tree and as a text.
Rules: docs/design/0023-compiled-rules.md. Envoy runs CEL too, with attributes of its own: what names ours is
replaced by what gives the same value there, and is absent where ours is absent. What is in none of these tables is not
translated: an expression that Envoy cannot build costs a proxy its whole configuration. tests/mixer/test_compiled.py
holds both against each other with a real Envoy.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from google.api.expr.v1alpha1.checked_pb2 import CheckedExpr
from google.api.expr.v1alpha1.syntax_pb2 import Expr

from lateen.expr import library
from lateen.expr.attributes import BY_NAME, Type
from lateen.expr.envoy_places import (
    ALWAYS,
    BY_CERTIFICATE,
    HEADERS,
    NAMED_HEADERS,
    WHY_NOT,
    Where,
    client_shown,
    places,
)
from lateen.expr.envoy_tree import call, chain, constant, dotted, has, numbered, text_of
from lateen.expr.errors import ExpressionError
from lateen.expr.expression import Expression

__all__ = [
    "EnvoyExpression",
    "NotInEnvoy",
    "Where",
    "all_of",
    "any_of",
    "everything",
    "keyed",
    "listed",
    "to_envoy",
]

_HEADER: Final = re.compile(r"[A-Za-z0-9!#$&'*+.^_`|~-]+\Z")
NO_VALUE: Final = "\x00"
MOST_LISTED: Final = 100  # Envoy compares with each
MOST_INSTRUCTIONS: Final = 90  # of 100 that Envoy allows a pattern; a few are of every pattern
_PARTS: Final = re.compile(r"\[\^?\]?(?:\\.|\[:\^?\w+:\]|[^\]\\])*\]|\\.|.", re.DOTALL)
_MULTIPLIED: Final = re.compile(r"\{|\\[pPQCx]|\(\?[imsU-]")  # what is not counted part by part
# What both do alike. The other functions of texts need settings that Envoy has not everywhere.
_FUNCTIONS: Final = frozenset(
    {
        "_&&_", "_||_", "!_", "_==_", "_!=_", "_<_", "_<=_", "_>_", "_>=_", "_?_:_", "_+_", "_-_", "-_",
        "startsWith", "endsWith", "contains", "matches", "size", "int", "timestamp", "duration",
        "lowerAscii", "upperAscii", "replace", "split", "substring", "indexOf", "lastIndexOf", "trim",
    }
)  # fmt: skip
_STRING_FUNCTIONS: Final = frozenset(
    {"lowerAscii", "upperAscii", "replace", "split", "substring", "indexOf", "lastIndexOf", "trim"}
)


class NotInEnvoy(Exception):
    """Envoy cannot evaluate this; the text says why, as the end of "it ..."."""


@dataclass(frozen=True, slots=True)
class EnvoyExpression:
    """`tree`: bytes of a `google.api.expr.v1alpha1.Expr`. `text`: the same, written."""

    tree: bytes
    text: str


def to_envoy(expression: Expression, where: Where) -> EnvoyExpression:
    """Return the expression for Envoy. Raises: NotInEnvoy."""
    return _finished(_Rewriting(where).expr(CheckedExpr.FromString(expression.checked).expr))


def everything() -> EnvoyExpression:
    return _finished(constant(bool_value=True))


def any_of(*expressions: EnvoyExpression) -> EnvoyExpression:
    """Return what is true where one of them is; there is at least one."""
    return _joined("_||_", expressions)


def all_of(*expressions: EnvoyExpression) -> EnvoyExpression:
    return _joined("_&&_", expressions)


def listed(value: Expression, entries: tuple[str, ...], where: Where, *, wanted: bool) -> EnvoyExpression:
    """Return whether a value is among `entries` (`wanted`), or is not; what is absent is not.

    Raises: NotInEnvoy, also where Envoy cannot tell whether the value is absent.
    """
    if len(entries) > MOST_LISTED:
        raise NotInEnvoy(f"compares with {len(entries)} entries, of at most {MOST_LISTED} in Envoy")
    rewriting = _Rewriting(where)
    tree = CheckedExpr.FromString(value.checked).expr
    entry_list = Expr()
    entry_list.list_expr.elements.extend([constant(string_value=entry) for entry in entries])
    found = call("@in", rewriting.expr(tree), entry_list)
    if wanted:
        return _finished(found)
    there = rewriting.presence(tree)
    absent = [] if there is None else [call("!_", there)]
    return _finished(chain("_||_", [*absent, call("!_", found)]))


def keyed(value: Expression, where: Where) -> EnvoyExpression:
    """Return a text that counts are kept by: the value, or, where there is none, a text that no value is.

    Raises: NotInEnvoy, also for what is no text, or where Envoy cannot tell whether there is a value.
    """
    if value.type is not Type.STRING:
        raise NotInEnvoy("counts by something that is no text")
    rewriting = _Rewriting(where)
    tree = CheckedExpr.FromString(value.checked).expr
    found, there = rewriting.expr(tree), rewriting.presence(tree)
    return _finished(found if there is None else call("_?_:_", there, found, constant(string_value=NO_VALUE)))


def _joined(function: str, expressions: tuple[EnvoyExpression, ...]) -> EnvoyExpression:
    return _finished(chain(function, [_read(expression) for expression in expressions]))


def _read(expression: EnvoyExpression) -> Any:
    return Expr.FromString(expression.tree)


def _finished(tree: Any) -> EnvoyExpression:
    return EnvoyExpression(numbered(tree).SerializeToString(deterministic=True), text_of(tree))


class _Rewriting:
    """Rewrites one expression."""

    def __init__(self, where: Where) -> None:
        self._where = where
        self._places = places(where)

    def expr(self, expr: Any, *, whole: bool = False) -> Any:
        """Return the tree. `whole`: a map may stand here, since what is around it takes one value out of it."""
        match expr.WhichOneof("expr_kind"):
            case "const_expr":
                return _copy(expr)
            case "select_expr":
                return self._select(expr, whole)
            case "call_expr":
                return self._call(expr.call_expr)
            case "list_expr":
                made = Expr()
                made.list_expr.elements.extend([self.expr(element) for element in expr.list_expr.elements])
                return made
            case "comprehension_expr":
                raise NotInEnvoy("goes over a list, which Envoy's expressions cannot")
        raise NotInEnvoy("makes a map, which Envoy's expressions need not know")

    def presence(self, expr: Any) -> Any:
        """Return what tells whether an attribute is there; None: it always is."""
        name = dotted(expr)
        if name in ALWAYS:
            return None
        if name in BY_CERTIFICATE:
            return self._has(name)
        if name in NAMED_HEADERS:
            found = self.expr(expr)
            return call("@in", found.call_expr.args[1], found.call_expr.args[0])
        if expr.WhichOneof("expr_kind") == "call_expr" and expr.call_expr.function == "_[_]":
            whole, key = expr.call_expr.args
            if dotted(whole) == "request.headers":
                return call("@in", self.expr(key), self.expr(whole, whole=True))
        if expr.WhichOneof("expr_kind") == "select_expr" and dotted(expr.select_expr.operand) == "request.headers":
            return has(self.expr(expr))
        raise NotInEnvoy("looks at what may be absent, and Envoy cannot tell whether there is a value at all")

    def _select(self, expr: Any, whole: bool) -> Any:
        select = expr.select_expr
        name = dotted(expr)
        if name in BY_NAME:
            if select.test_only:
                return self._has(name)
            if BY_NAME[name].is_map and not whole:
                raise NotInEnvoy(f"looks at all of {name}")
            return self._attribute(name)
        if dotted(select.operand) in HEADERS:
            _header_name(select.field)
        operand = self.expr(select.operand, whole=True)
        return Expr(select_expr=Expr.Select(operand=operand, field=select.field, test_only=select.test_only))

    def _has(self, name: str) -> Any:
        if name in BY_CERTIFICATE:
            return client_shown() if self._where.vouched else constant(bool_value=False)
        raise NotInEnvoy(f"asks whether there is {name}")

    def _attribute(self, name: str) -> Any:
        made = self._places.get(name)
        if made is None:
            raise NotInEnvoy(WHY_NOT.get(name, f"reads {name}, which Envoy's expressions do not know"))
        return made(self._where)

    def _call(self, called: Any) -> Any:
        if called.function == "_[_]":
            whole, key = called.args
            if key.WhichOneof("expr_kind") != "const_expr":
                raise NotInEnvoy("looks something up by a name that is worked out")
            if dotted(whole) in HEADERS:
                _header_name(key.const_expr.string_value)
            return call("_[_]", self.expr(whole, whole=True), _copy(key))
        if called.function == "@in":
            key, whole = called.args
            if dotted(whole) in HEADERS:
                if key.WhichOneof("expr_kind") != "const_expr":
                    raise NotInEnvoy("looks something up by a name that is worked out")
                _header_name(key.const_expr.string_value)
            return call("@in", self.expr(key), self.expr(whole, whole=True))
        if called.function not in _FUNCTIONS:
            raise NotInEnvoy(f"calls {called.function.strip('_')}, which Envoy's expressions do not have")
        if called.function == "matches":
            _pattern(called.args[-1])
        needs_settings = called.function in _STRING_FUNCTIONS or called.function == "_+_"
        if needs_settings and not self._where.texts:
            raise NotInEnvoy(f"calls {called.function.strip('_')}, which Envoy's expressions do not have there")
        made = call(called.function, *(self.expr(argument) for argument in called.args))
        if called.HasField("target"):
            made.call_expr.target.CopyFrom(self.expr(called.target))
        return made


def _copy(expr: Any) -> Any:
    made = Expr()
    made.const_expr.CopyFrom(expr.const_expr)
    return made


def _header_name(name: str) -> None:
    if not _HEADER.match(name):
        raise NotInEnvoy(f"reads the header {name!r}, which is none of HTTP's")


def _pattern(expr: Any) -> None:
    """Refuse a pattern that Envoy would not take: it compiles patterns beforehand, and only small ones."""
    if expr.WhichOneof("expr_kind") != "const_expr":
        raise NotInEnvoy("matches a pattern that is worked out")
    pattern = expr.const_expr.string_value
    try:
        library.prepare_pattern(pattern)
    except ExpressionError:
        raise NotInEnvoy(f"matches {pattern!r}, which is no pattern") from None
    if _MULTIPLIED.search(pattern) or sum(map(_instructions, _PARTS.findall(pattern))) > MOST_INSTRUCTIONS:
        raise NotInEnvoy(f"matches {pattern!r}, which may be too large a pattern for Envoy")


def _instructions(part: str) -> int:
    """Return how many instructions of RE2 a part of a pattern may become, at most."""
    if part in (".", r"\D", r"\W", r"\S") or part.startswith("[^") or not part.isascii():
        return 8 + 4 * len(part)
    return len(part) if part.startswith("[") else 3 if part.startswith("\\") else 1
