"""Slices over the incremental graph: what the xDS server holds, kept up to date change by change.

A *union* slice is made of parts (a host's clusters, a port's listener) that come and go; a *named* slice makes its
resources one by one, when somebody subscribes. Both know two states: what is *wanted*, which follows the graph, and
what is *served*. `staged` tells where the two differ; `take_delta` makes them one, and returns what that changed. In
between, what is wanted can be judged (`gate.py`), which also says what is served instead of what was refused.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping

from lateen.pilot.serving.marks import Keeper
from lateen.pilot.xds.source import Delta, Resource, Slice

__all__ = ["Choose", "NamedSlice", "UnionSlice", "as_wanted"]

# (name, wanted or None: gone, served now) -> what is to be served
Choose = Callable[[str, "Resource | None", "Resource | None"], "Resource | None"]


def as_wanted(name: str, wanted: Resource | None, served: Resource | None) -> Resource | None:
    """Serve what is wanted."""
    return wanted


class UnionSlice:
    """The resources of many parts, under one type.

    Several parts may bring a resource of one name (two services with one address): the smallest part's stands, whatever
    the order in which they came.
    """

    def __init__(self, type_url: str, keeper: Keeper | None = None) -> None:
        self.type_url = type_url
        self._keeper = keeper
        self._parts: dict[Hashable, tuple[Resource, ...]] = {}
        self._by_name: dict[str, dict[Hashable, Resource]] = {}
        self._wanted: dict[str, Resource] = {}
        self._served: dict[str, Resource] = {}
        self._touched: dict[str, None] = {}

    def all(self) -> Mapping[str, Resource]:
        return self._served

    def get(self, name: str) -> Resource | None:
        return self._served.get(name)

    def release(self, name: str) -> None:
        """Nothing to do: every part is kept up to date as long as the slice is."""

    def set_part(self, part: Hashable, resources: tuple[Resource, ...]) -> None:
        """Replace what one part brings. Parts of one slice have a total order."""
        if self._keeper is not None:
            self._keeper.put(self.type_url, part, resources)
        before = self._parts.get(part, ())
        if resources:
            self._parts[part] = resources
        else:
            self._parts.pop(part, None)
        gone = {resource.name for resource in before}
        for resource in resources:
            gone.discard(resource.name)
            self._by_name.setdefault(resource.name, {})[part] = resource
            self._settle(resource.name)
        for name in gone:
            del self._by_name[name][part]
            self._settle(name)

    def _settle(self, name: str) -> None:
        offers = self._by_name[name]
        if not offers:
            del self._by_name[name]
            self._wanted.pop(name, None)
            self._touched[name] = None
            return
        stands = offers[min(offers)] if len(offers) > 1 else next(iter(offers.values()))  # type: ignore[type-var]
        if self._wanted.get(name) != stands:
            self._wanted[name] = stands
            self._touched[name] = None

    def staged(self) -> Iterator[tuple[str, Resource | None]]:
        """Yield each name whose wanted resource (None: gone) may not be served yet."""
        return ((name, self._wanted.get(name)) for name in self._touched)

    def take_delta(self, choose: Choose = as_wanted) -> Delta | None:
        """Serve what is wanted, or what `choose` says instead. Return what that changed, None when nothing did."""
        touched, self._touched = self._touched, {}
        return _serve(self, touched, self._wanted.get, self._served, choose)


class NamedSlice:
    """Resources that are made when somebody subscribes to their names.

    `demand` makes one and keeps it up to date (None: there is no such resource); `forget` ends that. The owner calls
    `changed` with what became of it. `enter` is told of one that somebody waits for and returns what is served at once,
    None when it has to be judged first.
    """

    def __init__(
        self,
        type_url: str,
        demand: Callable[[str], Resource | None],
        forget: Callable[[str], None],
        keeper: Keeper | None = None,
        enter: Callable[[str, Resource], Resource | None] = lambda name, wanted: wanted,
    ) -> None:
        self.type_url = type_url
        self._keeper = keeper
        self._demand = demand
        self._forget = forget
        self._enter = enter
        self._held: dict[str, int] = {}
        self._wanted: dict[str, Resource] = {}
        self._served: dict[str, Resource] = {}
        self._touched: dict[str, None] = {}

    def all(self) -> Mapping[str, Resource]:
        return self._served

    def get(self, name: str) -> Resource | None:
        count = self._held.get(name, 0)
        self._held[name] = count + 1
        if not count:
            found = self._demand(name)
            if found is not None:
                self._note(name, found)
                self._wanted[name] = found
                served = self._enter(name, found)
                if served is not None:
                    self._served[name] = served
                if served != found:
                    self._touched[name] = None
        return self._served.get(name)

    def release(self, name: str) -> None:
        count = self._held[name] - 1
        if count:
            self._held[name] = count
            return
        del self._held[name]
        for state in (self._wanted, self._served, self._touched):
            state.pop(name, None)
        self._note(name, None)
        self._forget(name)

    def changed(self, name: str, resource: Resource | None) -> None:
        """Note that a held resource is another one now, or is gone."""
        if name not in self._held or self._wanted.get(name) == resource:
            return
        self._note(name, resource)
        if resource is None:
            self._wanted.pop(name, None)
        else:
            self._wanted[name] = resource
        self._touched[name] = None

    def staged(self) -> Iterator[tuple[str, Resource | None]]:
        """Yield each name whose wanted resource (None: gone) may not be served yet."""
        return ((name, self._wanted.get(name)) for name in self._touched)

    def take_delta(self, choose: Choose = as_wanted, names: Iterable[str] | None = None) -> Delta | None:
        """Serve what is wanted, or what `choose` says instead; of all names, or of `names` only."""
        if names is None:
            touched, self._touched = self._touched, {}
        else:
            touched = dict.fromkeys(names)
            for name in touched:
                self._touched.pop(name, None)
        return _serve(self, touched, self._wanted.get, self._served, choose)

    def _note(self, name: str, resource: Resource | None) -> None:
        if self._keeper is not None:
            self._keeper.put(self.type_url, name, resource)

    def drain(self) -> None:
        """Forget everything: the slice is used no more."""
        for name in list(self._held):
            self._forget(name)
        for state in (self._held, self._wanted, self._served, self._touched):
            state.clear()


def _serve(
    of: Slice,
    names: Mapping[str, None],
    wanted: Callable[[str], Resource | None],
    served: dict[str, Resource],
    choose: Choose,
) -> Delta | None:
    changed, removed = [], []
    for name in sorted(names):
        before = served.get(name)
        now = choose(name, wanted(name), before)
        if now is None:
            if before is not None:
                del served[name]
                removed.append(name)
        elif now != before:
            served[name] = now
            changed.append(now)
    return Delta(of, tuple(changed), tuple(removed)) if changed or removed else None
