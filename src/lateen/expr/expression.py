"""One expression of a rule: compiled once, evaluated for each request.

In:  a text. Out: an `Expression`: its type, what it reads, and its value for an `Activation`.
Rules: the Common Expression Language over the attributes of `lateen.expr.attributes`, docs/mixer/attributes.md.

What an expression reads that is absent leaves it without a value, as in Envoy's CEL; `has()` and `in` ask.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import Enum
from typing import Any, Final

from google.api.expr.v1alpha1.checked_pb2 import CheckedExpr

from lateen.expr import library
from lateen.expr.attributes import BY_NAME, GROUPS, ROOTS, Phase, Type
from lateen.expr.errors import ExpressionError

__all__ = ["ABSENT", "Absent", "Activation", "Expression", "Read", "compile_expression"]

MAX_CHARACTERS: Final = 4096
MAX_LOOPS: Final = 2  # comprehensions within each other: each goes over a list that a client may have sent
MAX_NODES: Final = 500


class Absent(Enum):
    """The value of an expression that has none."""

    ABSENT = "absent"


ABSENT: Final = Absent.ABSENT

_TYPES: Final = {
    "STRING": Type.STRING,
    "INT": Type.INT,
    "UINT": Type.INT,
    "DOUBLE": Type.DOUBLE,
    "BOOL": Type.BOOL,
    "DURATION": Type.DURATION,
    "TIMESTAMP": Type.TIMESTAMP,
    "DYN": Type.DYN,
    "NULL": Type.NULL,
    "google.protobuf.Struct": Type.STRUCT,
}


@dataclass(frozen=True, slots=True, order=True)
class Read:
    """One place that an expression looks at: an attribute, and of a map one key; None: all of it."""

    attribute: str
    key: str | None = None


class Activation:
    """Attributes of one request, ready for any number of expressions."""

    __slots__ = ("native",)

    def __init__(self, bag: Mapping[str, Any]) -> None:
        """`bag`: root of each attribute -> nested mappings. What is not in there is absent."""
        self.native = library.new_activation({root: bag.get(root, _EMPTY) for root in ROOTS})


_EMPTY: Final[dict[str, Any]] = {}


@dataclass(frozen=True, slots=True)
class Expression:
    """One compiled expression. Equal texts are equal."""

    text: str
    type: Type = field(compare=False)
    phase: Phase = field(compare=False)  # when all that it reads is known
    reads: frozenset[Read] = field(compare=False)
    checked: bytes = field(compare=False, repr=False)  # google.api.expr.v1alpha1 CheckedExpr
    _native: Any = field(compare=False, repr=False)

    def evaluate(self, activation: Activation) -> Any:
        """Return the value; `ABSENT` where something that it needs is absent or cannot be worked out."""
        found = self._native.eval(activation.native)
        return ABSENT if found.type() == library.error_type() else _plain(found.value())

    def holds(self, activation: Activation) -> bool:
        """Tell whether a condition is true; what has no value is not."""
        return self._native.eval(activation.native).value() is True


def compile_expression(text: str, *, want: Type | None = None, phase: Phase = Phase.END) -> Expression:
    """Return the expression.

    `want`: the type it must have; what JSON brings (DYN) is taken for any. `phase`: what it may read.
    Raises: ExpressionError, with the place in the text.
    """
    if len(text) > MAX_CHARACTERS:
        raise ExpressionError(f"longer than {MAX_CHARACTERS} characters")
    if "\0" in text:
        raise ExpressionError("holds a zero byte")
    checked = library.check(text)
    found = _TYPES.get(checked.type)
    if found is None:
        found = _composite(checked.type)
    if found is None:
        raise ExpressionError(f"is {_shown(checked.type)}, which has no value of its own: name one of its attributes")
    if want is not None and found is not want and found is not Type.DYN:
        raise ExpressionError(f"must be {want.value}, is {found.value}")
    tree = _Tree(CheckedExpr.FromString(checked.message))
    for read in sorted(tree.reads, key=str):
        attribute = BY_NAME[read.attribute]
        if read.attribute.endswith(".headers") and read.key is not None and read.key != read.key.lower():
            raise ExpressionError(
                f"names of headers are in lower case here: {read.key.lower()!r}", *tree.place_of(read)
            )
        if attribute.phase > phase:
            known = {Phase.REQUEST: "once there is a request", Phase.END: "only when a request is over"}
            raise ExpressionError(f"{read.attribute} is known {known[attribute.phase]}", *tree.place_of(read))
    return Expression(
        text=text,
        type=found,
        phase=max((BY_NAME[read.attribute].phase for read in tree.reads), default=Phase.CONNECTION),
        reads=frozenset(tree.reads),
        checked=checked.message,
        _native=library.prepare(text),
    )


def _composite(kind: str) -> Type | None:
    if kind.startswith("LIST"):
        return Type.LIST
    if kind.startswith("MAP"):
        return Type.STRINGS if kind == "MAP<STRING, STRING>" else Type.STRUCT
    return None


def _shown(kind: str) -> str:
    return "a group of attributes" if kind.startswith(library.PACKAGE) else kind.lower()


def _plain(value: Any) -> Any:
    """Return a value without the library's own containers."""
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    if isinstance(value, library.value_type()):
        return _plain(value.value())
    if isinstance(value, Mapping) or hasattr(value, "items"):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if hasattr(value, "__iter__") and not isinstance(value, bytes):
        return [_plain(inner) for inner in value]
    return value


