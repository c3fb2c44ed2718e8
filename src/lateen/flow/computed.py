"""Collections that functions make: `Derived`, one value a key on demand, and `Table`, all rows of a source at once.

Both hold memos: one run of the function for one key, with what it read. A memo is STALE when something it read has
changed; then its function runs again, and only if the outcome differs (by ==) do those who read it become STALE.
Collections have ranks above all that they read, and are worked off in that order: when a function runs, all that it
reads is final. Only a derived collection that reads itself needs more: see `_spread` and `_check`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from lateen.flow.errors import CycleError, MisuseError
from lateen.flow.keyed import Collection, Keyed
from lateen.flow.nodes import ABSENT, BUSY, CHECKING, CLEAN, FAILED, MAYBE, STALE, Cell, Memo, Node, same

if TYPE_CHECKING:
    from lateen.flow.graph import Graph
    from lateen.flow.read import Read

__all__ = ["Computed", "Derived", "Table"]

K = TypeVar("K")
V = TypeVar("V")
K2 = TypeVar("K2")
V2 = TypeVar("V2")
D = TypeVar("D")


class Computed(Collection):
    """Memos of one function, and the queue of those that must run again."""

    def __init__(self, graph: Graph, name: str, fn: Callable[[Read, Any], Any]) -> None:
        super().__init__(graph, name)  # of a table: that of `Keyed`
        self.fn = fn
        self.memos: dict[Any, Memo] = {}
        self.known: set[Collection] = set()  # collections read so far; their ranks are below this one's
        self.recursive = False  # reads itself
        self.dirty: list[Memo] = []
        self.set_rank(1)

    def enqueue(self, memo: Memo) -> None:
        if not self.dirty:
            self.graph.active[self] = None
        self.dirty.append(memo)

    def work(self) -> None:
        """Bring all queued memos up to date."""
        if self.recursive:
            self._spread()
        dirty = self.dirty
        while dirty:
            memo = dirty.pop()
            if memo.state == STALE and not memo.wanted():
                # All who read it will run anyway: they ask for it, or it is garbage when they have run.
                self.graph.loose.append(memo)
            elif memo.state != CLEAN:
                self.refresh(memo)
        self.graph.active.pop(self, None)

    def refresh(self, memo: Memo) -> None:
        """Bring one memo up to date. Raises `CycleError` when that is under way already."""
        if memo.state >= CHECKING:
            raise self.graph.cycle(memo)
        if memo.state == STALE or self._check(memo):
            self.compute(memo)

    def compute(self, memo: Memo) -> None:
        """Run the function for one memo; keep what it read, and the outcome if it differs.

        A function that raises leaves the old value; one that never had a value is FAILED, and reading it raises.
        """
        graph = self.graph
        read = graph.read
        outer = read.deps, read.known
        deps: dict[Node, None] = {}
        read.deps, read.known = deps, self.known
        old = memo.value
        memo.state = BUSY
        graph.stack.append(memo)
        self.recomputed += 1
        try:
            value = self.fn(read, memo.key)
            changed = old is FAILED or not same(old, value)
            error: Exception | None = None
        except Exception as exc:  # kept, told and raised to readers: see Graph.errors
            value, error = old, exc
            changed = False
        except BaseException:  # interrupted: to be done again
            self._interrupted(memo, STALE)
            raise
        finally:
            graph.stack.pop()
            read.deps, read.known = outer
        memo.state = CLEAN
        reads = tuple(deps)
        if graph.in_cycle and memo in graph.in_cycle:
            error = graph.in_cycle.pop(memo)
            reads = self._outside_circle(memo, reads)
        if error is not None:
            changed = graph.failed(self, memo.key, error) and old is FAILED
            value = old
        elif graph.errors_by_key:
            graph.succeeded(self, memo.key)
        if reads != memo.deps:
            memo.relink(reads, graph.loose)
        if changed:
            memo.value = value
            self.publish(memo, old)

    def publish(self, memo: Memo, old: Any) -> None:
        """Tell those who read this memo that its value has changed."""
        raise NotImplementedError

    def forget(self, memo: Memo) -> None:
        """Drop a memo: nothing is known about its key any more."""
        del self.memos[memo.key]
        memo.relink((), self.graph.loose)
        self.graph.succeeded(self, memo.key)
        self.graph.cyclic.pop(memo, None)

    def held(self) -> int:
        return len(self.memos)

    def _spread(self) -> None:
        """Mark MAYBE whatever reads a queued memo within this collection, however indirectly."""
        todo: list[Memo] = list(self.dirty)
        while todo:
            readers = todo.pop().dependents
            if readers is None:
                continue
            for memo in readers if isinstance(readers, dict) else (readers,):
                if memo.coll is self and memo.state == CLEAN:
                    memo.state = MAYBE
                    self.dirty.append(memo)
                    todo.append(memo)

    def _check(self, memo: Memo) -> bool:
        """Bring up to date what a MAYBE memo read, in the order it was read; tell whether it must run again.

        In that order, because a function that is given the same answers asks the same next question: what it would
        not ask again is never computed for it.
        """
        graph = self.graph
        memo.state = CHECKING
        graph.stack.append(memo)
        try:
            for dep in memo.deps:
                if dep.state != CLEAN and isinstance(dep, Memo):
                    dep.coll.refresh(dep)
                    if memo.state == STALE:
                        return True
        except CycleError as exc:
            graph.in_cycle[memo] = exc
        except BaseException:
            self._interrupted(memo, MAYBE)
            raise
        finally:
            graph.stack.pop()
        memo.state = CLEAN
        error = graph.in_cycle.pop(memo, None)
        if error is not None:
            memo.relink(self._outside_circle(memo, memo.deps), graph.loose)
            if graph.failed(self, memo.key, error) and memo.value is FAILED:
                self.publish(memo, FAILED)
        return False

    def _interrupted(self, memo: Memo, state: int) -> None:
        self.graph.in_cycle.pop(memo, None)
        memo.state = state
        self.enqueue(memo)

    def _outside_circle(self, memo: Memo, reads: tuple[Node, ...]) -> tuple[Node, ...]:
        # A circle of edges would keep itself alive. Without them the memos of the circle do not learn when it opens,
        # so they are tried again in every batch.
        self.graph.cyclic[memo] = None
        self.graph.loose += [dep for dep in reads if dep.coll is self]
        return tuple(dep for dep in reads if dep.coll is not self)


class Derived(Computed, Generic[K, V]):
    """Values of a pure function of a key: computed when asked for, kept while somebody live reads them."""

    def __init__(self, graph: Graph, name: str, fn: Callable[[Read, K], V]) -> None:
        super().__init__(graph, name, fn)
        self.cells = self.memos
        self.changed: dict[Memo, Any] = {}  # live ones, in this batch -> the value before it

    @overload
    def live(self, key: K) -> V: ...
    @overload
    def live(self, key: K, default: D) -> V | D: ...
    def live(self, key: K, default: Any = FAILED) -> Any:
        """Return the value, and keep it up to date until `release` was called as often; see `Graph.on_change`.

        If the function raises, so does this, and the key is not kept live. With a `default` that is returned instead
        and the key is live: its first value is told as a change from None.
        """
        memo = self._demand(key)
        if memo.value is FAILED:
            if default is FAILED:
                self.graph.loose.append(memo)
                raise self._raised(memo)
            memo.live += 1
            self.graph.rest()
            return default
        memo.live += 1
        self.graph.rest()
        return memo.value

    def release(self, key: K) -> None:
        """Take back one `live`. Raises `MisuseError` when there was none."""
        self.graph.guard(f"release {self.name}({key!r})")
        memo = self.memos.get(key)
        if memo is None or not memo.live:
            raise MisuseError(f"{self.name}({key!r}) is released more often than it was made live")
        memo.live -= 1
        if not memo.live:
            self.changed.pop(memo, None)
            self.graph.loose.append(memo)
            self.graph.rest()

    def peek(self, key: K) -> V:
        """Return the value now, without keeping it. Raises what the function raises."""
        memo = self._demand(key)
        self.graph.loose.append(memo)
        if memo.value is FAILED:
            raise self._raised(memo)
        value: V = memo.value
        self.graph.rest()
        return value

    def missing(self, key: K) -> Memo:
        memo = self.memos[key] = Memo(self, key)
        return memo

    def publish(self, memo: Memo, old: Any) -> None:
        memo.mark()
        if memo.live:
            self.changed.setdefault(memo, old)
            self.graph.changed[self] = None

    def sweep(self, node: Node) -> None:
        if isinstance(node, Memo) and not node.live and node.dependents is None and self.memos.get(node.key) is node:
            self.forget(node)

    def take_changes(self) -> list[tuple[K, V | None, V]]:
        """Return (key, old, new) of the live keys that differ since the last call, in order, and forget it."""
        changed, self.changed = self.changed, {}
        return [
            (memo.key, None if old is FAILED else old, memo.value)
            for memo, old in sorted(changed.items(), key=lambda item: item[0].key)
            if not same(old, memo.value)
        ]

    def _demand(self, key: K) -> Memo:
        self.graph.settle_for("ask for", self)
        memo = self.memos.get(key) or self.missing(key)
        if memo.state != CLEAN:
            self.refresh(memo)
        return memo

    def _raised(self, memo: Memo) -> Exception:
        error = self.graph.error_of(self, memo.key)
        self.graph.rest()
        return error


class Table(Computed, Keyed[K2, V2]):
    """Rows that a function makes from each row of a source: always all there, always up to date.

    If rows of two source keys yield the same key, the one of the smallest source key stands. If the rows of one source
    key yield a key twice, the last one stands.
    """

    eager = True

    def __init__(
        self,
        graph: Graph,
        name: str,
        source: Keyed[K, V],
        fn: Callable[[Read, K, V], Iterable[tuple[K2, V2]]],
    ) -> None:
        def rows_of(read: Read, key: Any) -> dict[K2, V2]:
            return dict(fn(read, key, source.cells[key].value))

        super().__init__(graph, name, rows_of)
        self.source: Keyed[Any, Any] = source
        self._rivals: dict[Any, list[Memo]] = {}  # memos that yield a key which another one's row has
        graph.meet(self, source)
        source.followers.append(self)
        for key, value in source.items():
            self.follow(key, value)
        graph.settle()

    def follow(self, key: Any, value: Any) -> None:
        memo = self.memos.get(key)
        if memo is None:
            memo = self.memos[key] = Memo(self, key)
            memo.value = {}
            memo.live = 1
            self.enqueue(memo)
        elif memo.state == CLEAN:
            memo.state = STALE
            self.enqueue(memo)

    def refresh(self, node: Node) -> None:
        if isinstance(node, Memo):
            cell = self.source.cells.get(node.key)
            if cell is not None and cell.value is not ABSENT:
                self.compute(node)
            else:
                old, node.value = node.value, {}
                self.publish(node, old)
                self.forget(node)

    def work(self) -> None:
        super().work()
        self.flush()

    def publish(self, memo: Memo, old: Any) -> None:
        new = memo.value
        for key in old:
            if key not in new:
                self._withdraw(key, memo)
        for key, value in new.items():
            cell = self.cells.get(key) or self.missing(key)
            if cell.owner is None or cell.owner is memo:
                cell.owner = memo
                self.put(key, value)
            elif key not in old:
                self._contest(cell, memo)

    def held(self) -> int:
        return len(self.memos) + len(self.cells)

    def _contest(self, cell: Cell, memo: Memo) -> None:
        owner = cell.owner
        rivals = self._rivals.setdefault(cell.key, [])
        if owner is not None and memo.key < owner.key:
            rivals.append(owner)
            cell.owner = memo
            self.put(cell.key, memo.value[cell.key])
        else:
            rivals.append(memo)

    def _withdraw(self, key: Any, memo: Memo) -> None:
        cell = self.cells[key]
        rivals = self._rivals.get(key)
        if cell.owner is not memo:
            if rivals is not None:
                rivals.remove(memo)
        elif rivals:
            cell.owner = min(rivals, key=lambda rival: rival.key)
            rivals.remove(cell.owner)
            self.put(key, cell.owner.value[key])
        else:
            cell.owner = None
            self.put(key, ABSENT)
        if rivals is not None and not rivals:
            del self._rivals[key]
