"""What must be so for a condition to hold, of what Envoy can look at for next to nothing.

In:  a compiled `Expression`. Out: `Need`s: without any one of them the condition is not true.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from google.api.expr.v1alpha1.checked_pb2 import CheckedExpr

from lateen.expr.envoy_tree import dotted
from lateen.expr.expression import Expression

__all__ = ["Need", "needs_of"]

# What has a value though a part of it has none, or asks whether a part is there.
_MAY_NOT_READ: Final = frozenset({"_&&_", "_||_", "_?_:_", "@in"})


@dataclass(frozen=True, slots=True, order=True)
class Need:
    """What must be so for a condition to hold.

    `kind`: a "header" is there; the "method", the "path", or its beginning, "prefix", is that.
    """

    kind: str
    text: str


def needs_of(expression: Expression) -> frozenset[Need]:
    """Return what must be so for a condition to be true, of what Envoy can look at for next to nothing.

    What reads an absent header has no value. So has whatever is made of that, but for `||`, `&&`, `? :`, of which only
    the parts of an `&&` at the top are looked into.
    """
    return frozenset(_needed(CheckedExpr.FromString(expression.checked).expr))


def _needed(expr: Any) -> Iterator[Need]:
    kind = expr.WhichOneof("expr_kind")
    if kind == "call_expr" and expr.call_expr.function == "_&&_":
        for part in expr.call_expr.args:
            yield from _needed(part)
    elif kind == "select_expr" and expr.select_expr.test_only:
        if dotted(expr.select_expr.operand) == "request.headers":
            yield Need("header", expr.select_expr.field)
    elif kind == "call_expr" and expr.call_expr.function == "@in":
        key, whole = expr.call_expr.args
        if dotted(whole) == "request.headers" and key.WhichOneof("expr_kind") == "const_expr":
            yield Need("header", key.const_expr.string_value)
        else:
            yield from (Need("header", name) for part in (key, whole) for name in _read_for_sure(part))
    else:
        yield from _compared(expr)
        yield from (Need("header", name) for name in _read_for_sure(expr))


def _compared(expr: Any) -> Iterator[Need]:
    """Yield what a comparison with a text says of method and path."""
    called = expr.call_expr
    if called.function == "_==_":
        one, other = called.args
        pair = (one, other) if other.WhichOneof("expr_kind") == "const_expr" else (other, one)
    elif called.function == "startsWith" and called.HasField("target"):
        pair = (called.target, called.args[0])
    else:
        return
    name, text = dotted(pair[0]), pair[1].const_expr.string_value
    if not text or "?" in text or "#" in text:
        return
    if name == "request.method" and called.function == "_==_":
        yield Need("method", text)
    elif name in ("request.path", "request.url_path"):
        yield Need("path" if called.function == "_==_" else "prefix", text)


def _read_for_sure(expr: Any) -> Iterator[str]:
    """Yield the headers whose values are read whatever else is so."""
    kind = expr.WhichOneof("expr_kind")
    if kind == "select_expr" and not expr.select_expr.test_only:
        if dotted(expr.select_expr.operand) == "request.headers":
            yield expr.select_expr.field
        else:
            yield from _read_for_sure(expr.select_expr.operand)
    elif kind == "call_expr" and expr.call_expr.function == "_[_]":
        whole, key = expr.call_expr.args
        if dotted(whole) == "request.headers" and key.WhichOneof("expr_kind") == "const_expr":
            yield key.const_expr.string_value
    elif kind == "call_expr" and expr.call_expr.function not in _MAY_NOT_READ:
        called = expr.call_expr
        if called.HasField("target"):
            yield from _read_for_sure(called.target)
        for argument in called.args:
            yield from _read_for_sure(argument)