class _Tree:
    """What an expression reads, found in its tree. Raises `ExpressionError` for one that is too much work."""

    def __init__(self, checked: Any) -> None:
        self._positions = checked.source_info.positions
        self._lines = list(checked.source_info.line_offsets)
        self.reads: set[Read] = set()
        self._at: dict[Read, int] = {}
        self._nodes = 0
        self._walk(checked.expr, 0, frozenset())

    def place_of(self, read: Read) -> tuple[int, int]:
        """Return line and column where something is read."""
        offset = int(self._positions.get(self._at[read], 0))
        line = sum(1 for end in self._lines if end <= offset)
        start = self._lines[line - 1] if line else 0
        return line + 1, offset - start + 1

    def _walk(self, expr: Any, loops: int, bound: frozenset[str]) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise ExpressionError(f"has more than {MAX_NODES} parts")
        path = _path(expr, bound)
        if path is not None and self._reads(expr.id, path):
            return
        for child, inner, names in _children(expr, loops, bound):
            if inner > MAX_LOOPS:
                raise ExpressionError(f"goes over lists within lists more than {MAX_LOOPS} deep")
            self._walk(child, inner, names)

    def _reads(self, number: int, path: tuple[str | None, ...]) -> bool:
        """Note what a chain of names reads; False: it is none, its parts are to be looked at."""
        for length in range(len(path), 0, -1):
            parts = path[:length]
            if None in parts:
                continue
            attribute = BY_NAME.get(".".join(part for part in parts if part is not None))
            if attribute is not None:
                key = path[length] if length < len(path) and attribute.is_map else None
                read = Read(attribute.name, key)
                self.reads.add(read)
                self._at.setdefault(read, number)
                return True
        raise ExpressionError(_no_attribute(".".join(part or "[...]" for part in path)))


def _no_attribute(name: str) -> str:
    if name in GROUPS:
        return f"{name} is a group of attributes: name one of them"
    near = get_close_matches(name, BY_NAME, 1)
    return f"there is no attribute {name}" + (f"; did you mean {near[0]}?" if near else "")


def _path(expr: Any, bound: frozenset[str]) -> tuple[str | None, ...] | None:
    """Return the names of a chain that begins at a root: `a.b["c"]`; None for anything else.

    A part that is worked out (`a[b]`) ends the chain as None.
    """
    kind = expr.WhichOneof("expr_kind")
    if kind == "ident_expr":
        name = expr.ident_expr.name
        return (name,) if name in ROOTS and name not in bound else None
    if kind == "select_expr":
        above = _path(expr.select_expr.operand, bound)
        return None if above is None else (*above, expr.select_expr.field)
    if kind == "call_expr" and expr.call_expr.function in ("_[_]", "@in"):
        first, second = expr.call_expr.args
        whole, key = (first, second) if expr.call_expr.function == "_[_]" else (second, first)
        if key.WhichOneof("expr_kind") == "const_expr" and key.const_expr.WhichOneof("constant_kind") == "string_value":
            above = _path(whole, bound)
            # `x in a.b` of a list asks for a value and not for a key; the whole list is read either way.
            return None if above is None else (*above, key.const_expr.string_value)
    return None


def _children(expr: Any, loops: int, bound: frozenset[str]) -> Iterator[tuple[Any, int, frozenset[str]]]:
    """Yield what an expression is made of, with how many loops it is in and which names are its own."""
    match expr.WhichOneof("expr_kind"):
        case "select_expr":
            yield expr.select_expr.operand, loops, bound
        case "call_expr":
            if expr.call_expr.HasField("target"):
                yield expr.call_expr.target, loops, bound
            for argument in expr.call_expr.args:
                yield argument, loops, bound
        case "list_expr":
            for element in expr.list_expr.elements:
                yield element, loops, bound
        case "struct_expr":
            for entry in expr.struct_expr.entries:
                if entry.WhichOneof("key_kind") == "map_key":
                    yield entry.map_key, loops, bound
                yield entry.value, loops, bound
        case "comprehension_expr":
            loop = expr.comprehension_expr
            inner = bound | {loop.iter_var, loop.accu_var}
            yield loop.iter_range, loops, bound
            yield loop.accu_init, loops, bound
            for part in (loop.loop_condition, loop.loop_step, loop.result):
                yield part, loops + 1, inner
