"""Collections that hold rows by key: inputs, set from outside, and indexes over them.

Rows change first and are told later: a collection notes the value each touched key had, and `flush` compares, so a
row that goes there and back again within a batch was never changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, overload

from lateen.flow.errors import MisuseError
from lateen.flow.nodes import ABSENT, Bucket, Cell, KeySet, Node, same

if TYPE_CHECKING:
    from lateen.flow.graph import Graph

__all__ = ["Collection", "Follower", "Index", "Input", "Keyed"]

K = TypeVar("K")
V = TypeVar("V")
IK = TypeVar("IK")
D = TypeVar("D")


class Collection:
    """What every collection has: a name, a rank above all that it reads, and the collections that read it."""

    eager = False  # of equal rank, tables go first: they tell which outputs are still wanted

    def __init__(self, graph: Graph, name: str) -> None:
        graph.guard(f"declare {name!r}")
        if name in graph.collections:
            raise MisuseError(f"collection {name!r} is declared twice, a name of its own wanted")
        self.graph = graph
        self.name = name
        self.readers: dict[Collection, None] = {}
        self.recomputed = 0  # runs of this collection's function, ever
        self._number = len(graph.collections)
        self.rank = 0
        self.order: tuple[int, bool, int] = (0, False, 0)
        self.set_rank(0)
        graph.collections[name] = self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    def set_rank(self, rank: int) -> None:
        """Place this collection, and push whatever reads it above it. There are no circles, see `Graph.meet`."""
        self.rank = rank
        self.order = (rank, not self.eager, self._number)
        for reader in self.readers:
            if reader.rank <= rank:
                reader.set_rank(rank + 1)

    def work(self) -> None:
        """Bring what is queued up to date. Only computed collections have a queue."""

    def sweep(self, node: Node) -> None:
        """Drop `node` if nobody reads it and nothing is in it."""

    def held(self) -> int:
        """Count the nodes kept."""
        return 0


class Follower(Protocol):
    """Is told every row of its source that was added, changed or removed."""

    def follow(self, key: Any, value: Any) -> None: ...


class Keyed(Collection, Generic[K, V]):
    """Rows by key. A key that was read and has no row keeps an empty cell, so that its coming is noticed."""

    def __init__(self, graph: Graph, name: str) -> None:
        super().__init__(graph, name)
        self.cells: dict[Any, Cell] = {}
        self.followers: list[Follower] = []
        self.touched: dict[Any, Any] = {}  # key -> its value at the last flush
        self.keyset: KeySet | None = None

    def items(self) -> list[tuple[K, V]]:
        """Return all rows in key order; costs their number."""
        self.graph.settle_for("items of", self)
        return [(key, cell.value) for key, cell in sorted(self.cells.items()) if cell.value is not ABSENT]

    @overload
    def get(self, key: K) -> V | None: ...
    @overload
    def get(self, key: K, default: D) -> V | D: ...
    def get(self, key: K, default: Any = None) -> Any:
        """Return one row as of now, for callers outside; functions read through their `Read`."""
        self.graph.settle_for("get from", self)
        cell = self.cells.get(key)
        return default if cell is None or cell.value is ABSENT else cell.value

    def missing(self, key: K) -> Cell:
        cell = self.cells[key] = Cell(self, key)
        return cell

    def refresh(self, node: Node) -> None:
        """Rows are never stale by themselves."""

    def key_node(self) -> KeySet:
        if self.keyset is None:
            self.keyset = KeySet(self)
        return self.keyset

    def put(self, key: Any, value: Any) -> None:
        """Write one row (ABSENT: none); it is told by the next flush."""
        cell = self.cells.get(key) or self.missing(key)
        self.touched.setdefault(key, cell.value)
        cell.value = value

    def flush(self) -> None:
        """Tell the net changes: to indexes and tables over this collection, and to all who read a changed row."""
        touched, self.touched = self.touched, {}
        members_changed = False
        for key, old in touched.items():
            cell = self.cells[key]
            new = cell.value
            if old is ABSENT or new is ABSENT:
                if new is ABSENT:
                    self.graph.loose.append(cell)
                    if old is ABSENT:
                        continue
                members_changed = True
            elif same(old, new):
                continue
            cell.mark()
            for follower in self.followers:
                follower.follow(key, new)
        if members_changed and self.keyset is not None:
            self.keyset.order = None
            self.keyset.mark()

    def sweep(self, node: Node) -> None:
        if isinstance(node, Cell) and node.value is ABSENT and node.dependents is None:
            self.cells.pop(node.key, None)

    def held(self) -> int:
        return len(self.cells)


class Input(Keyed[K, V]):
    """A keyed collection set from outside. Outside a batch each change is a batch of its own."""

    def set(self, key: K, value: V) -> None:
        """Write one row. A value equal to the old one takes its place, and is no change."""
        self.graph.guard(f"set {self.name}({key!r})")
        self.put(key, value)
        self.graph.input_touched(self)

    def delete(self, key: K) -> None:
        """Remove one row; one that is not there is no change."""
        self.graph.guard(f"delete {self.name}({key!r})")
        if key in self.cells:
            self.put(key, ABSENT)
            self.graph.input_touched(self)


class Index(Collection, Generic[IK, K]):
    """The keys of a collection by something their rows say. Kept up to date with each change, at the cost of it."""

    def __init__(self, graph: Graph, name: str, source: Keyed[K, Any], fn: Callable[[K, Any], Iterable[IK]]) -> None:
        super().__init__(graph, name)
        self.source = source
        self._fn = fn
        self._filed: dict[Any, tuple[Any, ...]] = {}  # source key -> index keys
        self._buckets: dict[Any, Bucket] = {}
        self.changed: dict[Bucket, None] = {}  # live ones, in this batch
        graph.meet(self, source)
        source.followers.append(self)
        for key, value in source.items():
            self.follow(key, value)

    def get(self, index_key: IK) -> tuple[K, ...]:
        """Return the keys under `index_key` in order, for callers outside; functions use `Read.lookup`."""
        self.graph.settle_for("look up in", self)
        bucket = self._buckets.get(index_key)
        return bucket.keys() if bucket is not None else ()

    def live(self, index_key: IK) -> tuple[K, ...]:
        """Return the keys under `index_key` in order, and from now on tell what joins and leaves.

        Each call needs one `release`. Changes are told by `Graph.on_index_change`.
        """
        self.graph.settle_for("look up in", self)
        bucket = self.bucket(index_key)
        bucket.live += 1
        return bucket.keys()

    def release(self, index_key: IK) -> None:
        """Take back one `live`. Raises `MisuseError` when there was none."""
        self.graph.guard(f"release {self.name}({index_key!r})")
        bucket = self._buckets.get(index_key)
        if bucket is None or not bucket.live:
            raise MisuseError(f"{self.name}({index_key!r}) is released more often than it was made live")
        bucket.live -= 1
        if not bucket.live:
            bucket.delta.clear()
            self.graph.loose.append(bucket)
            self.graph.rest()

    def bucket(self, index_key: IK) -> Bucket:
        bucket = self._buckets.get(index_key)
        if bucket is None:
            bucket = self._buckets[index_key] = Bucket(self, index_key)
        return bucket

    def follow(self, key: Any, value: Any) -> None:
        """File one row of the source anew. If the function raises, the row stays filed as it was."""
        old = self._filed.get(key, ())
        new: tuple[Any, ...] = ()
        if value is not ABSENT:
            self.recomputed += 1
            self.graph.stack.append(self)
            try:
                new = tuple(dict.fromkeys(self._fn(key, value)))
            except Exception as exc:  # one bad row must not stop the others; it is told by Graph.errors
                self.graph.failed(self, key, exc)
                return
            finally:
                self.graph.stack.pop()
        self.graph.succeeded(self, key)
        if new:
            self._filed[key] = new
        else:
            self._filed.pop(key, None)
        if new == old:
            return
        for index_key in old:
            if index_key not in new:
                bucket = self._buckets[index_key]
                bucket.remove(key)
                self._note(bucket)
                if not bucket.members:
                    self.graph.loose.append(bucket)
        for index_key in new:
            if index_key not in old:
                bucket = self.bucket(index_key)
                bucket.add(key)
                self._note(bucket)

    def sweep(self, node: Node) -> None:
        if isinstance(node, Bucket) and not node.members and not node.live and node.dependents is None:
            self._buckets.pop(node.key, None)

    def held(self) -> int:
        return len(self._buckets)

    def take_changes(self) -> list[tuple[IK, tuple[K, ...], tuple[K, ...]]]:
        """Return what joined and left the live buckets since the last call, in order, and forget it."""
        changed, self.changed = self.changed, {}
        told = []
        for bucket in sorted(changed, key=lambda b: b.key):
            delta, bucket.delta = bucket.delta, {}
            if delta:
                added = tuple(sorted(key for key, is_in in delta.items() if is_in))
                removed = tuple(sorted(key for key, is_in in delta.items() if not is_in))
                told.append((bucket.key, added, removed))
        return told

    def _note(self, bucket: Bucket) -> None:
        if bucket.live:
            self.changed[bucket] = None
            self.graph.changed[self] = None
