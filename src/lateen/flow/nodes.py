"""Nodes of the dependency graph, and the two walks over their edges: link them, mark what a change reaches.

An edge goes from what was read (`node.dependents`) to who read it, and back (`memo.deps`, in order of first reading).
Half of all nodes have one dependent, so `dependents` is None, that one memo, or a dict used as an ordered set:
the order of work is then the same in every run.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from lateen.flow.computed import Computed
    from lateen.flow.keyed import Collection

__all__ = [
    "ABSENT",
    "BUSY",
    "CHECKING",
    "CLEAN",
    "FAILED",
    "MAYBE",
    "STALE",
    "Bucket",
    "Cell",
    "KeySet",
    "Memo",
    "Node",
    "same",
]


class _Mark:
    """A value that no user has."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


ABSENT: Final = _Mark("ABSENT")  # the key has no row; reading it is still tracked
FAILED: Final = _Mark("FAILED")  # the function raised and there is no older value to keep

# States of a memo. A read of anything but CLEAN brings it up to date first.
CLEAN: Final = 0
MAYBE: Final = 1  # something it reads, in its own collection, is not up to date; it may come out equal
STALE: Final = 2  # something it read has changed: its function must run again before anybody sees it
CHECKING: Final = 3  # on the stack: a MAYBE whose reads are being brought up to date
BUSY: Final = 4  # on the stack: its function runs


def same(old: Any, new: Any) -> bool:
    """Tell whether a row is unchanged. Rows that cannot be compared have changed."""
    try:
        return old is new or bool(old == new)
    except Exception:  # a value's own __eq__ failed; one such row must not stop the batch
        return False


class Node:
    """Anything that can be read: it knows who did."""

    __slots__ = ("coll", "dependents", "key")

    state: int = CLEAN  # only memos are ever anything else

    def __init__(self, coll: Collection, key: Any) -> None:
        self.coll = coll
        self.key = key
        self.dependents: Memo | dict[Memo, None] | None = None

    def mark(self) -> None:
        """Tell everybody who read this that it has changed; queue those who did not know yet."""
        dependents = self.dependents
        if dependents is None:
            return
        for memo in dependents if isinstance(dependents, dict) else (dependents,):
            state = memo.state
            if state == CLEAN:
                memo.state = STALE
                memo.coll.enqueue(memo)
            elif state in (MAYBE, CHECKING):  # queued already, or being looked at
                memo.state = STALE


class Cell(Node):
    """One row of an input or a table; `owner` is the table's memo that yielded it."""

    __slots__ = ("owner", "value")

    def __init__(self, coll: Collection, key: Any) -> None:
        self.coll = coll
        self.key = key
        self.dependents = None
        self.value: Any = ABSENT
        self.owner: Memo | None = None


class Bucket(Node):
    """The keys that an index files under one index key."""

    __slots__ = ("delta", "live", "members", "order", "sorted")

    def __init__(self, coll: Collection, key: Any) -> None:
        super().__init__(coll, key)
        self.members: dict[Any, None] = {}
        self.sorted = True  # whether `members` happens to be in order
        self.order: tuple[Any, ...] | None = ()
        self.live = 0
        self.delta: dict[Any, bool] = {}  # of the batch, net; True: added. Only kept while live

    def keys(self) -> tuple[Any, ...]:
        """Return the members in order; costs their number when they have changed since, otherwise nothing."""
        if self.order is None:
            if self.sorted:
                self.order = tuple(self.members)
            else:
                self.order = tuple(sorted(self.members))
                # In order, the next sort finds one long run and a short tail, and only merges them.
                self.members = dict.fromkeys(self.order)
                self.sorted = True
        return self.order

    def add(self, key: Any) -> None:
        self.members[key] = None
        self.sorted = False
        self._changed(key, True)

    def remove(self, key: Any) -> None:
        del self.members[key]
        self._changed(key, False)

    def _changed(self, key: Any, added: bool) -> None:
        self.order = None
        if self.live:
            if self.delta.get(key) is (not added):
                del self.delta[key]  # there and back again within one batch
            else:
                self.delta[key] = added
        self.mark()


class KeySet(Node):
    """Which keys a collection has, whatever their values."""

    __slots__ = ("order",)

    def __init__(self, coll: Collection) -> None:
        super().__init__(coll, None)
        self.order: tuple[Any, ...] | None = None

    def keys(self, cells: Iterable[Cell]) -> tuple[Any, ...]:
        if self.order is None:
            self.order = tuple(sorted([cell.key for cell in cells if cell.value is not ABSENT]))
        return self.order


class Memo(Node):
    """One run of a function for one key: what it read and what came out."""

    __slots__ = ("deps", "live", "state", "value")
    coll: Computed

    def __init__(self, coll: Computed, key: Any) -> None:
        self.coll = coll
        self.key = key
        self.dependents = None
        self.value: Any = FAILED
        self.deps: tuple[Node, ...] = ()
        self.live = 0
        self.state = STALE

    def __repr__(self) -> str:
        return f"{self.coll.name}({self.key!r})"

    def relink(self, deps: tuple[Node, ...], loose: list[Node]) -> None:
        """Make `deps` what this memo reads; add to `loose` what nobody reads any more."""
        old = self.deps
        self.deps = deps
        if old:
            kept = set(deps)
            for dep in old:
                if dep not in kept:
                    readers = dep.dependents
                    if isinstance(readers, dict):
                        readers.pop(self, None)
                        if readers:
                            continue
                    dep.dependents = None
                    loose.append(dep)
        for dep in deps:
            readers = dep.dependents
            if readers is None:
                dep.dependents = self
            elif isinstance(readers, dict):
                readers[self] = None
            elif readers is not self:
                dep.dependents = {readers: None, self: None}

    def wanted(self) -> bool:
        """Tell whether anybody who will not run anyway depends on this memo's being up to date."""
        if self.live:
            return True
        readers = self.dependents
        if readers is None:
            return False
        if isinstance(readers, dict):
            return any(memo.state != STALE for memo in readers)
        return readers.state != STALE
