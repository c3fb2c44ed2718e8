"""The graph: declares collections, gathers input changes into batches, runs what they reach, tells what came out.

One batch: flush the inputs (indexes follow, readers become STALE), work off the computed collections in order of rank,
drop what nobody reads any more, tell the watchers. Cost follows the change: whatever did not read something that
changed is not looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from types import TracebackType
from typing import Any, TypeVar

from lateen.flow.computed import Computed, Derived, Table
from lateen.flow.errors import CycleError, MisuseError
from lateen.flow.keyed import Collection, Index, Input, Keyed
from lateen.flow.nodes import ABSENT, STALE, Bucket, Cell, KeySet, Memo, Node
from lateen.flow.read import Read

__all__ = ["Batch", "Changes", "Graph", "Stats"]

K = TypeVar("K")
V = TypeVar("V")
K2 = TypeVar("K2")
V2 = TypeVar("V2")
IK = TypeVar("IK")

ErrorChange = tuple[Collection, Any, Exception | None]  # None: works again, or is gone


@dataclass(frozen=True, slots=True)
class Changes:
    """All that one batch did to what is live. Lists are in key order and never empty."""

    outputs: Mapping[Derived[Any, Any], list[tuple[Any, Any, Any]]]  # (key, old, new)
    indexes: Mapping[Index[Any, Any], list[tuple[Any, tuple[Any, ...], tuple[Any, ...]]]]  # (index key, added, removed)
    errors: list[ErrorChange]


class Batch:
    """`with graph.batch():` makes one change of many. May be nested; the outermost counts.

    If the body raises, what it had set until then is still committed: inputs and outputs always agree.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def __enter__(self) -> None:
        self._graph.guard("open a batch")
        self._graph.depth += 1

    def __exit__(
        self, _type: type[BaseException] | None, _exc: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self._graph.depth -= 1
        if not self._graph.depth:
            self._graph.commit()


class Stats:
    """Counters, by collection name; names with nothing to count are left out."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    @property
    def recomputed(self) -> Counter[str]:
        """How often each collection's function has run since the last `reset`."""
        return Counter({name: coll.recomputed for name, coll in self._graph.collections.items() if coll.recomputed})

    @property
    def held(self) -> Counter[str]:
        """How many nodes are kept now: rows, memos, index keys; also empty ones that somebody reads."""
        return Counter({name: coll.held() for name, coll in self._graph.collections.items() if coll.held()})

    def reset(self) -> None:
        for coll in self._graph.collections.values():
            coll.recomputed = 0


class Graph:
    """One incremental computation. Owned by one thread, in practice the event loop.

    Keys are hashable and, within one collection, have a total order. Values are compared by ==, and never change.
    Functions are pure but for their `Read`.
    """

    def __init__(self) -> None:
        self.collections: dict[str, Collection] = {}
        self.stats = Stats(self)
        self.read = Read(self)
        self.stack: list[Any] = []  # memos (or an index) whose functions run, innermost last
        self.active: dict[Computed, None] = {}  # with a queue
        self.loose: list[Node] = []  # perhaps garbage, looked at when all is up to date
        self.changed: dict[Derived[Any, Any] | Index[Any, Any], None] = {}  # with live changes to tell
        self.depth = 0  # of open batches
        self.in_cycle: dict[Memo, CycleError] = {}  # found to be in a circle, while still on the stack
        self.cyclic: dict[Memo, None] = {}  # failed by a circle: tried again in each batch
        self.errors_by_key: dict[tuple[Collection, Any], tuple[Exception, TracebackType | None]] = {}
        self._touched: dict[Input[Any, Any], None] = {}
        self._error_changes: dict[tuple[Collection, Any], None] = {}
        self._told_errors: dict[tuple[Collection, Any], Exception] = {}
        self._on_change: dict[Collection, list[Callable[[Any], None]]] = {}
        self._on_error: list[Callable[[list[ErrorChange]], None]] = []
        self._watchers: list[Callable[[Changes], None]] = []
        self._batch = Batch(self)

    # -- declaring

    def input(self, name: str) -> Input[Any, Any]:
        """Declare a collection that is set from outside. Annotate what it is assigned to: `Input[str, Service]`."""
        return Input(self, name)

    def derive(self, name: str, fn: Callable[[Read, K], V]) -> Derived[K, V]:
        """Declare values computed on demand: `fn(read, key)`."""
        return Derived(self, name, fn)

    def table(
        self, name: str, source: Keyed[K, V], fn: Callable[[Read, K, V], Iterable[tuple[K2, V2]]]
    ) -> Table[K2, V2]:
        """Declare rows made from each row of `source`: `fn(read, key, value)` yields (key, value) pairs."""
        return Table(self, name, source, fn)

    def index(self, name: str, source: Keyed[K, V], fn: Callable[[K, V], Iterable[IK]]) -> Index[IK, K]:
        """Declare an index: `fn(key, value)` yields the index keys to file `key` under. It reads nothing else."""
        return Index(self, name, source, fn)

    # -- changing and watching

    def batch(self) -> Batch:
        """Return a context: input changes inside become one change when it ends."""
        return self._batch

    def on_change(self, derived: Derived[K, V], callback: Callable[[list[tuple[K, V | None, V]]], None]) -> None:
        """Call back once a batch with (key, old, new) of the live keys of `derived` that differ, in key order.

        Callbacks may ask for and release outputs; what they set becomes the next batch. One that raises does not keep
        others from being called; its error is raised to who ended the batch.
        """
        self._on_change.setdefault(derived, []).append(callback)

    def on_index_change(
        self, index: Index[IK, K], callback: Callable[[list[tuple[IK, tuple[K, ...], tuple[K, ...]]]], None]
    ) -> None:
        """Call back once a batch with (index key, added, removed) of the live index keys that differ, in order."""
        self._on_change.setdefault(index, []).append(callback)

    def on_error(self, callback: Callable[[list[ErrorChange]], None]) -> None:
        """Call back once a batch with (collection, key, error or None) of what began or ceased to fail."""
        self._on_error.append(callback)

    def watch(self, callback: Callable[[Changes], None]) -> None:
        """Call back once a batch, last, with all that it did to what is live."""
        self._watchers.append(callback)

    @property
    def errors(self) -> dict[tuple[Collection, Any], Exception]:
        """Return what fails now, by collection and key (a table's or index's: the source key).

        A failing output keeps the value it had; without one, reading it raises the same error. It is tried again when
        something that it read changes.
        """
        return {where: exc for where, (exc, _) in self.errors_by_key.items()}

    def provenance(self, derived: Derived[K, Any], key: K) -> frozenset[tuple[Input[Any, Any], Any]]:
        """Return every input key that shaped one output, however indirectly.

        A key that was read and has no row is among them. Of an index key or a key set: the keys that are in it.
        """
        self.settle_for("ask for", derived)
        memo = derived.memos.get(key) or derived.missing(key)
        if memo.state:
            derived.refresh(memo)
        found: set[tuple[Input[Any, Any], Any]] = set()
        seen: set[Node] = {memo}
        todo: list[Node] = [memo]
        while todo:
            node = todo.pop()
            coll = node.coll
            if isinstance(coll, Input) and isinstance(node, Cell):
                found.add((coll, node.key))
                continue
            for dep in _behind(node):
                if dep not in seen:
                    seen.add(dep)
                    todo.append(dep)
        self.loose.append(memo)
        self.rest()
        return frozenset(found)

    # -- the engine's own, for collections

    def guard(self, what: str) -> None:
        """Refuse what a running function must not do."""
        if self.stack:
            raise MisuseError(f"cannot {what} while {self.stack[-1]!r} is computed: functions only read, by their Read")

    def input_touched(self, source: Input[Any, Any]) -> None:
        self._touched[source] = None
        if not self.depth:
            self.commit()

    def settle_for(self, what: str, coll: Collection) -> None:
        """Bring everything up to date before a question from outside; inside a batch too."""
        if self.stack:
            self.guard(f"{what} {coll.name!r}")
        if self._touched or self.active:
            self.settle()

    def settle(self) -> None:
        """Apply all input changes and run what they reach. Tells nobody yet."""
        touched, self._touched = self._touched, {}
        for source in touched:
            source.flush()
        if self.cyclic and touched:
            cyclic, self.cyclic = self.cyclic, {}
            for memo in cyclic:
                if not memo.state:
                    memo.state = STALE
                    memo.coll.enqueue(memo)
        self.drain()

    def drain(self, upto: int | None = None) -> None:
        """Work off the queues, lowest rank first, those above rank `upto` excepted."""
        active = self.active
        while active:
            coll = min(active, key=attrgetter("order"))
            if upto is not None and coll.rank > upto:
                return
            coll.work()

    def commit(self) -> None:
        """End a batch: run, drop garbage, tell. What callbacks set is the next batch, until nothing is left."""
        self.depth += 1  # callbacks gather
        problems: list[Exception] = []
        try:
            while self._touched or self.active or self.loose or self.changed or self._error_changes:
                self.settle()
                self._sweep()
                self._tell(problems)
        finally:
            self.depth -= 1
        if problems:
            raise problems[0] if len(problems) == 1 else ExceptionGroup("several watchers failed", problems)

    def rest(self) -> None:
        """After a single question from outside: drop garbage, tell new errors."""
        if not self.depth:
            self._sweep()
            if self._error_changes:
                self.commit()

    def meet_reader(self, target: Collection) -> None:
        """Place the collection whose function runs above `target`, which it reads for the first time."""
        reader = self.stack[-1]
        coll: Computed = reader.coll
        if target is coll:
            if isinstance(coll, Table):
                raise CycleError(f"table {coll.name!r} reads itself")
            coll.recursive = True
        else:
            self.meet(coll, target)
            # Its rank may have been below that of what is still to be worked off.
            self.drain(target.rank)
        coll.known.add(target)

    def meet(self, reader: Collection, target: Collection) -> None:
        """Note that `reader` reads `target`, and rank it above. Raises `CycleError` when it is the other way round."""
        path = _path(reader, target)
        if path is not None:
            names = [coll.name for coll in path]
            raise CycleError(
                f"collections read each other in a circle: {' -> '.join([*reversed(names), names[-1]])}; "
                f"only a derived collection may read itself"
            )
        target.readers[reader] = None
        if reader.rank <= target.rank:
            reader.set_rank(target.rank + 1)

    def cycle(self, memo: Memo) -> CycleError:
        """Return the error for reading `memo` while it is computed; all on the way are in the circle."""
        chain: list[Memo] = self.stack[self.stack.index(memo) :]
        first = min(range(len(chain)), key=lambda i: chain[i].key)  # named the same wherever it was entered
        named = [repr(link) for link in [*chain[first:], *chain[:first], chain[first]]]
        error = CycleError(f"reads go in a circle: {' -> '.join(named)}")
        for link in chain:
            self.in_cycle[link] = error
        return error

    def failed(self, coll: Collection, key: Any, error: Exception) -> bool:
        """Keep an error; return whether it is another one than before."""
        where = (coll, key)
        known = self.errors_by_key.get(where)
        if known is not None and type(known[0]) is type(error) and known[0].args == error.args:
            return False
        if not getattr(error, "__notes__", None):
            error.add_note(f"in {coll.name}({key!r})")
        self.errors_by_key[where] = (error, error.__traceback__)
        self._error_changes[where] = None
        return True

    def succeeded(self, coll: Collection, key: Any) -> None:
        where = (coll, key)
        if self.errors_by_key.pop(where, None) is not None:
            self._error_changes[where] = None

    def error_of(self, coll: Collection, key: Any) -> Exception:
        """Return a kept error, to raise it: with its first traceback, which would grow with each time otherwise."""
        error, traceback = self.errors_by_key[coll, key]
        return error.with_traceback(traceback)

    def _error_change(self, where: tuple[Collection, Any]) -> Iterable[ErrorChange]:
        """Yield what is new about one output's error since watchers were told: one change or none."""
        known = self.errors_by_key.get(where)
        error = known[0] if known is not None else None
        if error is self._told_errors.get(where):
            return
        if error is None:
            del self._told_errors[where]
        else:
            self._told_errors[where] = error
        yield (*where, error)

    def _sweep(self) -> None:
        while self.loose:
            node = self.loose.pop()
            node.coll.sweep(node)

    def _tell(self, problems: list[Exception]) -> None:
        changed, self.changed = self.changed, {}
        failing, self._error_changes = self._error_changes, {}
        outputs: dict[Derived[Any, Any], list[tuple[Any, Any, Any]]] = {}
        indexes: dict[Index[Any, Any], list[tuple[Any, tuple[Any, ...], tuple[Any, ...]]]] = {}
        for coll in sorted(changed, key=attrgetter("order")):
            try:
                told = coll.take_changes()
            except (
                TypeError
            ) as exc:  # keys without an order, a mistake in the program; the others are told all the same
                exc.add_note(f"sorting what changed in {coll!r}: its keys need a total order")
                problems.append(exc)
                continue
            if told:
                if isinstance(coll, Derived):
                    outputs[coll] = told
                elif isinstance(coll, Index):
                    indexes[coll] = told  # type: ignore[assignment]  # mypy does not narrow `told` with `coll`
        errors = [change for where in sorted(failing, key=_in_order) for change in self._error_change(where)]
        calls: list[tuple[Callable[[Any], None], Any]] = [
            (callback, told) for coll, told in (outputs | indexes).items() for callback in self._on_change.get(coll, ())
        ]
        if errors:
            calls += [(callback, errors) for callback in self._on_error]
        if outputs or indexes or errors:
            calls += [(callback, Changes(outputs, indexes, errors)) for callback in self._watchers]
        for callback, told in calls:
            try:
                callback(told)
            except Exception as exc:  # the others must hear of the batch too; raised by commit
                problems.append(exc)


def _in_order(where: tuple[Collection, Any]) -> tuple[tuple[int, bool, int], Any]:
    return where[0].order, where[1]


def _behind(node: Node) -> Iterable[Node]:
    """Return the nodes that `node` came from."""
    if isinstance(node, Memo):
        source = getattr(node.coll, "source", None)  # a table's memo also comes from its source's row
        return node.deps if source is None else (*node.deps, source.cells[node.key])
    if isinstance(node, Bucket):
        cells = node.coll.source.cells  # type: ignore[attr-defined]  # a bucket's collection is an index
        return [cells[key] for key in node.members]
    if isinstance(node, KeySet):
        return [cell for cell in node.coll.cells.values() if cell.value is not ABSENT]  # type: ignore[attr-defined]
    if isinstance(node, Cell) and node.owner is not None:
        return (node.owner,)
    return ()


def _path(start: Collection, end: Collection) -> list[Collection] | None:
    """Return a way from `start` over its readers to `end`, both included."""
    came: dict[Collection, Collection | None] = {start: None}
    todo = [start]
    while todo:
        coll = todo.pop()
        if coll is end:
            path: list[Collection] = []
            at: Collection | None = coll
            while at is not None:
                path.append(at)
                at = came[at]
            return path[::-1]
        for reader in coll.readers:
            if reader not in came:
                came[reader] = coll
                todo.append(reader)
    return None
