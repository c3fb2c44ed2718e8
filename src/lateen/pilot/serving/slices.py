"""Slices over the incremental graph: what the xDS server holds, kept up to date change by change.

A *union* slice is made of parts (a host's clusters, a port's listener) that come and go; a *named* slice makes its
resources one by one, when somebody subscribes. Both gather what a batch did until `take_delta` is called.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping

from lateen.pilot.serving.marks import Keeper
from lateen.pilot.xds.source import Delta, Resource, Slice

__all__ = ["NamedSlice", "UnionSlice"]


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
        self._all: dict[str, Resource] = {}
        self._touched: dict[str, Resource | None] = {}  # name -> what stood before the batch

    def all(self) -> Mapping[str, Resource]:
        return self._all

    def get(self, name: str) -> Resource | None:
        return self._all.get(name)

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
        before = self._all.get(name)
        offers = self._by_name[name]
        if not offers:
            del self._by_name[name]
            self._touched.setdefault(name, before)
            self._all.pop(name, None)
            return
        stands = offers[min(offers)] if len(offers) > 1 else next(iter(offers.values()))  # type: ignore[type-var]
        if before != stands:
            self._touched.setdefault(name, before)
            self._all[name] = stands

    def take_delta(self) -> Delta | None:
        """Return what changed since the last call, None when nothing did in the end."""
        touched, self._touched = self._touched, {}
        return _delta(self, touched, self._all)


class NamedSlice:
    """Resources that are made when somebody subscribes to their names.

    `demand` makes one and keeps it up to date (None: there is no such resource); `forget` ends that. The owner calls
    `changed` with what became of it.
    """

    def __init__(
        self,
        type_url: str,
        demand: Callable[[str], Resource | None],
        forget: Callable[[str], None],
        keeper: Keeper | None = None,
    ) -> None:
        self.type_url = type_url
        self._keeper = keeper
        self._demand = demand
        self._forget = forget
        self._held: dict[str, int] = {}
        self._now: dict[str, Resource] = {}
        self._touched: dict[str, Resource | None] = {}

    def all(self) -> Mapping[str, Resource]:
        return self._now

    def get(self, name: str) -> Resource | None:
        count = self._held.get(name, 0)
        if not count:
            found = self._demand(name)
            if found is not None:
                self._now[name] = found
                self._note(name, found)
        self._held[name] = count + 1
        return self._now.get(name)

    def release(self, name: str) -> None:
        count = self._held[name] - 1
        if count:
            self._held[name] = count
            return
        del self._held[name]
        self._now.pop(name, None)
        self._touched.pop(name, None)
        self._note(name, None)
        self._forget(name)

    def changed(self, name: str, resource: Resource | None) -> None:
        """Note that a held resource is another one now, or is gone."""
        before = self._now.get(name)
        if name not in self._held or before == resource:
            return
        self._touched.setdefault(name, before)
        self._note(name, resource)
        if resource is None:
            self._now.pop(name, None)
        else:
            self._now[name] = resource

    def take_delta(self) -> Delta | None:
        """Return what changed since the last call, None when nothing did in the end."""
        touched, self._touched = self._touched, {}
        return _delta(self, touched, self._now)

    def _note(self, name: str, resource: Resource | None) -> None:
        if self._keeper is not None:
            self._keeper.put(self.type_url, name, resource)

    def drain(self) -> None:
        """Forget everything: the slice is used no more."""
        for name in list(self._held):
            self._forget(name)
        self._held.clear()
        self._now.clear()


def _delta(of: Slice, before: Mapping[str, Resource | None], now: Mapping[str, Resource]) -> Delta | None:
    changed, removed = [], []
    for name in sorted(before):
        resource = now.get(name)
        if resource is None:
            if before[name] is not None:
                removed.append(name)
        elif resource != before[name]:
            changed.append(resource)
    return Delta(of, tuple(changed), tuple(removed)) if changed or removed else None
