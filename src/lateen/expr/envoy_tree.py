"""Trees of CEL: made, numbered, written as text.

In and out: `google.api.expr.v1alpha1.Expr`. What is written can be put into a format of Envoy's: it holds no `%`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any, Final

from google.api.expr.v1alpha1.syntax_pb2 import Constant, Expr

__all__ = ["call", "chain", "constant", "dotted", "has", "index", "method", "numbered", "select", "text_of"]

_BINARY: Final = {f"_{sign}_": sign for sign in ("&&", "||", "==", "!=", "<", "<=", ">", ">=", "+", "-")}


def constant(**value: Any) -> Any:
    """Return a constant: `string_value="a"`, `bool_value=True`, ..."""
    return Expr(const_expr=Constant(**value))


def select(*names: str) -> Any:
    """Return `a.b.c`."""
    expr = Expr(ident_expr=Expr.Ident(name=names[0]))
    for name in names[1:]:
        expr = Expr(select_expr=Expr.Select(operand=expr, field=name))
    return expr


def call(function: str, *args: Any) -> Any:
    return Expr(call_expr=Expr.Call(function=function, args=args))


def method(target: Any, function: str, *args: Any) -> Any:
    """Return `target.function(args)`."""
    return Expr(call_expr=Expr.Call(target=target, function=function, args=args))


def index(whole: Any, key: str) -> Any:
    """Return `whole["key"]`."""
    return call("_[_]", whole, constant(string_value=key))


def chain(function: str, trees: list[Any]) -> Any:
    """Return `a + b + c` for an operator; there is at least one."""
    found = trees[0]
    for tree in trees[1:]:
        found = call(function, found, tree)
    return found


def has(expr: Any) -> Any:
    """Return whether what `expr` selects is there."""
    selected = expr.select_expr
    return Expr(select_expr=Expr.Select(operand=selected.operand, field=selected.field, test_only=True))


def dotted(expr: Any) -> str:
    """Return the dotted name of a chain of names; "" for anything else."""
    match expr.WhichOneof("expr_kind"):
        case "ident_expr":
            return str(expr.ident_expr.name)
        case "select_expr":
            above = dotted(expr.select_expr.operand)
            return f"{above}.{expr.select_expr.field}" if above else ""
    return ""


def numbered(tree: Any) -> Any:
    """Give each part a number of its own, by which Envoy tells them apart. Return the tree."""
    _number(tree, count(1))
    return tree


def _number(expr: Any, numbers: Iterator[int]) -> None:
    expr.id = next(numbers)
    match expr.WhichOneof("expr_kind"):
        case "select_expr":
            _number(expr.select_expr.operand, numbers)
        case "call_expr":
            if expr.call_expr.HasField("target"):
                _number(expr.call_expr.target, numbers)
            for argument in expr.call_expr.args:
                _number(argument, numbers)
        case "list_expr":
            for element in expr.list_expr.elements:
                _number(element, numbers)


def text_of(expr: Any) -> str:
    """Return the expression as it would be written."""
    match expr.WhichOneof("expr_kind"):
        case "const_expr":
            return _literal(expr.const_expr)
        case "ident_expr":
            return str(expr.ident_expr.name)
        case "select_expr":
            written = f"{text_of(expr.select_expr.operand)}.{expr.select_expr.field}"
            return f"has({written})" if expr.select_expr.test_only else written
        case "list_expr":
            return f"[{', '.join(map(text_of, expr.list_expr.elements))}]"
    called = expr.call_expr
    parts = [text_of(argument) for argument in called.args]
    match called.function:
        case "_[_]":
            return f"{parts[0]}[{parts[1]}]"
        case "@in":
            return f"({parts[0]} in {parts[1]})"
        case "_?_:_":
            return f"({parts[0]} ? {parts[1]} : {parts[2]})"
        case "!_" | "-_":
            return f"{called.function[0]}({parts[0]})"
        case function if function in _BINARY:
            return f"({parts[0]} {_BINARY[function]} {parts[1]})"
    target = f"{text_of(called.target)}." if called.HasField("target") else ""
    return f"{target}{called.function}({', '.join(parts)})"


def _literal(constant: Any) -> str:
    match constant.WhichOneof("constant_kind"):
        case "string_value":
            return '"' + "".join(map(_escaped, constant.string_value)) + '"'
        case "bool_value":
            return "true" if constant.bool_value else "false"
        case "null_value":
            return "null"
        case "int64_value":
            return str(constant.int64_value)
        case "uint64_value":
            return f"{constant.uint64_value}u"
        case "double_value":
            return repr(constant.double_value)
    raise ValueError(f"a constant that is not written: {constant}")


def _escaped(character: str) -> str:
    # A percent sign could end a command of Envoy's formats, in which texts like these stand.
    if character.isascii() and character.isprintable() and character not in '"\\%':
        return character
    return f"\\U{ord(character):08x}"
