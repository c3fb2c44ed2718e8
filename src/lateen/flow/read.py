"""What a function is handed to read with: every answer is noted, and a later change of it runs the function again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, overload

from lateen.flow.errors import MisuseError
from lateen.flow.nodes import ABSENT, FAILED

if TYPE_CHECKING:
    from lateen.flow.computed import Derived
    from lateen.flow.graph import Graph
    from lateen.flow.keyed import Collection, Index, Keyed
    from lateen.flow.nodes import Node

__all__ = ["Read"]

K = TypeVar("K")
V = TypeVar("V")
IK = TypeVar("IK")
D = TypeVar("D")


class Read:
    """One a graph; it notes for whichever function runs innermost. Nothing can be read with it from outside."""

    __slots__ = ("_graph", "deps", "known")

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.deps: dict[Node, None] | None = None
        self.known: set[Collection] = set()

    @overload
    def get(self, collection: Derived[K, V], key: K, default: object = None) -> V: ...
    @overload
    def get(self, collection: Keyed[K, V], key: K) -> V | None: ...
    @overload
    def get(self, collection: Keyed[K, V], key: K, default: D) -> V | D: ...
    def get(self, collection: Any, key: Any, default: Any = None) -> Any:
        """Return the value of one key, `default` where an input or table has no such row.

        A derived value is computed if need be, so `default` is never wanted there; if its function raised and it has no
        older value, this raises the same.
        """
        deps = self.deps
        if deps is None:
            raise self._outside(collection)
        if collection not in self.known:
            self._graph.meet_reader(collection)
        node = collection.cells.get(key)
        if node is None:
            node = collection.missing(key)
        deps[node] = None
        if node.state:
            collection.refresh(node)
        value = node.value
        if value is ABSENT:
            return default
        if value is FAILED:
            raise self._graph.error_of(collection, key)
        return value

    __call__ = get

    def lookup(self, index: Index[IK, K], index_key: IK) -> tuple[K, ...]:
        """Return the keys that `index` files under `index_key`, in order; noted for that index key alone."""
        deps = self.deps
        if deps is None:
            raise self._outside(index)
        if index not in self.known:
            self._graph.meet_reader(index)
        bucket = index.bucket(index_key)
        deps[bucket] = None
        return bucket.keys()

    def keys(self, collection: Keyed[K, V]) -> tuple[K, ...]:
        """Return all keys in order. Runs the function again whenever one comes or goes: for the rare global view."""
        deps = self.deps
        if deps is None:
            raise self._outside(collection)
        if collection not in self.known:
            self._graph.meet_reader(collection)
        node = collection.key_node()
        deps[node] = None
        return node.keys(collection.cells.values())

    def _outside(self, collection: Collection) -> MisuseError:
        return MisuseError(f"{collection.name!r} is read with a Read outside the function that it was handed to")
