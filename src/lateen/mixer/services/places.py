"""Attributes by name: a table of functions, of which only those are called that the loaded rules read.

In:  what a message knows, as functions of one view of it; which attributes are read.
Out: nested mappings, the root of each attribute first. A function that returns None leaves its attribute absent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Generic, Protocol, TypeVar

__all__ = ["ALWAYS", "Bag", "Filler", "Reads", "struct_to_python"]

V = TypeVar("V")
Bag = dict[str, Any]

# Decisions are remembered by whose they are, so these are known of every request.
ALWAYS: Final = ("source.principal", "connection.mtls")
MAX_DEPTH: Final = 32  # of values in tokens


class Read(Protocol):
    """One place that an expression reads, as `lateen.expr` tells it."""

    @property
    def attribute(self) -> str: ...
    @property
    def key(self) -> str | None: ...


Reads = Iterable[Read]


class Filler(Generic[V]):
    """Makes the attributes of one view: as few as possible, in one pass."""

    def __init__(
        self,
        plain: Mapping[str, Callable[[V], Any]],
        maps: Mapping[str, Callable[[V, frozenset[str] | None], Mapping[str, Any] | None]],
        reads: Reads,
    ) -> None:
        """`maps` are given the keys that are read; None: the whole map is."""
        keys: dict[str, set[str] | None] = {name: set() for name in ALWAYS}
        for read in reads:
            if read.attribute in maps and read.key is not None:
                wanted = keys.setdefault(read.attribute, set())
                if wanted is not None:
                    wanted.add(read.key)
            else:
                keys[read.attribute] = None
        self._steps: list[tuple[tuple[str, ...], str, Callable[[V], Any]]] = []
        for name in sorted(keys):
            *above, last = name.split(".")
            if name in plain:
                self._steps.append((tuple(above), last, plain[name]))
            elif name in maps:
                self._steps.append((tuple(above), last, _keyed(maps[name], keys[name])))

    def __call__(self, view: V) -> Bag:
        bag: Bag = {}
        for above, last, value_of in self._steps:
            value = value_of(view)
            if value is None:
                continue
            place = bag
            for part in above:
                inner = place.get(part)
                if inner is None:
                    inner = place[part] = {}
                place = inner
            place[last] = value
        return bag


def _keyed(
    value_of: Callable[[V, frozenset[str] | None], Mapping[str, Any] | None], keys: set[str] | None
) -> Callable[[V], Any]:
    wanted = None if keys is None else frozenset(keys)
    return lambda view: value_of(view, wanted)


def struct_to_python(value: Any, depth: int = 0) -> Any:
    """Return a `google.protobuf.Value` or `Struct` as plain values. Raises `ValueError` for one nested too deeply."""
    if depth > MAX_DEPTH:
        raise ValueError(f"a value is nested more than {MAX_DEPTH} deep")
    if hasattr(value, "fields"):
        return {name: struct_to_python(inner, depth + 1) for name, inner in value.fields.items()}
    match value.WhichOneof("kind"):
        case "struct_value":
            return struct_to_python(value.struct_value, depth + 1)
        case "list_value":
            return [struct_to_python(inner, depth + 1) for inner in value.list_value.values]
        case "null_value" | None:
            return None
        case kind:
            return getattr(value, kind)
